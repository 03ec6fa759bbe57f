"""The nearest centroid of every row, made in tiles by `Similarity`; and kept, with bounds, while centroids move.

`compare` compares every row with every centroid. `follow` gives the same labels, and compares a row anew only where the
triangle inequality does not rule out that another centroid became nearer: few rows, once a clustering has settled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax.similarity import Similarity, Term
from contrastive_jax.similarity.monoids import Monoid
from contrastive_jax.similarity.tiles import tile_size


class Centroids(NamedTuple):
  """Places that rows are assigned to."""

  z: Float[Array, 'k d']
  owner: Int[np.ndarray, ' k']  # the group whose rows it serves
  spherical: bool  # the nearest is that of the largest cosine: rows and centroids are of unit norm, or zero

  def offset(self) -> Float[Array, ' k']:
    """What is added to an inner product, so that the largest is of the nearest: the row's own square is left out."""
    return jnp.zeros_like(self.z[:, 0]) if self.spherical else -jnp.square(self.z).sum(1) / 2


# --- the two largest of a row of a tile: as `similarity.top(2)`, but no sort, and one position alone ---

_NOWHERE = jnp.iinfo(jnp.int32).max
_PART = 64  # columns at most, among which the place of the largest is then sought


def _rows_first(values, keep, axis):
  return jnp.moveaxis(values if keep is None else jnp.where(keep, values, -jnp.inf), axis, 1)


def _largest_but(at, values):
  return jnp.where(jnp.arange(values.shape[1]) == at[:, None], -jnp.inf, values).max(1)


def _lift(values, keep, axis, others, bound):
  kept = _rows_first(values, keep, axis)
  rows, columns = kept.shape
  part = max(size for size in range(1, _PART + 1) if columns % size == 0)
  # One sweep for the largest of every part; then only the first part that holds the largest of all is looked at again.
  parts = kept.reshape(rows, columns // part, part)
  of_part = parts.max(2)
  first = of_part.argmax(1)
  found = jnp.take_along_axis(parts, first[:, None, None], 1)[:, 0]
  best, place = found.max(1), found.argmax(1)
  where = jnp.where(best > -jnp.inf, others.position[first * part + place], _NOWHERE)
  return best, where, jnp.maximum(_largest_but(first, of_part), _largest_but(place, found))


def _merge(a, b):
  better = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
  best, where = (jnp.where(better, y, x) for x, y in zip(a[:2], b[:2], strict=True))
  return best, where, jnp.maximum(jnp.minimum(a[0], b[0]), jnp.maximum(a[2], b[2]))


def _least(n, dtype):
  return jnp.full(n, -jnp.inf, dtype)


# The first place of the largest value, -1 if there is none, and the largest value of any other place.
_TWO_LARGEST = Monoid(
  'two largest',
  init=lambda n, dtype: (_least(n, dtype), jnp.full(n, _NOWHERE, jnp.int32), _least(n, dtype)),
  lift=_lift,
  merge=_merge,
  finish=lambda state: (jnp.where(state[1] == _NOWHERE, -1, state[1]), state[2]),
  pull=None,
)
_LARGEST = Monoid(
  'largest',
  init=_least,
  lift=lambda values, keep, axis, others, bound: _rows_first(values, keep, axis).max(1),
  merge=jnp.maximum,
  finish=lambda state: state,
  pull=None,
)


class Known(NamedTuple):
  """The nearest centroid of each row."""

  labels: Int[Array, ' n']  # of equals the first; -1 where none serves the row's group
  others: Float[Array, ' n']  # no other centroid of its group is nearer than this


def nothing(n: int) -> Known:
  """Before any comparison."""
  return Known(jnp.full(n, -1, jnp.int32), _least(n, jnp.float32))


def compare(x: Float[Array, 'n d'], groups: Int[Array, ' n'] | None, centroids: Centroids) -> Known:
  """Compares every row with every centroid of its group."""
  label, other = _reduced(_TWO_LARGEST, x, groups, centroids)
  return Known(label, _distances(x, other, centroids.spherical))


def _reduced(monoid: Monoid, x, groups, centroids: Centroids, chosen=None, labels=None):
  """A statistic of each row over the inner products with centroids of its group, all or those chosen but its own."""
  rows, columns = {'z': x}, {'z': centroids.z, 'offset': centroids.offset()}
  if groups is not None:
    rows['group'], columns['group'] = groups, jnp.asarray(centroids.owner)
  if chosen is not None:
    columns = {name: each[chosen] for name, each in columns.items()}
    rows['label'], columns['label'] = labels, chosen

  def over(pair):
    of_group = True if groups is None else pair.anchor['group'] == pair.other['group']
    return of_group if chosen is None else of_group & (pair.anchor['label'] != pair.other['label'])

  value = Term(monoid, lambda pair: pair.dot + pair.other['offset'], over if len(rows) > 1 else None)
  return Similarity(rows, columns).reduce([value])[0][0]


# --- bounds ---

_BLOCKS = 8  # equal parts of the centroids: of how many all distances are made is chosen anew each time
_COST = 1.4  # of making them, over that of the same share of the rows compared anew; measured
_LOGITS = 2**20  # at most, of the rows that are compared anew at once


def follow(x, groups: Int[Array, ' n'] | None, known: Known, before: Centroids, now: Centroids) -> Known:
  r"""The labels that `compare` finds for centroids that have moved, from what was known of where they were.

  A row keeps its centroid c if that stays nearer than any other can be:

  .. math:: \lVert x - c \rVert < \min\bigl(\ell - \theta, \; \min_{j \in M} \lVert x - c_j \rVert \bigr)

  where no other centroid was nearer than l, M are those that moved the furthest and theta is the longest move of the
  rest. How many are in M is chosen by what the comparisons will cost. All other rows are compared with every centroid.
  Distances count as equal where their products may have been rounded to either order.

  Source: Hamerly, Making k-means even faster, 2010, where M is empty.
  """
  terms, float32 = 4 * (x.shape[1] + 8), jnp.finfo(jnp.float32)  # of a sum of products, generously
  rounding, vanished = terms * float(float32.eps), terms * float(float32.tiny)
  margin = rounding * (_squares(x, now.spherical) + jnp.square(now.z).sum(1).max()) + vanished
  own = jnp.sqrt(_apart(x, now.z[known.labels], now.spherical) + margin)
  own = jnp.where(known.labels < 0, 0, own)
  moves = jnp.sqrt(_apart(now.z, before.z, now.spherical) + vanished) * (1 + rounding)
  order = jnp.argsort(-moves)
  width = -(-len(order) // _BLOCKS)
  longest = jnp.append(moves[order[::width]], 0)  # of the rest, by the number of blocks in M
  unsure = ((known.others - own)[:, None] <= longest).mean(0)
  blocks = jnp.argmin(unsure + _COST * jnp.arange(len(longest)) * width / len(order))
  others = jnp.nextafter(known.others - longest[blocks], -jnp.inf)

  def block(i, others):
    chosen = order[jnp.minimum(i * width + jnp.arange(width), len(order) - 1)]
    product = _reduced(_LARGEST, x, groups, now, chosen, known.labels)
    return jnp.minimum(others, _distances(x, product, now.spherical))

  others = jax.lax.fori_loop(0, blocks, block, others)
  # Not `others <= own`: what is no number is compared.
  return _compared_anew(x, groups, Known(known.labels, others), ~(others > own), now)


def _squares(x, spherical: bool):
  return jnp.ones_like(x[:, 0]) if spherical else jnp.square(x).sum(1)


def _apart(a, b, spherical: bool):
  """Squared distances of rows; with `spherical` 2 - 2 cos, for which zero vectors are at right angles to all."""
  squares = jnp.square(a - b).sum(1)
  return squares + sum((each == 0).all(1).astype(squares.dtype) for each in (a, b)) if spherical else squares


def _distances(x, products, spherical: bool):
  """Of rows from centroids, of their inner products with the offset; infinite where there is no centroid."""
  square = _squares(x, spherical) * (2 if spherical else 1)
  return jnp.sqrt(jnp.maximum(square - 2 * products, 0))


def _compared_anew(x, groups, known: Known, which: Bool[Array, ' n'], centroids: Centroids) -> Known:
  """With every centroid, some rows."""
  size = tile_size(len(x), max(1, min(len(x), _LOGITS // len(centroids.z))))
  rows = jnp.nonzero(which, size=-(-len(x) // size) * size, fill_value=len(x))[0]

  def step(i, known):
    at = jax.lax.dynamic_slice(rows, (i * size,), (size,))  # places beyond the last row read that, and write nothing
    found = compare(x[at], None if groups is None else groups[at], centroids)
    return jax.tree.map(lambda all, new: all.at[at].set(new, mode='drop'), known, found)

  return jax.lax.fori_loop(0, -(-which.sum() // size), step, known)
