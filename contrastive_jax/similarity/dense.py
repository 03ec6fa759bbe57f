"""The dense fold: all logits at once, differentiated by JAX itself."""

from contrastive_jax.similarity import terms as T
from contrastive_jax.similarity.monoids import Others
from contrastive_jax.similarity.products import similarities
from contrastive_jax.similarity.tiles import Plan, finish


def reduce(plan: Plan, operands, constants):
  """Every operand's statistics; memory `n * m`."""
  x, y = operands[0], operands[-1]
  inner = similarities(x.z, y.z, plan.precision)
  states = []
  for side, anchor, other in [(0, x, y), (-1, y, x)][: len(operands)]:
    axis = 1 + side
    of_side = []
    for term, c in zip(plan.terms[side], constants[side], strict=True):
      value = T.values(term, c, inner, anchor.entries, other.entries, axis)
      keep = T.members(term, c, inner, anchor.entries, other.entries, None, axis, False)
      of_side.append(term.monoid.lift(value, keep, axis, Others(other.entries['position']), None))
    states.append(tuple(of_side))
  return finish(plan, tuple(states))
