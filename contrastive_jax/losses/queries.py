"""Losses of given triplets: what people say is alike, and what is not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.margins import check_scalars
from contrastive_jax.types import Refusal

__all__ = ['similarity_query']


def similarity_query(
  p: Float[Array, 'b d'],
  q: Float[Array, 'b d'],
  odd: Float[Array, 'b d'],
  *,
  margin: float | Float[Array, ''] = 1.0,
) -> Float[Array, ' b']:
  r"""Triplet loss of answers to "which two are alike?", either of the two being the anchor.

  .. math:: \ell = [d_{pq} - d_{po} + m]_+ + [d_{qp} - d_{qo} + m]_+, \qquad d_{ab} = \lVert a - b \rVert^2

  Queries are given, so there are no other candidates and nothing to fold: the loss of a query is its own.

  Args:
    p: `[B, D]`, of any norm; one of the two that are alike.
    q: `[B, D]`, the other; p and q may change places.
    odd: `[B, D]`, the third.
    margin: m >= 0, in squared distances.

  Returns:
    One value per query, `[B]`; 2 m where all three coincide.

  Raises:
    ValueError: shapes that differ, what is no floating-point array, a margin that is no scalar or is negative.

  Source: Bobu et al., 2023, "SIRL: Similarity-based Implicit Representation Learning".
  """
  inputs.check_sides(p, q, equal=True, names=('p', 'q'))
  inputs.check_sides(p, odd, equal=True, names=('p', 'odd'))
  check_scalars(margin=margin)
  if isinstance(margin, int | float) and not margin >= 0:
    raise Refusal(f'margin must be at least 0, but it is {margin}')
  p, q, odd = inputs.wide(p), inputs.wide(q), inputs.wide(odd)

  def distance(a, b):
    return jnp.square(a - b).sum(-1)

  hinges = [jax.nn.relu(distance(p, q) - distance(anchor, odd) + margin) for anchor in (p, q)]
  return hinges[0] + hinges[1]
