"""What an evaluator is, and the checks that all of them share.

An evaluator sees embeddings and labels, never parameters, methods, meshes or configs, so the same one measures a
trained encoder, a random encoder and raw pixels. Arrays may be NumPy's or sharded over the rows of a mesh of automatic
axes: everything of the size of a data set stays where it is, and only statistics come back to the host.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from contrastive_jax import losses
from contrastive_jax.types import Embedded, Refusal, nearest

REPRESENTATIONS = ('features', 'projection')


class Embed(Protocol):
  """What an evaluator is given."""

  label_names: tuple[str, ...]  # of the data's classes; empty where they have none

  def __call__(self, split: str, view: int | None = None) -> Embedded:
    """A split ('train' or 'test'); view None is the plain image, 0, 1, ... are augmented views."""
    ...

  def texts(self, strings: Sequence[str]) -> Float[Array, 'n p'] | Float[np.ndarray, 'n p']:
    """Any strings through the text tower, unit norm.

    Raises:
      Refusal: there is no text tower.
    """
    ...


unit = jax.jit(losses.unit)


class Evaluator(NamedTuple):
  """`run(embed)` returns metrics by name.

  The module that makes it explains the names in `GLOSSARY`, and in `MORE_IS_BETTER` lists those that say which of two
  encoders is the better one.
  """

  run: Callable[[Embed], dict[str, float]]


def check_representation(representation: str):
  """Refuses anything but 'features' (before the projection head) and 'projection' (what the loss sees)."""
  if representation not in REPRESENTATIONS:
    raise Refusal(f"unknown representation '{representation}'{nearest(str(representation), REPRESENTATIONS)}")


def check_seed(seed: int):
  """Refuses a negative seed, which NumPy's generators do not take."""
  if seed < 0:
    raise Refusal(f'seed must be at least 0, but it is {seed}')


@jax.jit
def _finite(x: Float[Array, 'n d']):
  return jnp.isfinite(x).all()


def rows(embedded: Embedded, representation: str, split: str) -> Float[Array, 'n d']:
  """One representation of an embedded split, on the device.

  Raises:
    Refusal: an empty split, or embeddings that are not finite.
  """
  x = getattr(embedded, representation)
  x = x if isinstance(x, jax.Array) else jax.device_put(np.asarray(x, np.float32))
  if x.ndim != 2 or 0 in x.shape:
    raise Refusal(f"the {representation} of split '{split}' must be a non-empty [n, d], but they are {x.shape}")
  if not jax.device_get(_finite(x)):
    raise Refusal(f"the {representation} of split '{split}' contain values that are not finite")
  return x


def labels(embedded: Embedded, split: str, evaluator: str) -> Int[np.ndarray, ' n']:
  """The labels of an embedded split, -1 where unknown.

  Raises:
    Refusal: no row has a label.
  """
  label = np.asarray(embedded.label)
  if not (label >= 0).any():
    raise Refusal(f"the {evaluator} evaluator needs labels, but no row of split '{split}' has one")
  return label
