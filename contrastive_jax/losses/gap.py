"""Contrastive gap: the loss of CLIP with terms that spread and align the two modalities."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.losses.softmax import symmetric_info_nce
from contrastive_jax.losses.uniformity import uniformity
from contrastive_jax.similarity import Fold, Similarity, crosses, logsumexp
from contrastive_jax.types import Refusal

__all__ = ['clip_with_geometry', 'cross_uniformity']


def cross_uniformity(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  *,
  t: float | Float[Array, ''] = 2,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, '']:
  r"""Logarithm of the mean Gaussian potential between the rows of two sides that are no pair,
  :math:`\log \frac{1}{B(B-1)} \sum_{i \ne j} e^{-t \lVert x_i - y_j \rVert^2}`.

  0 when all rows coincide. With y = x it is `uniformity`. Exact for rows of any norm.

  Args:
    x: `[B, D]`, B >= 2.
    y: `[B, D]`, the partners.
    t: width of the potential, 2 in the paper.
    fold: 'auto', `dense()`, `chunked(rows, cols)`, `ring(axis)`, `local()`; never changes the value.
    precision: of the products: None (float32), 'bfloat16', 'bfloat16_3x'.

  Returns:
    A scalar. Inside a caller's `shard_map` with `ring(axis)`: the statistic of all devices' rows, on each device.

  Raises:
    ValueError: shapes that differ, B < 2, t <= 0, an unknown fold or precision.

  Source: Fahim et al., 2024, "It's Not a Modality Gap"; as a mean over pairs.
  """
  inputs.check_sides(x, y, equal=True)
  if x.shape[0] < 2 and not crosses(fold):
    raise Refusal(f'cross_uniformity needs sides [B, D], B >= 2, but they are {x.shape}')
  inputs.check_positive('t', t)
  x, y = inputs.wide(x), inputs.wide(y)
  scale = jnp.sqrt(2 * jnp.asarray(t, x.dtype))
  sides = [{'z': side * scale, 'half': t * jnp.square(side).sum(-1)} for side in (x, y)]

  def other(pair):
    return pair.anchor['position'] != pair.other['position']

  term = logsumexp(lambda pair: pair.dot - pair.anchor['half'] - pair.other['half'], other)
  (lse,), _ = Similarity(*sides, fold=fold, precision=precision).reduce([term])
  potential, count = inputs.global_logsumexp(lse, fold)
  return potential - jnp.log(count * (count - 1))


def _counts(weight) -> bool:
  """Whether a term has to be computed: not where its weight is known to be 0."""
  return not isinstance(weight, int | float) or weight != 0


def clip_with_geometry(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  *,
  temperature: Temperature = 0.01,
  align_weight: float = 1.0,
  uniform_weight: float = 1.0,
  cross_weight: float = 1.0,
  t: float | Float[Array, ''] = 2,
  pair_mean: bool = False,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Symmetric InfoNCE with alignment, uniformity and cross-uniformity: CUAXU, or without the last CUA.

  .. math:: \ell_i = \mathrm{CLIP}_i + w_A \lVert x_i - y_i \rVert^2
            + \frac{w_U}{2} \big( U(x, x) + U(y, y) \big) + w_{XU} U_{\ne}(x, y)

  .. math:: U(x, y) = \log \frac1B \sum_{i, j} e^{-t \lVert x_i - y_j \rVert^2}

  :math:`U_{\ne}` leaves out the pairs, i = j; U(x, x) does not. Uniformities belong to the whole batch and are the same
  in every value, so the mean is the published loss. With all three weights 0 it is CLIP.

  Args:
    x: `[B, D]`, unit norm, B >= 2.
    y: `[B, D]`, unit norm, the partners.
    temperature: of CLIP, a scalar; the paper fixes it at 0.01.
    align_weight: w_A.
    uniform_weight: w_U.
    cross_weight: w_XU; 0 for CUA.
    t: width of the potential, 2 in the paper.
    pair_mean: divides by the number of pairs, B^2 or B (B - 1), in place of B: other values, the same gradients. Then
      rows that all coincide have uniformity 0.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per pair, `[B]`.

  Raises:
    ValueError: as in `symmetric_info_nce` and `cross_uniformity`.

  Source: Fahim et al., 2024, "It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap".
  """
  values = symmetric_info_nce(x, y, temperature=temperature, fold=fold, precision=precision)
  x, y = inputs.wide(x), inputs.wide(y)
  _, count = inputs.global_logsumexp(jnp.zeros_like(x[:, 0]), fold)
  if _counts(align_weight):
    values += align_weight * jnp.square(x - y).sum(-1)
  if _counts(uniform_weight):
    spread = [uniformity(side, t=t, fold=fold, precision=precision) for side in (x, y)]
    # The potential of a row with itself is 1.
    each = [jax.nn.softplus(u + jnp.log(count - 1)) - (jnp.log(count) if pair_mean else 0) for u in spread]
    values += uniform_weight * (each[0] + each[1]) / 2
  if _counts(cross_weight):
    across = cross_uniformity(x, y, t=t, fold=fold, precision=precision)
    values += cross_weight * (across if pair_mean else across + jnp.log(count - 1))
  return values
