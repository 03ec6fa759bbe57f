"""`Similarity`: rows against columns, reduced by terms, folded as the caller or the size decides."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.sharding import auto_axes, get_abstract_mesh, use_abstract_mesh
from jaxtyping import Array

from contrastive_jax.similarity import dense, derivative, folds
from contrastive_jax.similarity.folds import Axis, Fold, Place
from contrastive_jax.similarity.products import check_precision
from contrastive_jax.similarity.terms import Term, trace
from contrastive_jax.similarity.tiles import Operand, Plan
from contrastive_jax.types import Refusal

Side = Mapping[str, Array]


class Similarity:
  """The operator whose entry (i, j) is the inner product of row i and column j.

  Args:
    rows: embeddings `z` `[n, d]` and whatever else leads with n: `id`, `mask`, `label`, a temperature, ...
    cols: the same for the m columns; None where the rows are the columns: then only tiles on and above the diagonal are
      made on one device, and an anchor is not its own candidate.
    fold: 'auto' or a fold. `Dense` up to about a million logits, `Chunked` on one device, `Ring` on several (or
      `Chunked`, where there are few columns).
    precision: of the products: None or 'float32', 'bfloat16', 'bfloat16_3x'. Statistics are float32 in each.

  Raises:
    Refusal: shapes that do not fit, an unknown fold or precision, or (by `reduce`) a fold that would silently drop
      other devices' candidates.
  """

  def __init__(self, rows: Side, cols: Side | None = None, *, fold: Fold | str = 'auto', precision: str | None = None):
    sides = (rows,) if cols is None else (rows, cols)
    for name, side in zip(('rows', 'columns'), sides, strict=False):
      _check(name, side)
    if rows['z'].shape[1] != sides[-1]['z'].shape[1]:
      raise Refusal(
        f'rows and columns must have the same width, but they are {rows["z"].shape} and {sides[-1]["z"].shape}'
      )
    self._sides, self._precision = sides, check_precision(precision)
    self._place = folds.resolve(fold, [s['z'] for s in sides], (rows['z'].shape[0], sides[-1]['z'].shape[0]))

  def reduce(
    self, rows: Sequence[Term] = (), cols: Sequence[Term] = (), *, alike: bool = False
  ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Statistics of the rows (each `[n]`) and of the columns (each `[m]`), from one pass over the logits.

    Gradients flow to the embeddings, to every floating-point entry and to whatever the terms close over.

    Args:
      rows: terms of each row over the columns.
      cols: terms of each column over the rows; none where the rows are the columns.
      alike: of one `total` of the rows, expects that all rows will weigh the same in what is differentiated (their
        mean, say), and makes gradients along with values. Where they do not, right too, but slower.
    """
    if len(self._sides) == 1 and cols:
      raise Refusal('rows are the columns here: their statistics are the rows terms')
    dtype = jnp.result_type(*(s['z'] for s in self._sides), jnp.float32)
    operands = tuple(_operand(s, dtype, self._place, same=len(self._sides) == 1) for s in self._sides)
    # Devices of a caller's own shard_map may weigh their rows differently: what they do next must not depend on it.
    alike = alike and self._place.kind != 'dense' and not get_abstract_mesh().manual_axes
    if alike:
      operands, rows = _weighted(operands, rows)
    faces = ((rows,), (rows, cols))[len(self._sides) - 1]
    operands = folds.varying(operands, self._place)
    traced = [
      trace(terms, operands[0].z, operands[i].entries, operands[-1 - i].entries) for i, terms in enumerate(faces)
    ]
    plan = Plan(tuple(terms for terms, _ in traced), self._precision, alike=alike)
    statistics = _anywhere(plan, self._place, operands, tuple(constants for _, constants in traced))
    return statistics if len(statistics) == 2 else (statistics[0], ())


def _weighted(operands, terms: Sequence[Term]):
  """Gives every row a weight of 1, by which the value of its one sum is multiplied."""
  (term,) = terms
  ones = jnp.ones_like(operands[0].z[:, 0])
  entries = operands[0].entries | {'weight': ones}
  weighted = term._replace(value=lambda pair: pair.anchor['weight'] * term.value(pair))
  return (operands[0]._replace(entries=entries), *operands[1:]), [weighted]


def _check(name: str, side: Side):
  z = side['z']
  if z.ndim != 2:
    raise Refusal(f'{name} must be embeddings of shape [n, d], but they are {z.shape}')
  if not jnp.issubdtype(z.dtype, jnp.floating):
    raise Refusal(f'{name} must be floating-point embeddings, but they are {z.dtype}')
  for key, value in side.items():
    if value.shape[:1] != z.shape[:1]:
      raise Refusal(f"entry '{key}' of the {name} must lead with {z.shape[0]} instances, but it is {value.shape}")


def _leading(operand: Operand):
  """The mesh axis that the type of an explicitly sharded array of an operand names for its instances, if any."""
  specs = [jax.typeof(x).sharding.spec for x in jax.tree.leaves(operand)]
  return next((spec[0] for spec in specs if len(spec) and spec[0] is not None), None)


def _anywhere(plan: Plan, place: Place, operands, constants):
  """Runs the plan; on a mesh with explicit axes with these made automatic, as no sharding type describes tiles."""
  # Of entries too: some that a loss makes itself, a side of ones say, have no mesh in their type.
  meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(operands)]
  meshes += [] if place.mesh is None else [getattr(place.mesh, 'abstract_mesh', place.mesh)]
  explicit = [(mesh, mesh.explicit_axes) for mesh in meshes if mesh.explicit_axes]
  if not explicit:
    return _run(plan, place, operands, constants)

  def automatic(operands, constants):
    return _run(plan, place.on(get_abstract_mesh()), operands, constants)

  mesh, axes = explicit[0]
  with use_abstract_mesh(mesh):  # the arrays' mesh need not be the current one
    out = tuple(P(_leading(o)) for o in operands)
    return auto_axes(automatic, axes=axes, out_sharding=out)(operands, constants)


def _offset(n: int, axis: Axis | None):
  if axis is None:
    return 0
  return jax.lax.axis_index(axis) * n


def _operand(side: Side, dtype, place: Place, *, same: bool) -> Operand:
  n = side['z'].shape[0]
  position = jnp.arange(n, dtype=jnp.int32) + _offset(n, place.axis if place.mesh is None else None)
  entries = {key: value for key, value in side.items() if key != 'z'} | {'position': position.astype(jnp.int32)}
  if same:
    entries['row'] = entries['position']
  return Operand(side['z'].astype(dtype), entries, None)


# Compiled by what is computed, not by the identity of the functions that say it, so that a loss called outside `jit`
# compiles once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(plan: Plan, place: Place, operands, constants):
  if place.kind == 'dense':
    return dense.reduce(plan, operands, constants)
  return derivative.reduce(plan, place, operands, constants)
