"""Two-dimensional tiles on one device: statistics in one pass, gradients in a second that makes each tile again.

A problem has two operands, or one whose rows are also the columns: then only tiles on and above the diagonal are made,
each serving its rows and its columns. Reducing axis 1 of a tile serves anchors of the first operand, axis 0 those of
the last. Nothing of size rows x columns outlives a tile.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from contrastive_jax.similarity import terms as T
from contrastive_jax.similarity.monoids import Others
from contrastive_jax.similarity.products import contract
from contrastive_jax.similarity.terms import Traced

# exp(v - bound) for |v| <= bound stays a normal float32 while 2 * bound < 87; a margin is left for sums.
SAFE_BOUND = 40.0


class Operand(NamedTuple):
  """One side of the similarity; every leaf leads with its n instances (or with tiles, then instances)."""

  z: Float[Array, 'n d']
  entries: dict[str, Array]
  real: Bool[Array, ' n'] | None  # False pads the last tile or shard; None where nothing does


class Plan(NamedTuple):
  """What is computed, without arrays: static for compilation."""

  terms: tuple[tuple[Traced, ...], ...]  # per operand
  precision: str
  apart: bool = False  # two operands that are the same rows hold no row in common here: parts of two devices
  frozen: tuple[bool, bool] = (False, False)  # of two operands, whose embeddings need no gradient
  alike: bool = False  # one sum per row, times the row's 'weight' of 1: its gradients come with the values


# --- pytrees ---


def _is_inexact(x) -> bool:
  return jnp.issubdtype(x.dtype, jnp.inexact)


def partition(tree):
  """Splits a pytree into its differentiable leaves and the others, None in the places left."""
  return jax.tree.map(lambda x: x if _is_inexact(x) else None, tree), jax.tree.map(
    lambda x: None if _is_inexact(x) else x, tree
  )


def combine(inexact, rest):
  """Inverse of `partition`."""
  return jax.tree.map(lambda a, b: b if a is None else a, inexact, rest, is_leaf=lambda x: x is None)


def pad(tree, n: int, mode: str = 'edge'):
  """Pads every leaf's leading axis to n, with its last instance ('edge') or with zeros ('constant').

  Terms are evaluated on the instances that pad a tile, and what they give is left out. The last instance's own values
  can be put into any term; zeros could not, where it divides by a temperature.
  """
  return jax.tree.map(lambda x: jnp.pad(x, ((0, n - x.shape[0]),) + ((0, 0),) * (x.ndim - 1), mode), tree)


def pad_operand(operand: Operand, n: int) -> Operand:
  """Pads an operand to n instances and marks which are real."""
  size = operand.z.shape[0]
  if size == n:
    return operand
  real = jnp.ones(size, bool) if operand.real is None else operand.real
  return pad(operand._replace(real=None), n)._replace(real=pad(real, n, 'constant'))


def tiled(tree, size: int, mode: str = 'edge'):
  """Reshapes every leaf's leading axis n to (tiles, size), padding the last tile as `pad` does."""

  def one(x):
    count = -(-x.shape[0] // size)
    return pad(x, count * size, mode).reshape(count, size, *x.shape[1:])

  return jax.tree.map(one, tree)


def tiled_operand(operand: Operand, size: int) -> Operand:
  """An operand in tiles; instances that pad the last are not real."""
  return tiled(pad_operand(operand, -(-operand.z.shape[0] // size) * size), size)


def untiled(tree, n: int):
  """Inverse of `tiled`."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], tree)


def tile_size(n: int, limit: int) -> int:
  """The size of equal tiles of at most `limit`: up to a tenth smaller than need be, if then nothing is padded.

  Padding copies the operand, which costs more than a few tiles more.
  """
  size = -(-n // -(-n // limit))
  return next((s for s in range(size, size - size // 10 - 1, -1) if n % s == 0), size)


# --- statistics ---


def empty(terms: tuple[Traced, ...], operand: Operand) -> tuple:
  """The units of an operand's monoids: its statistics before any tile was seen."""
  return tuple(t.monoid.init(operand.z.shape[0], operand.z.dtype) for t in terms)


def finish(plan: Plan, states) -> tuple:
  """The statistics of every operand's terms, from their monoids' states."""
  return tuple(
    tuple(t.monoid.finish(s) for t, s in zip(terms, of_side, strict=True))
    for terms, of_side in zip(plan.terms, states, strict=True)
  )


def _norm_bound(operands) -> Float[Array, '']:
  # No inner product exceeds the product of the largest norms (Cauchy and Schwarz); the margin covers rounded products.
  norms = [jnp.sqrt(jnp.square(o.z).sum(-1).max()) for o in operands]
  return norms[0] * norms[-1] * 1.01


def _bounded(plan: Plan, operands, run):
  # With one common offset the row and column statistics of a tile share their exponentials. Where the logits may be so
  # large that exponentials under a common offset could vanish, every anchor keeps its own maximum.
  if not any(t.is_dot and t.monoid.name in ('logsumexp', 'expectation') for terms in plan.terms for t in terms):
    return run(None)
  bound = _norm_bound(operands)
  return jax.lax.cond(bound <= SAFE_BOUND, lambda: run(bound), lambda: run(None))


def _schedule(operands, apart: bool):
  """Tiles to make, as (row tiles, column tiles, axes to reduce, whether no row is among the columns)."""
  counts = [o.z.shape[0] for o in operands]
  if len(counts) == 2:
    rows, cols = np.divmod(np.arange(counts[0] * counts[1]), counts[1])
    return [(rows, cols, (1, 0), apart)]
  diagonal = np.arange(counts[0])
  above = np.triu_indices(counts[0], 1)
  return [(*above, (1, 0), True), (diagonal, diagonal, (1,), False)]


def _sweep(plan: Plan, operands, carry, make_step):
  for rows, cols, axes, apart in _schedule(operands, plan.apart):
    rows_, cols_ = jnp.asarray(rows, jnp.int32), jnp.asarray(cols, jnp.int32)

    def step(k, carry, rows=rows_, cols=cols_, how=(axes, apart)):
      return make_step(rows[k], cols[k], how, carry)

    if len(rows):
      carry = jax.lax.fori_loop(0, len(rows), step, carry)
  return carry


def _at(tree, i):
  return jax.tree.map(lambda leaf: leaf[i], tree)


def _add_at(tree, i, update):
  return jax.tree.map(lambda leaf, new: leaf.at[i].add(new), tree, update)


def _side(axis: int) -> int:
  return 0 if axis == 1 else -1


def _facing(x: Operand, y: Operand, axis: int) -> tuple[Operand, Operand]:
  """(anchors, candidates) of a tile reduced along `axis`."""
  return (x, y) if axis == 1 else (y, x)


def _members(term: Traced, constants, inner, anchor: Operand, other: Operand, axis: int, apart: bool):
  return T.members(term, constants, inner, anchor.entries, other.entries, other.real, axis, apart)


def forward(plan: Plan, operands, constants, states):
  """Folds every tile of the tiled operands into the tiled states."""

  def tile(bound, a, b, how, states):
    axes, apart = how
    x, y = _at(operands[0], a), _at(operands[-1], b)
    inner = contract(x.z, y.z, (1, 1), plan.precision)
    states = list(states)
    for axis in axes:
      side, at = _side(axis), a if axis == 1 else b
      anchor, other = _facing(x, y, axis)
      new = []
      for term, c, state in zip(plan.terms[side], constants[side], _at(states[side], at), strict=True):
        value = T.values(term, c, inner, anchor.entries, other.entries, axis)
        keep = _members(term, c, inner, anchor, other, axis, apart)
        others = Others(other.entries['position'], other.z)
        lifted = term.monoid.lift(value, keep, axis, others, bound if term.is_dot else None)
        new.append(term.monoid.merge(state, lifted))
      states[side] = jax.tree.map(lambda s, n, at=at: s.at[at].set(n), states[side], tuple(new))
    return tuple(states)

  return _bounded(
    plan, operands, lambda bound: _sweep(plan, operands, states, lambda a, b, how, s: tile(bound, a, b, how, s))
  )


def _pull_tile(terms, constants, inner, anchor: Operand, other: Operand, states, cotangents, axis, apart, bound):
  """Cotangents of (inner products, anchor entries, candidate entries, constants) of one tile reduced along `axis`."""
  (da, ia), (do, io), (dc, ic) = partition(anchor.entries), partition(other.entries), partition(constants)

  def values(inner, da, do, dc):
    full = zip(terms, combine(dc, ic), strict=True)
    return [T.values(term, c, inner, combine(da, ia), combine(do, io), axis) for term, c in full]

  made, pullback = jax.vjp(values, inner, da, do, dc)
  pulled = []
  for value, term, c, state, cotangent in zip(made, terms, constants, states, cotangents, strict=True):
    keep = _members(term, c, inner, anchor, other, axis, apart)
    shared = bound if term.is_dot else None
    others = Others(other.entries['position'])
    pulled.append(term.monoid.pull(value, keep, axis, others, state, cotangent, shared))
  return pullback(pulled)


def backward(plan: Plan, operands, constants, states, cotangents, gradients):
  """Adds every tile's part to the gradients, making each tile again.

  `gradients` is (one Operand per operand, constants), with None for what has or needs none, tiled like the operands.
  """

  def tile(bound, a, b, how, gradients):
    axes, apart = how
    sides, of_constants, turned = list(gradients[0]), list(gradients[1]), gradients[2]
    x, y = _at(operands[0], a), _at(operands[-1], b)
    inner = contract(x.z, y.z, (1, 1), plan.precision)
    of_inner = jnp.zeros_like(inner)
    for axis in axes:
      side, at = _side(axis), a if axis == 1 else b
      if not plan.terms[side]:
        continue
      anchor, other = _facing(x, y, axis)
      pulled = _pull_tile(
        plan.terms[side],
        constants[side],
        inner,
        anchor,
        other,
        _at(states[side], at),
        _at(cotangents[side], at),
        axis,
        apart,
        bound,
      )
      of_inner += pulled[0]
      of_x, of_y = (pulled[1], pulled[2]) if axis == 1 else (pulled[2], pulled[1])
      sides[0] = sides[0]._replace(entries=_add_at(sides[0].entries, a, of_x))
      sides[-1] = sides[-1]._replace(entries=_add_at(sides[-1].entries, b, of_y))
      of_constants[side] = jax.tree.map(jnp.add, of_constants[side], pulled[3])
    if axes == (1,):  # a diagonal tile: its rows are its columns, so one product serves both
      of_inner += of_inner.T
    if sides[0].z is not None:
      sides[0] = sides[0]._replace(z=sides[0].z.at[a].add(contract(of_inner, y.z, (1, 0), plan.precision)))
    if turned is not None and axes != (1,):
      turned = turned.at[b].add(contract(x.z, of_inner, (0, 0), plan.precision))
    return tuple(sides), tuple(of_constants), turned

  # The gradient of the candidates contracts the rows of a tile, which a CPU does faster where the small operand is the
  # one that is turned round.
  z = gradients[0][-1].z
  carried = *gradients, None if z is None else jnp.zeros_like(jnp.swapaxes(z, 1, 2))
  sides, of_constants, turned = _bounded(
    plan, operands, lambda bound: _sweep(plan, operands, carried, lambda a, b, how, g: tile(bound, a, b, how, g))
  )
  if turned is None:
    return sides, of_constants
  z = _turn_back(sides[-1].z, turned)
  return (*sides[:-1], sides[-1]._replace(z=z)), of_constants


def _turn_back(z: Float[Array, 't n d'], turned: Float[Array, 't d n']) -> Float[Array, 't n d']:
  # Tile by tile, since turning all of them at once would hold a copy of all.
  return jax.lax.fori_loop(0, z.shape[0], lambda k, z: z.at[k].add(turned[k].T), z)
