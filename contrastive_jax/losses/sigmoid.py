"""Sigmoid losses: an independent logistic loss on every pair."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses.inputs import Ids, Mask, Temperature, check_sides, check_temperature, wide
from contrastive_jax.losses.softmax import sides
from contrastive_jax.similarity import Fold, Similarity, same_id, total

__all__ = ['sigmoid']


def sigmoid(
  x: Float[Array, 'b d'],
  y: Float[Array, 'm d'],
  *,
  temperature: Temperature = 0.1,
  bias: float | Float[Array, ''] = -10.0,
  x_id: Ids = None,
  y_id: Ids = None,
  x_mask: Mask = None,
  y_mask: Mask = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Sigmoid loss, the loss of SigLIP: every pair of rows is classified as matching or not.

  .. math:: \ell_i = \sum_{j=1}^{M} \log\big(1 + \exp(-y_{ij} (x_i^\top y_j / \tau + b))\big),
            \qquad y_{ij} = +1 \text{ if } \mathrm{id}_i = \mathrm{id}_j \text{ else } -1

  Args:
    x: `[B, D]`, unit norm.
    y: `[M, D]`, unit norm. Without ids, `x[i]` matches `y[i]` alone.
    temperature: divides similarities; a scalar or `[B]`. Learnable; the paper starts at 1/10.
    bias: b, added to every logit. Learnable; the paper starts at -10.
    x_id: integers `[B]`; default: position. An id of -1 matches nothing.
    y_id: integers `[M]`.
    x_mask: `[B]`, False for anchors that do not count.
    y_mask: `[M]`, False for candidates that do not exist.
    fold: 'auto', `dense()`, `chunked(rows, cols)`, `ring(axis)`, `local()`; never changes the value.
    precision: of the products: None (float32), 'bfloat16', 'bfloat16_3x'.

  Returns:
    One value per anchor, `[B]`: the sum over its columns (the published loss is their mean).

  Raises:
    ValueError: shapes that do not fit, a static temperature <= 0, an unknown fold or precision.

  Source: Zhai et al., 2023, eq. 1.
  """
  check_sides(x, y)
  check_temperature(temperature, x.shape[:1])
  x, y = wide(x), wide(y)
  scale = jnp.asarray(temperature, x.dtype)
  rows, cols = sides(x / (scale if scale.ndim == 0 else scale[:, None]), y, x_id, y_id, x_mask, y_mask, fold)

  rows['bias'] = jnp.broadcast_to(jnp.asarray(bias, x.dtype), x.shape[:1])

  def cost(pair):
    logit = pair.dot + pair.anchor['bias']
    return jax.nn.softplus(jnp.where(same_id(pair), -logit, logit))

  op = Similarity(rows, cols, fold=fold, precision=precision)
  # Masked anchors have no weight in a mean over the others.
  (values,), _ = op.reduce([total(cost)], alike=x_mask is None)
  return values if x_mask is None else jnp.where(x_mask, values, 0)
