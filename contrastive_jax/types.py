"""Names shared by every layer: arrays, the batch contract, refusals.

The batch contract (every field leads with the instance axis b):

=========================  =====================  ==================================================
field                      type                   meaning
=========================  =====================  ==================================================
raw fields of the source   e.g. image uint8       what the data source delivers; of these one is in `INPUTS`
``view_0 ... view_{V-1}``  float32 [b, ...]       made on the device from the raw fields
``small_0 ...``            float32 [b, ...]       small views, where config.data.num_small_views is not 0
``box_0 ... box_{V-1}``    float32 [b, 4]         where each view lies in the image, x1, y1, x2, y2 as shares of its
                                                  sides; x1 > x2 is mirrored; where the views tell
``id``                     int32 [b]              instance, for losses that compare ids; -1 equals none
``label``                  int32 [b]              class, where the source has one; -1 is unknown
``target``                 float32 [b, k]         numbers to tell: for evaluations, and losses of regression
``caption``                int32 [b, k, l]        tokens of captions, where the source has them; 0 is padding
``caption_mask``           bool [b, k]            False is no such caption
``concept``                int32 [b]              what captioned images are of; variants of one thing share it
``index``                  int32 [b]              row of the data set
``mask``                   bool [b]               False is padding
=========================  =====================  ==================================================
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Batch = Mapping[str, Array]
Features = Any  # a pytree whose leaves lead with the instance axis
Params = Any
State = Any
Metrics = dict[str, Array]

# Fields of a batch that hold views start with one of these.
VIEW, SMALL_VIEW = 'view_', 'small_'
BOX = 'box_'  # and what says where views were cut
# Raw fields that views are made of, of which a source has one: uint8 [b, h, w, c] of an image, float32 [b, t, f] of a
# series, float32 [b, f] of a vector.
INPUTS = ('image', 'series', 'vector')


class Refusal(ValueError):
  """Input that cannot be used: one line that names what was given and what is needed.

  The command line prints it and ends with exit code 2; libraries can catch it as ValueError.
  """


class Texts(NamedTuple):
  """The captions of a split, embedded; slot k of every example, a language say."""

  projection: Array | np.ndarray  # [n, k, p] unit norm; zero where there is no caption
  mask: np.ndarray  # [n, k] bool
  slots: tuple[str, ...]  # names of the k


class Embedded(NamedTuple):
  """One split of a data set, embedded; rows in data set order, without padding."""

  features: Array | np.ndarray  # [n, d] backbone output, before the projection head: what probes use
  projection: Array | np.ndarray  # [n, p] unit-norm output of the projection head: what the loss sees
  label: np.ndarray  # [n] int32, -1 where unknown
  index: np.ndarray  # type: ignore[assignment]  # [n] int32, row of the data set; hides tuple.index
  texts: Texts | None = None  # of captioned images
  concept: np.ndarray | None = None  # [n] int32, of captioned images
  target: np.ndarray | None = None  # [n, k] float32, numbers to tell, where the source has some


def input_of(fields: Iterable[str]) -> str:
  """Which of a batch's raw fields views are made of."""
  return next(name for name in INPUTS if name in fields)


def nearest(name: str, known: Iterable[str]) -> str:
  """Ends a refusal: the nearest valid spelling if there is one, and what is known."""
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  hint = f"; did you mean '{close[0]}'?" if close else ''
  return f'{hint} (known: {", ".join(known)})'
