"""The passes of the chunked and the ring fold: forward to statistics, backward to gradients, on whatever mesh."""

from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from contrastive_jax.similarity import tiles
from contrastive_jax.similarity.folds import Axis, Place, cast_varying
from contrastive_jax.similarity.tiles import Plan, partition


def like(tree, operand: tiles.Operand):
  """Casts fresh arrays to the device-varying type of the operands, which loops must carry unchanged."""
  axes = set(jax.typeof(operand.z).manual_axis_type.varying)
  return jax.tree.map(lambda x: cast_varying(x, axes), tree)


# --- choosing the passes ---


def forward(plan, place, operands, constants):
  """States of the statistics of every operand's terms."""
  if place.axis is None:
    return _here_forward(plan, place.tile, operands, constants)
  if place.mesh is None:
    return _PASSES[place.kind][0](plan, place.tile, place.axis, operands, constants)

  def local(operands, constants):
    return _PASSES[place.kind][0](plan, place.tile, place.axis, operands, constants)

  return _on_mesh(place, local, (operands,), constants, lambda split, whole: split)


def backward(plan, place, operands, constants, states, cotangents):
  """Gradients of (operands, constants), None for what needs none."""
  if place.axis is None:
    return _here_backward(plan, place.tile, operands, constants, states, cotangents)
  if place.mesh is None:
    return _PASSES[place.kind][1](plan, place.tile, place.axis, operands, constants, states, cotangents)

  def local(operands, states, cotangents, constants):
    split, whole = _PASSES[place.kind][1](plan, place.tile, place.axis, operands, constants, states, cotangents)
    return split, jax.tree.map(lambda g: jax.lax.psum(g, place.axis), whole)

  return _on_mesh(place, local, (operands, states, cotangents), constants, lambda split, whole: (split, whole))


def _on_mesh(place: Place, local, split, whole, out_specs):
  """Runs on every device of the mesh's axis with its part of `split` and all of `whole`."""
  in_specs, out = (*(P(place.axis) for _ in split), P()), out_specs(P(place.axis), P())
  mapped = jax.shard_map(local, mesh=cast(Mesh, place.mesh), in_specs=in_specs, out_specs=out, check_vma=False)
  return mapped(*split, whole)


# --- this device alone ---


def _tile_sizes(operands, limits: tuple[int, int]) -> list[int]:
  # One operand is tiled by itself, so its tiles are square.
  sides = limits[: len(operands)]
  return [tiles.tile_size(o.z.shape[0], limit) for o, limit in zip(operands, sides, strict=True)]


def _tiled_all(trees, sizes, mode='edge'):
  return tuple(tiles.tiled(tree, size, mode) for tree, size in zip(trees, sizes, strict=True))


def _untiled_all(trees, operands):
  return tuple(tiles.untiled(tree, o.z.shape[0]) for tree, o in zip(trees, operands, strict=True))


def _empty(plan, operands):
  units = (tiles.empty(terms, o) for terms, o in zip(plan.terms, operands, strict=True))
  return tuple(like(unit, o) for unit, o in zip(units, operands, strict=True))


def _zeros(operands, constants, frozen=(False, False)):
  of_operands, of_constants = jax.tree.map(jnp.zeros_like, partition((operands, constants))[0])
  if len(operands) == 2:
    of_operands = tuple(o._replace(z=None) if f else o for o, f in zip(of_operands, frozen, strict=True))
  return of_operands, of_constants


def _here_forward(plan, limits, operands, constants):
  sizes = _tile_sizes(operands, limits)
  states = _tiled_all(_empty(plan, operands), sizes)
  tiled = tuple(tiles.tiled_operand(o, s) for o, s in zip(operands, sizes, strict=True))
  return _untiled_all(tiles.forward(plan, tiled, constants, states), operands)


def _here_backward(plan, limits, operands, constants, states, cotangents):
  sizes = _tile_sizes(operands, limits)
  tiled = tuple(tiles.tiled_operand(o, s) for o, s in zip(operands, sizes, strict=True))
  zeros = like(_zeros(tiled, constants, plan.frozen), operands[0])
  of_operands, of_constants = tiles.backward(
    plan, tiled, constants, _tiled_all(states, sizes), _tiled_all(cotangents, sizes, 'constant'), zeros
  )
  of_operands = tuple(o._replace(real=None) for o in of_operands)
  return _untiled_all(of_operands, operands), of_constants


# --- many devices: columns gathered once ---


def _two_sided(plan: Plan, operands, constants, *sides):
  """A symmetric problem split over devices: local rows against everyone's, reduced for the rows only."""
  if len(operands) == 2:
    return plan, operands, constants, *sides
  twice: tuple = (plan._replace(terms=(plan.terms[0], ())), (operands[0], operands[0]), (constants[0], []))
  return *twice, *((side[0], ()) for side in sides)


def _one_sided(original, of_operands, of_constants):
  """Adds what a symmetric problem got as rows and as columns."""
  if len(original) == 2:
    return of_operands, of_constants
  return (jax.tree.map(jnp.add, *of_operands),), of_constants[:1]


def _gather(tree, axis: Axis):
  return jax.tree.map(lambda x: jax.lax.all_gather(x, axis, tiled=True), tree)


def _gathered_forward(plan, limits, axis, operands, constants):
  original = operands
  plan, operands, constants = _two_sided(plan, operands, constants)
  count = jax.lax.axis_size(axis)
  rows, cols = _here_forward(plan, limits, (operands[0], _gather(operands[1], axis)), constants)

  # Every device has seen all columns against its own rows: each gets back the parts of its own columns, and joins them.
  def parts(x):
    return jax.lax.all_to_all(x.reshape(count, -1, *x.shape[1:]), axis, 0, 0)

  merged = []
  for term, state in zip(plan.terms[1], jax.tree.map(parts, cols), strict=True):
    first, rest = (jax.tree.map(lambda s, cut=cut: s[cut], state) for cut in (0, slice(1, None)))
    joined, _ = jax.lax.scan(lambda a, b, merge=term.monoid.merge: (merge(a, b), None), first, rest)
    merged.append(joined)
  return (rows, tuple(merged))[: len(original)]


def _gathered_backward(plan, limits, axis, operands, constants, states, cotangents):
  original = operands
  plan, operands, constants, states, cotangents = _two_sided(plan, operands, constants, states, cotangents)
  cols, of_cols, to_cols = _gather((operands[1], states[1], cotangents[1]), axis)
  (x, y), of_constants = _here_backward(
    plan, limits, (operands[0], cols), constants, (states[0], of_cols), (cotangents[0], to_cols)
  )
  y = jax.tree.map(lambda g: jax.lax.psum_scatter(g, axis, tiled=True), y)
  return _one_sided(original, (x, y), of_constants)


# --- many devices: columns travelling ---


def _shift(tree, axis: Axis, by: int = 1):
  """Sends everything `by` devices on around the axis."""
  count = jax.lax.axis_size(axis)
  return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, [(i, (i + by) % count) for i in range(count)]), tree)


def _add(tree, other):
  return jax.tree.map(jnp.add, tree, other)


def _ring_forward(plan, limits, axis, operands, constants):
  if len(operands) == 1:
    return _half_ring_forward(plan, limits, axis, operands, constants)
  sizes = _tile_sizes(operands, limits)
  rows, visitors = (tiles.tiled_operand(o, s) for o, s in zip(operands, sizes, strict=True))

  def turn(_, carry):
    of_rows, visitors, of_visitors = carry
    following = _shift(visitors, axis)  # hides behind the tiles, which do not wait for it
    of_rows, of_visitors = tiles.forward(plan, (rows, visitors), constants, (of_rows, of_visitors))
    return of_rows, following, _shift(of_visitors, axis)

  of_rows, of_cols = _tiled_all(_empty(plan, operands), sizes)
  # After as many turns as devices the visitors are home again, with their statistics.
  of_rows, _, of_cols = jax.lax.fori_loop(0, jax.lax.axis_size(axis), turn, (of_rows, visitors, of_cols))
  return _untiled_all((of_rows, of_cols), operands)


def _ring_backward(plan, limits, axis, operands, constants, states, cotangents):
  if len(operands) == 1:
    return _half_ring_backward(plan, limits, axis, operands, constants, states, cotangents)
  sizes = _tile_sizes(operands, limits)
  rows, cols = (tiles.tiled_operand(o, s) for o, s in zip(operands, sizes, strict=True))
  states, cotangents = _tiled_all(states, sizes), _tiled_all(cotangents, sizes, 'constant')
  (of_rows, none), of_constants = like(_zeros((rows, cols), constants, plan.frozen), operands[0])

  def turn(_, carry):
    of_rows, of_constants, visiting, late = carry
    visitors, state, cotangent = visiting
    # What travels is a turn behind what is made, so that neither waits for the other.
    following, arrived = _shift(visiting, axis), _shift(late, axis)
    (of_rows, made), of_constants = tiles.backward(
      plan,
      (rows, visitors),
      constants,
      (states[0], state),
      (cotangents[0], cotangent),
      ((of_rows, none), of_constants),
    )
    return of_rows, of_constants, following, _add(arrived, made)

  start = (of_rows, of_constants, (cols, states[1], cotangents[1]), none)
  of_rows, of_constants, _, late = jax.lax.fori_loop(0, jax.lax.axis_size(axis), turn, start)
  return _untiled_all((of_rows, _shift(late, axis)), operands), of_constants


# --- the rows are the columns: half a ring ---
#
# Each device makes its own triangle. Then the others' rows visit until every two devices have met: one of the two makes
# the tiles between them, for both. Of an even number of devices those opposite each other meet on both.


def _facing_itself(plan: Plan, constants):
  """The plan between two devices, whose rows are both anchors."""
  return plan._replace(terms=(plan.terms[0], plan.terms[0]), apart=True), (constants[0], constants[0])


def _half_ring_forward(plan, limits, axis, operands, constants):
  count = jax.lax.axis_size(axis)
  meetings = (count - 1) // 2
  sizes = _tile_sizes(operands, limits)
  rows = tiles.tiled_operand(operands[0], sizes[0])
  (none,) = _tiled_all(_empty(plan, operands), sizes)
  visitors = _shift(rows, axis)
  (of_rows,) = tiles.forward(plan, (rows,), constants, (none,))
  between, twice = _facing_itself(plan, constants)

  def turn(_, carry):
    of_rows, visitors, of_visitors = carry
    following = _shift(visitors, axis)
    arrived = _shift(of_visitors, axis)
    of_rows, of_visitors = tiles.forward(between, (rows, visitors), twice, (of_rows, arrived))
    return of_rows, following, of_visitors

  of_rows, visitors, of_visitors = jax.lax.fori_loop(0, meetings, turn, (of_rows, visitors, none))
  if count % 2 == 0:
    alone = between._replace(terms=(plan.terms[0], ()))
    of_rows, _ = tiles.forward(alone, (rows, visitors), (constants[0], []), (of_rows, ()))
  merges = [jax.vmap(term.monoid.merge) for term in plan.terms[0]]  # over tiles
  home = _shift(of_visitors, axis, -meetings)
  of_rows = tuple(merge(a, b) for merge, a, b in zip(merges, of_rows, home, strict=True))
  return _untiled_all((of_rows,), operands)


def _half_ring_backward(plan, limits, axis, operands, constants, states, cotangents):
  count = jax.lax.axis_size(axis)
  meetings = (count - 1) // 2
  sizes = _tile_sizes(operands, limits)
  rows = tiles.tiled_operand(operands[0], sizes[0])
  (state,), (cotangent,) = _tiled_all(states, sizes), _tiled_all(cotangents, sizes, 'constant')
  (none,), nothing = like(_zeros((rows,), constants), operands[0])
  visiting = _shift((rows, state, cotangent), axis)
  (of_rows,), of_constants = tiles.backward(plan, (rows,), constants, (state,), (cotangent,), ((none,), nothing))
  between, twice = _facing_itself(plan, constants)

  def meet(of_rows, visiting, of_visitors=none):
    visitors, theirs, wanted = visiting
    pair = (state, theirs), (cotangent, wanted)
    start = (of_rows, of_visitors), nothing * 2
    (of_rows, made), parts = tiles.backward(between, (rows, visitors), twice, *pair, start)
    return of_rows, made, parts

  def turn(_, carry):
    of_rows, of_constants, visiting, late = carry
    following, arrived = _shift(visiting, axis), _shift(late, axis)
    of_rows, made, (as_rows, as_visitors) = meet(of_rows, visiting)
    return of_rows, _add(of_constants, (_add(as_rows, as_visitors),)), following, _add(arrived, made)

  start = (of_rows, of_constants, visiting, none)
  of_rows, of_constants, visiting, late = jax.lax.fori_loop(0, meetings, turn, start)
  if count % 2 == 0:  # either device makes the gradients of its own rows, and keeps the constants' as anchors
    of_rows, _, (as_rows, _) = meet(of_rows, visiting, none._replace(z=None))
    of_constants = _add(of_constants, (as_rows,))
  of_rows = _add(of_rows, _shift(late, axis, -meetings))
  return _untiled_all((of_rows,), operands), of_constants


_PASSES = {'chunked': (_gathered_forward, _gathered_backward), 'ring': (_ring_forward, _ring_backward)}
