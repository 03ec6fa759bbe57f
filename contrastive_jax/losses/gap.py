"""Contrastive gap: the loss of CLIP with terms that spread and align the two modalities."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Mask, Temperature
from contrastive_jax.losses.softmax import symmetric_info_nce
from contrastive_jax.losses.uniformity import Potential, potential
from contrastive_jax.similarity import Fold, crosses
from contrastive_jax.types import Refusal

__all__ = ['clip_with_geometry', 'cross_uniformity']


def cross_uniformity(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  *,
  t: float | Float[Array, ''] = 2,
  x_mask: Mask = None,
  y_mask: Mask = None,
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
    x_mask: `[B]`, False for rows of x that do not exist; where no two rows that are no pair do, the value is 0.
    y_mask: the same of y.
    fold: 'auto', `dense()`, `chunked(rows, cols)`, `ring(axis)`, `local()`; never changes the value.
    precision: of the products: None (float32), 'bfloat16', 'bfloat16_3x'.

  Returns:
    A scalar. Inside a caller's `shard_map` with `ring(axis)`: the statistic of all devices' rows, on each device.

  Raises:
    ValueError: shapes that differ, B < 2, t <= 0, a mask of another shape, an unknown fold or precision.

  Source: Fahim et al., 2024, "It's Not a Modality Gap"; as a mean over pairs.
  """
  _check(x, y, t, x_mask, y_mask, fold)
  given: dict[str, Any] = dict(x_mask=x_mask, y_mask=y_mask, t=t, fold=fold, precision=precision)
  return potential(inputs.wide(x), inputs.wide(y), **given).log_mean()


def _check(x, y, t, x_mask, y_mask, fold):
  inputs.check_sides(x, y, equal=True)
  if x.shape[0] < 2 and not crosses(fold):
    raise Refusal(f'cross_uniformity needs sides [B, D], B >= 2, but they are {x.shape}')
  inputs.check_positive('t', t)
  inputs.check_entries(len(x), x_mask=x_mask, y_mask=y_mask)


def _counts(weight) -> bool:
  """Whether a term has to be computed: not where its weight is known to be 0."""
  return not isinstance(weight, int | float) or weight != 0


def _with_itself(found: Potential, pair_mean: bool):
  """The uniformity of one side, with the pairs of a row with itself, whose potential is 1."""
  rows = jnp.log(jnp.maximum(found.anchors, 1))
  spread = jnp.where(found.pairs > 0, jax.nn.softplus(found.log_sum - rows), 0)
  return spread - rows if pair_mean else spread


def _across(found: Potential, pair_mean: bool):
  """That of two sides, without pairs."""
  count = jnp.maximum(found.pairs if pair_mean else found.anchors, 1)
  return jnp.where(found.pairs > 0, found.log_sum - jnp.log(count), 0)


def _kept(values, *masks: Mask):
  for mask in masks:
    values = values if mask is None else jnp.where(jnp.asarray(mask), values, 0)
  return values


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
  x_mask: Mask = None,
  y_mask: Mask = None,
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
    pair_mean: divides by the number of pairs, B^2 or B (B - 1), in place of B: other values, the same gradients.
    x_mask: `[B]`, False for rows of x that do not exist. In uniformities B is then how many rows of the first side do.
    y_mask: the same of y.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per pair, `[B]`; 0 where either side is masked.

  Raises:
    ValueError: as in `symmetric_info_nce` and `cross_uniformity`.

  Source: Fahim et al., 2024, "It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap".
  """
  _check(x, y, t, x_mask, y_mask, fold)
  masks: dict[str, Any] = {'x_mask': x_mask, 'y_mask': y_mask}
  values = symmetric_info_nce(x, y, temperature=temperature, **masks, fold=fold, precision=precision)
  x, y = inputs.wide(x), inputs.wide(y)
  how: dict[str, Any] = dict(t=t, fold=fold, precision=precision)
  if _counts(align_weight):
    values += align_weight * jnp.square(x - y).sum(-1)
  if _counts(uniform_weight):
    within = [potential(side, None, x_mask=mask, y_mask=None, **how) for side, mask in ((x, x_mask), (y, y_mask))]
    values += uniform_weight * (_with_itself(within[0], pair_mean) + _with_itself(within[1], pair_mean)) / 2
  if _counts(cross_weight):
    values += cross_weight * _across(potential(x, y, **masks, **how), pair_mean)
  return _kept(values, x_mask, y_mask)
