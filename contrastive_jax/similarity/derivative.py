"""The derivative of a streamed reduction: a backward pass of its own that makes every tile again, or none where it can.

One custom derivative around both passes, whatever the fold and the mesh. It saves the operands and the O(n) statistics.
A differentiated loop would save every tile, and a differentiated ring every visiting block of columns.

Passes of n m d multiplications, values and gradient: 4 in general (logits; logits again, both gradients). An operand
whose embeddings have no gradient saves one. Two further cases make the gradient in the pass of the values: 2 where a
log-sum-exp of the logits meets candidates without gradient (queues, teachers), 3 where anchors' sums are weighed alike.
"""

from typing import cast

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from contrastive_jax.similarity import monoids, streamed, tiles
from contrastive_jax.similarity.folds import Place, shards
from contrastive_jax.similarity.tiles import Plan, combine, partition


def reduce(plan: Plan, place: Place, operands, constants):
  """Every operand's statistics, in tiles; on a mesh, with the columns gathered or travelling."""
  sizes = [o.z.shape[0] for o in operands]
  count = shards(place)
  operands = tuple(tiles.pad_operand(o, -(-o.z.shape[0] // count) * count) for o in operands)
  run = _alike(plan, place, sizes[0]) if plan.alike else _general(plan, place)
  statistics = run(*partition((operands, constants)))
  return tuple(jax.tree.map(lambda s, n=n: s[:n], side) for side, n in zip(statistics, sizes, strict=True))


def _values(plan: Plan, place: Place):
  """The function that gets a derivative, of the differentiable part of (operands, constants) and the rest of it."""

  def run(differentiable, rest):
    return tiles.finish(plan, streamed.forward(plan, place, *combine(differentiable, rest)))

  return jax.custom_vjp(run)


def _general(plan: Plan, place: Place):
  run = _values(plan, place)

  def forward(differentiable, rest):
    frozen = tuple(not o.z.perturbed for o in differentiable[0])
    differentiable, rest = custom_vjp_primal_tree_values((differentiable, rest))
    operands, constants = combine(differentiable, rest)
    if _attends(plan, frozen):
      return _attended(plan, place, operands, constants)
    states = streamed.forward(plan, place, operands, constants)
    # What a residual holds must be arrays: None marks the frozen.
    marks = tuple(None if f else () for f in frozen)
    return tiles.finish(plan, states), (None, (differentiable, rest, states, marks))

  def backward(residuals, cotangents):
    attended, saved = residuals
    if attended is not None:
      return _of_attended(attended, cotangents), None
    differentiable, rest, states, marks = saved
    operands, constants = combine(differentiable, rest)
    cotangents = _instantiated(cotangents, operands[0])
    thawed = plan._replace(frozen=(marks[0] is None, marks[-1] is None))
    return streamed.backward(thawed, place, operands, constants, states, cotangents), None

  run.defvjp(forward, backward, symbolic_zeros=True)
  return run


def _instantiated(cotangents, like):
  """Zeros in place of symbolic ones, None for those of integer statistics (positions), which no loop can carry."""

  def one(c):
    if c.dtype == jax.dtypes.float0:
      return None
    return streamed.like(jnp.zeros(c.shape, c.dtype), like) if isinstance(c, SymbolicZero) else c

  return jax.tree.map(one, cotangents, is_leaf=lambda c: isinstance(c, SymbolicZero))


# --- candidates without gradient: the anchors' gradient comes with the values ---


def _attends(plan: Plan, frozen: tuple[bool, ...]) -> bool:
  """Whether all that has a gradient is the anchors' embeddings, through the log-sum-exp of their logits."""
  if len(frozen) != 2 or frozen != (False, True) or plan.terms[1] or len(plan.terms[0]) != 1:
    return False
  (term,) = plan.terms[0]
  return term.is_dot and term.monoid.name == 'logsumexp'


def _attended(plan: Plan, place: Place, operands, constants):
  (term,) = plan.terms[0]
  both = term._replace(monoid=monoids.expectation(operands[0].z.shape[1], plan.precision))
  states = streamed.forward(plan._replace(terms=((both,), ())), place, operands, constants)
  lse, expected = both.monoid.finish(states[0][0])
  return ((lse,), ()), (expected, None)


def _of_attended(expected, cotangents):
  (cotangent,), _ = cotangents
  if isinstance(cotangent, SymbolicZero):
    return None
  nothing = cast(dict, None)
  return (tiles.Operand(cotangent[:, None] * expected, nothing, None), None), None


# --- sums that the caller weighs alike: all gradients come with the values, up to a factor ---


def _alike(plan: Plan, place: Place, n: int):
  """Of one sum per row, whose value is multiplied by the row's entry 'weight', which is 1."""
  run = _values(plan, place)

  def unit(operands):
    ones = jnp.ones(n, operands[0].z.dtype)
    return tiles.pad((((ones,), ())), operands[0].z.shape[0], 'constant')

  def forward(differentiable, rest):
    operands, constants = combine(differentiable, rest)
    nothing = (tiles.empty(plan.terms[0], operands[0]), ())[: len(operands)]
    wanted = unit(operands)[: len(operands)]
    of_operands, of_constants = streamed.backward(plan, place, operands, constants, nothing, wanted)
    # A sum is its own derivative in the weight.
    values = of_operands[0].entries['weight']
    return (((values,), ()))[: len(operands)], (differentiable, rest, (of_operands, of_constants))

  def backward(residuals, cotangents):
    differentiable, rest, gradients = residuals
    of_rows = cotangents[0][0]
    alike = (of_rows[:n] == of_rows[0]).all()

    def again():
      operands, constants = combine(differentiable, rest)
      nothing = (tiles.empty(plan.terms[0], operands[0]), ())[: len(operands)]
      return streamed.backward(plan, place, operands, constants, nothing, cotangents)

    return jax.lax.cond(alike, lambda: jax.tree.map(lambda g: of_rows[0] * g, gradients), again), None

  run.defvjp(forward, backward)
  return run
