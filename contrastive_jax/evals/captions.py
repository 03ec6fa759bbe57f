"""What evaluators of images and captions share: the captions of a split, and when two scores are equal."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int

from contrastive_jax.evals import evaluator
from contrastive_jax.types import Embedded, Refusal, Texts

# Cosines of unit rows that differ by less may differ by the rounding of their products alone.
TIE = 1e-6


def fetch(tree):
  """What there is one number a row of, on the host of every process."""

  def one(x):
    # What other processes hold a part of; the rest would be gathered once for each of them.
    whole = not isinstance(x, jax.Array) or x.is_fully_addressable
    return jax.device_get(x) if whole else multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(one, tree)


def texts_of(embedded: Embedded, split: str, what: str) -> Texts:
  """The captions of an embedded split, on the host.

  Raises:
    Refusal: there are none, or some are not finite.
  """
  texts = embedded.texts
  if texts is None or not np.asarray(texts.mask).any():
    raise Refusal(f"the {what} evaluator needs captions, but split '{split}' has none, or the method embeds none")
  rows = np.asarray(fetch(texts.projection), np.float32)
  if not np.isfinite(rows).all():
    raise Refusal(f"the captions of split '{split}' contain values that are not finite")
  return Texts(rows, np.asarray(texts.mask, bool), texts.slots)


def slot_of(texts: Texts, slot: int) -> Float[Array, 'n p']:
  """The embedded captions of one slot, unit norm, on the device."""
  return evaluator.unit(jax.device_put(np.ascontiguousarray(texts.projection[:, slot])))


def first_of(texts: Texts, slot: int | None = None) -> tuple[Float[Array, 'm p'], Int[np.ndarray, ' m']]:
  """The first caption of each row that has one, or that of a slot, unit norm, on the device; and these rows."""
  mask = texts.mask if slot is None else texts.mask & (np.arange(texts.mask.shape[1]) == slot)
  rows = np.flatnonzero(mask.any(1))
  return evaluator.unit(jax.device_put(np.asarray(texts.projection)[rows, mask[rows].argmax(1)])), rows
