"""What `distance=` means: the rows that travel, and the distance of a pair from the inner product of its rows."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.similarity import Pair, dot
from contrastive_jax.similarity.products import check_precision, similarities
from contrastive_jax.types import Refusal, nearest


class Distance(NamedTuple):
  """A distance that is a function of one inner product.

  Attributes:
    rows: embeddings `[n, d]` and the precision of the products -> the rows of a `Similarity`.
    value: the distance of the candidate from the anchor, of one pair of such rows.
  """

  rows: Callable[[Float[Array, 'n d'], str | None], dict[str, Array]]
  value: Callable[[Pair], Float[Array, '']]


def _products(x: Float[Array, 'n d'], y: Float[Array, 'n d'], precision: str | None) -> Float[Array, ' n']:
  # The products of the pairs themselves: where these are reduced, a row must still be at distance 0 from its like.
  precision = check_precision(precision)
  return jax.vmap(lambda a, b: similarities(a[None], b[None], precision)[0, 0])(x, y)


def _with_squares(z, precision):
  return {'z': z, 'square': _products(z, z, precision)}


def _centred(z, precision):
  return _with_squares(z - z.mean(-1, keepdims=True), precision)


def _squared(pair: Pair):
  # Rounding could make it negative.
  return jnp.maximum(pair.anchor['square'] + pair.other['square'] - 2 * pair.dot, 0)


def _euclidean(pair: Pair):
  norms = pair.anchor['square'] + pair.other['square']
  square = norms - 2 * pair.dot
  # So near that the difference is rounding, and that the root would have a gradient of any size: they coincide.
  apart = square > 8 * jnp.finfo(square.dtype).eps * norms
  return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)


def _noise_to_signal(pair: Pair):
  return _squared(pair) / (pair.anchor['square'] + 1e-12)


_DISTANCES: dict[str, Distance] = {
  'cosine': Distance(lambda z, precision: {'z': inputs.unit(z)}, lambda pair: 1 - pair.dot),
  'dot': Distance(lambda z, precision: {'z': z}, lambda pair: -pair.dot),
  'euclidean': Distance(_with_squares, _euclidean),
  'squared_euclidean': Distance(_with_squares, _squared),
  'snr': Distance(_centred, _noise_to_signal),
}


def named(name: str) -> Distance:
  r"""The distance of this name, of anchor a and candidate b of any norm.

  'cosine' :math:`1 - \cos(a, b)`; 'dot' :math:`-a^\top b`; 'euclidean' :math:`\lVert a - b \rVert`;
  'squared_euclidean'; 'snr' :math:`\mathrm{Var}(b - a) / \mathrm{Var}(a)`, variances over the features of one row
  (signal-to-noise ratio, Yuan et al., 2019), which is no symmetric function.

  'euclidean' takes for coincident, at distance 0 and without gradient, what is nearer than float32 can tell from an
  inner product: about a thousandth of the norms.

  Raises:
    Refusal: an unknown name.
  """
  if name not in _DISTANCES:
    raise Refusal(f"unknown distance '{name}'{nearest(str(name), _DISTANCES)}")
  return _DISTANCES[name]


def closeness(name: str) -> Callable[[Pair], Float[Array, '']]:
  """The negative distance of this name as the value of a term; of 'dot' the inner product itself."""
  value = named(name).value
  return dot if name == 'dot' else lambda pair: -value(pair)


def by_position(
  name: str, rows: dict[str, Array], others: dict[str, Array], precision: str | None
) -> Float[Array, ' n']:
  """Distance of each of the rows, as `Distance.rows` makes them, from the other of its position."""
  entries = [{k: v for k, v in side.items() if k != 'z'} for side in (rows, others)]
  return jax.vmap(lambda *pair: named(name).value(Pair(*pair)))(_products(rows['z'], others['z'], precision), *entries)
