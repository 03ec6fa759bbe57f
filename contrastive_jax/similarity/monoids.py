"""Monoids over columns: how the values of one anchor's pairs become one statistic.

A monoid reduces one tile (`lift`), joins the states of two tiles (`merge`, associative, with `init` as unit),
turns the joined state into the statistic (`finish`), and, given the finished statistic and its cotangent, makes the
cotangent of one tile of values (`pull`), so that a backward pass needs only the O(n) statistics and never the tiles.

Tiles are `[r, c]`; `axis` is the axis reduced away (1: anchors are the rows, 0: anchors are the columns). `keep` is the
set, a boolean tile, or None for everything. `others` are the tile's candidates along `axis`.
`lift` and `finish` are also differentiable by JAX itself, which is how the dense fold uses them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax.similarity.products import contract

Tile = Float[Array, 'r c']
Keep = Bool[Array, 'r c'] | None


class Others(NamedTuple):
  """The candidates of a tile."""

  position: Int[Array, ' c']
  z: Float[Array, 'c d'] | None = None  # only `expectation` reads it


class Monoid(NamedTuple):
  """The five functions of the module's docstring, and the name under which compiled reductions are cached."""

  name: str
  init: Callable[[int, Any], Any]  # (n, dtype) -> state
  lift: Callable[..., Any]  # (values, keep, axis, others, bound) -> state
  merge: Callable[[Any, Any], Any]
  finish: Callable[[Any], Any]
  # (values, keep, axis, others, state, cotangent of the statistic, bound) -> cotangent of the values
  pull: Callable[..., Tile] | None


def _select(keep: Keep, values: Tile, other: float) -> Tile:
  return values if keep is None else jnp.where(keep, values, jnp.asarray(other, values.dtype))


def _count(values: Tile, keep: Keep, axis: int) -> Float[Array, ' n']:
  ones = jnp.ones_like(values) if keep is None else keep.astype(values.dtype)
  return ones.sum(axis)


# --- sums ---


def _sum_pull(values, keep, axis, others, state, cotangent, bound):
  return _select(keep, jnp.broadcast_to(jnp.expand_dims(cotangent, axis), values.shape), 0)


SUM = Monoid(
  'sum',
  init=lambda n, dtype: jnp.zeros(n, dtype),
  lift=lambda values, keep, axis, others, bound: _select(keep, values, 0).sum(axis),
  merge=lambda a, b: a + b,
  finish=lambda state: state,
  pull=_sum_pull,
)


def _mean_finish(state):
  total, count = state
  return total / jnp.maximum(count, 1)


def _mean_pull(values, keep, axis, others, state, cotangent, bound):
  return _sum_pull(values, keep, axis, others, None, cotangent / jnp.maximum(state[1], 1), bound)


# The mean of an empty set is 0.
MEAN = Monoid(
  'mean',
  init=lambda n, dtype: (jnp.zeros(n, dtype), jnp.zeros(n, dtype)),
  lift=lambda values, keep, axis, others, bound: (_select(keep, values, 0).sum(axis), _count(values, keep, axis)),
  merge=lambda a, b: (a[0] + b[0], a[1] + b[1]),
  finish=_mean_finish,
  pull=_mean_pull,
)

# --- log-sum-exp: state (offset, sum of exponentials above the offset) ---


def _finite(x):
  # An offset of -inf (empty set) would turn the differences below into nan.
  return jnp.where(jnp.isneginf(x), jnp.zeros_like(x), x)


def _exponentials(values, keep, axis, bound):
  """(offset of every anchor, exponentials above it with zeros outside the set, their sums)."""
  if bound is None:
    offset = jax.lax.stop_gradient(_select(keep, values, -jnp.inf).max(axis))
  else:
    # All anchors share one offset that no value exceeds, so the row and the column statistics of a tile use the same
    # exponentials and XLA computes them once.
    offset = jnp.full(values.shape[1 - axis], bound, values.dtype)
  # The exponent is selected before the exponential as well: outside the set it could overflow, and inf * 0 is nan.
  shifted = values - (jnp.expand_dims(_finite(offset), axis) if bound is None else bound)
  kept = _select(keep, jnp.exp(_select(keep, shifted, 0) if bound is None else shifted), 0)
  total = kept.sum(axis)
  # An empty set must not lend its offset to a merge: other devices' tiles may have lower bounds.
  return (offset if bound is None else jnp.where(total == 0, -jnp.inf, offset)), kept, total


def _logsumexp_lift(values, keep, axis, others, bound):
  offset, _, total = _exponentials(values, keep, axis, bound)
  return offset, total


def _to_common_offset(a, b):
  """The offset of two joined states, and what the sums of each are multiplied by."""
  offset = jnp.maximum(a[0], b[0])
  # A side of offset -inf is empty; exp(-inf - offset) = 0 drops it, but -inf - -inf is nan.
  return offset, [jnp.exp(jnp.where(jnp.isneginf(m), -jnp.inf, m - _finite(offset))) for m in (a[0], b[0])]


def _logsumexp_merge(a, b):
  offset, (of_a, of_b) = _to_common_offset(a, b)
  return offset, of_a * a[1] + of_b * b[1]


def _logsumexp_finish(state):
  offset, total = state
  some = total != 0  # not `> 0`: a nan must stay a nan
  return jnp.where(some, _finite(offset) + jnp.log(jnp.where(some, total, 1)), -jnp.inf)


def _logsumexp_pull(values, keep, axis, others, state, cotangent, bound):
  result = _logsumexp_finish(state)
  some = ~jnp.isneginf(result)
  if bound is None:
    shares = jnp.exp(_select(keep, values - jnp.expand_dims(_finite(result), axis), -jnp.inf))
    weight = jnp.where(some, cotangent, 0)
  else:
    shares = _select(keep, jnp.exp(values - bound), 0)
    # Beyond the clip the tile has no member: a result so far below its bound comes from another device's tiles.
    weight = jnp.where(some, cotangent * jnp.exp(jnp.minimum(bound - _finite(result), 80)), 0)
  return shares * jnp.expand_dims(weight, axis)


# The log-sum-exp of an empty set is -inf, with zero gradient.
LOGSUMEXP = Monoid(
  'logsumexp',
  init=lambda n, dtype: (jnp.full(n, -jnp.inf, dtype), jnp.zeros(n, dtype)),
  lift=_logsumexp_lift,
  merge=_logsumexp_merge,
  finish=_logsumexp_finish,
  pull=_logsumexp_pull,
)


def expectation(width: int, precision: str) -> Monoid:
  """Log-sum-exp, and each anchor's mean candidate under its softmax, `([n], [n, width])`: its gradient in the anchor.

  Made in the pass of the values, it spares the backward pass where candidates have no gradient. It has none itself.
  """

  def lift(values, keep, axis, others, bound):
    offset, kept, total = _exponentials(values, keep, axis, bound)
    return offset, total, contract(kept, others.z, (axis, 0), precision)

  def merge(a, b):
    offset, (of_a, of_b) = _to_common_offset(a, b)
    return offset, of_a * a[1] + of_b * b[1], of_a[:, None] * a[2] + of_b[:, None] * b[2]

  def finish(state):
    total = state[1][:, None]
    return _logsumexp_finish(state[:2]), state[2] / jnp.where(total == 0, 1, total)

  return Monoid(
    'expectation',
    init=lambda n, dtype: (*LOGSUMEXP.init(n, dtype), jnp.zeros((n, width), dtype)),
    lift=lift,
    merge=merge,
    finish=finish,
    pull=None,
  )


# --- extremes: state (value, position of its column). A backward pass knows the column by its position: the values that
# it makes again may be rounded otherwise. Among equal values the candidate that comes first wins. ---

_NOWHERE = jnp.iinfo(jnp.int32).max


def _extreme(name: str, sign: int) -> Monoid:
  def lift(values, keep, axis, others, bound):
    kept = _select(keep, sign * values, -jnp.inf)
    best = kept.max(axis)  # -inf of an empty set, and nan wherever a nan is: neither equals a value of the set
    hits = kept == jnp.expand_dims(best, axis)
    hits = hits if keep is None else hits & keep
    positions = jnp.expand_dims(others.position, 1 - axis)
    first = jnp.where(hits, positions, _NOWHERE).min(axis)
    chosen = hits & (positions == jnp.expand_dims(first, axis))
    none = sign * jax.lax.stop_gradient(best)
    return jnp.where(first == _NOWHERE, none, jnp.where(chosen, values, 0).sum(axis)), first

  def merge(a, b):
    better = (sign * a[0] > sign * b[0]) | ((a[0] == b[0]) & (a[1] < b[1])) | jnp.isnan(a[0])
    return tuple(jnp.where(better, *pair) for pair in zip(a, b, strict=True))

  def pull(values, keep, axis, others, state, cotangent, bound):
    chosen = jnp.expand_dims(others.position, 1 - axis) == jnp.expand_dims(state[1], axis)
    # An instance that pads a tile has the position of the one that it repeats.
    return _select(keep, jnp.where(chosen, jnp.expand_dims(cotangent, axis), 0), 0)

  return Monoid(
    name,
    init=lambda n, dtype: (jnp.full(n, -sign * jnp.inf, dtype), jnp.full(n, _NOWHERE, jnp.int32)),
    lift=lift,
    merge=merge,
    finish=lambda state: state[0],
    pull=pull,
  )


# The maximum of an empty set is -inf, the minimum +inf, with zero gradient.
MAX = _extreme('max', 1)
MIN = _extreme('min', -1)

# --- the k largest, with the positions of their columns ---


def topk(k: int) -> Monoid:
  """The k largest values of each anchor, descending `[n, k]`, and the positions of their candidates `[n, k]`.

  Where fewer than k candidates are in the set the rest are -inf at position -1. Among equal values the candidate that
  comes first wins.
  """

  def best(values: Float[Array, 'n a'], positions: Int[Array, 'n a']):
    found, at = jax.lax.top_k(values, k)
    return found, jnp.take_along_axis(positions, at, axis=1)

  def lift(values, keep, axis, others, bound):
    kept = _select(keep, values, -jnp.inf)
    kept = kept if axis == 1 else kept.T
    positions = jnp.where(jnp.isneginf(kept), -1, others.position[None, :])
    short = max(0, k - kept.shape[1])
    return best(
      jnp.pad(kept, ((0, 0), (0, short)), constant_values=-jnp.inf),
      jnp.pad(positions, ((0, 0), (0, short)), constant_values=-1),
    )

  def pull(values, keep, axis, others, state, cotangent, bound):
    weights = (cotangent[0][:, :, None] * (state[1][:, :, None] == others.position[None, None, :])).sum(1)
    # As above: what pads a tile is left out.
    return _select(keep, weights if axis == 1 else weights.T, 0)

  def merge(a, b):
    # Tiles and visitors come in any order: among equal values the first position wins whatever the fold. Sorting is
    # slow and rarely needed (never when tiles come in order), so it waits for equal values in the wrong order.
    values, positions = (jnp.concatenate(pair, 1) for pair in zip(a, b, strict=True))
    found, at = jax.lax.top_k(values, 2 * k)
    where = jnp.take_along_axis(positions, at, axis=1)
    equal = (found[:, 1:] == found[:, :-1]) & ~jnp.isneginf(found[:, 1:])
    wrong = (equal & (where[:, 1:] < where[:, :-1])).any()

    def in_order():
      return best(*jax.lax.sort((positions, values), dimension=1, num_keys=1)[::-1])

    return jax.lax.cond(wrong, in_order, lambda: (found[:, :k], where[:, :k]))

  return Monoid(
    f'top{k}',
    init=lambda n, dtype: (jnp.full((n, k), -jnp.inf, dtype), jnp.full((n, k), -1, jnp.int32)),
    lift=lift,
    merge=merge,
    finish=lambda state: state,
    pull=pull,
  )
