"""Losses of cells: the positions of a feature map, paired between two views of an image by where they lie in it.

Cells are rows [B, P, d] of maps, P = h w positions of each, row by row. Pairs lie within an image, so every value is
one of this image alone, and the losses may be called inside `shard_map`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from contrastive_jax.losses import inputs
from contrastive_jax.types import Refusal

__all__ = ['pair_mask', 'pix_contrast', 'pix_pro', 'propagate']


def pair_mask(
  x_box: Float[Array, 'b 4'], y_box: Float[Array, 'b 4'], shape: tuple[int, int], *, threshold: float = 0.7
) -> Bool[Array, 'b p p']:
  r"""Which cells of two views lie at the same place of their image.

  .. math:: M_{ij} = \Big[ \frac{\lVert c_i - c'_j \rVert}{\max(D, D')} < \theta \Big]

  With c the centre of a cell in the image and D the diagonal of the cells of a view. At the default, two views of one
  square box pair every cell with itself alone: its neighbours are at 0.707 of the diagonal.

  Args:
    x_box: `[B, 4]`, x1, y1, x2, y2 of the view in its image; from the corner of its first cell to that of its last, so
      x1 > x2 where the view is mirrored.
    y_box: of the other view.
    shape: height and width of the maps.
    threshold: theta, in diagonals of the larger cells.

  Returns:
    `[B, P, P]`: cells of the view `x_box`, then those of the other.

  Raises:
    ValueError: boxes that are not `[B, 4]`, a shape that is not of two positive numbers, a threshold <= 0.

  Source: Xie et al., 2021, eq. 1, with the distance as in its code.
  """
  inputs.check_positive('threshold', threshold)
  inputs.check_floats(x_box=x_box, y_box=y_box)
  if x_box.ndim != 2 or x_box.shape[1] != 4 or y_box.shape != x_box.shape:
    raise Refusal(f'x_box and y_box must both be [B, 4], but they are {x_box.shape} and {y_box.shape}')
  if len(shape) != 2 or min(shape) < 1:
    raise Refusal(f'shape must be height and width of the maps, but it is {tuple(shape)}')
  (x, x_diagonal), (y, y_diagonal) = (_centres(inputs.wide(box), shape) for box in (x_box, y_box))
  apart = jnp.sqrt(jnp.square(x[:, :, None] - y[:, None]).sum(-1))
  return apart < threshold * jnp.maximum(x_diagonal, y_diagonal)[:, None, None]


def _centres(box: Float[Array, 'b 4'], shape: tuple[int, int]):
  """Centres `[B, P, 2]` of the cells of a view, (x, y), and the diagonal `[B]` of one."""
  height, width = shape
  cell = (box[:, 2:] - box[:, :2]) / jnp.array([width, height], box.dtype)
  row, column = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing='ij')
  steps = jnp.stack([column.ravel(), row.ravel()], -1).astype(box.dtype)
  return box[:, None, :2] + steps * cell[:, None], jnp.sqrt(jnp.square(cell).sum(-1))


def _check_cells(x, y, mask):
  inputs.check_floats(x=x, y=y)
  if x.ndim != 3 or y.ndim != 3 or x.shape[::2] != y.shape[::2]:
    raise Refusal(f'x must be [B, P, D] and y [B, Q, D] with one B and D, but they are {x.shape} and {y.shape}')
  inputs.check_array('mask', mask, jnp.bool_, 'boolean')
  if mask.shape != (*x.shape[:2], y.shape[1]):
    raise Refusal(f'mask must be {[*x.shape[:2], y.shape[1]]}, the cells of x and of y, but it is {mask.shape}')


def propagate(
  x: Float[Array, 'b p d'], values: Float[Array, 'b p e'], *, gamma: float | Float[Array, ''] = 2.0
) -> Float[Array, 'b p e']:
  r"""Smooths the values of a map along the similarities of its cells: PixPro's propagation module.

  .. math:: y_i = \mathrm{unit} \Big( \sum_j \max(\cos(x_i, x_j), 0)^\gamma \; \mathrm{unit}(v_j) \Big)

  The sum includes j = i. As gamma grows, a cell keeps nothing but its own value.

  Args:
    x: `[B, P, D]`, cells that say how alike they are; of any norm.
    values: v, `[B, P, E]`, what is propagated: x after the network g of the paper; of any norm.
    gamma: sharpness of the similarities.

  Returns:
    `[B, P, E]`, unit norm.

  Raises:
    ValueError: `x` and `values` do not have the same cells, gamma <= 0.

  Source: Xie et al., 2021, eq. 3 and 4.
  """
  inputs.check_positive('gamma', gamma)
  inputs.check_floats(x=x, values=values)
  if x.ndim != 3 or values.ndim != 3 or x.shape[:2] != values.shape[:2]:
    raise Refusal(f'x and values must be [B, P, D] and [B, P, E], but they are {x.shape} and {values.shape}')
  z, v = inputs.unit(inputs.wide(x)), inputs.unit(inputs.wide(values))
  cosine = jnp.einsum('bid,bjd->bij', z, z, precision='highest')
  # Beside 0 a power has no derivative, and below it no value.
  positive = cosine > 0
  alike = jnp.where(positive, jnp.where(positive, cosine, 1) ** gamma, 0)
  return inputs.unit(jnp.einsum('bij,bje->bie', alike, v, precision='highest')).astype(values.dtype)


def pix_pro(x: Float[Array, 'b p d'], y: Float[Array, 'b q d'], mask: Bool[Array, 'b p q']) -> Float[Array, ' b']:
  r"""PixPro: the cells of a view, propagated, agree with those of another view that lie at the same place.

  .. math:: \ell_b = - \frac{\sum_{ij} M_{ij} \; x_i^\top y_j}{\sum_{ij} M_{ij}}

  No negatives. y are constants. The paper's loss is twice the sum over both orders of two views.

  Args:
    x: `[B, P, D]`, unit norm: a student's cells, after `propagate`.
    y: `[B, Q, D]`, unit norm: a teacher's cells of the other view.
    mask: M, as `pair_mask` makes it.

  Returns:
    `[B]`, in [-1, 1]; 0 for an image whose views do not overlap.

  Raises:
    ValueError: `x` and `y` are not of as many images and as wide, a mask that is not of their cells.

  Source: Xie et al., 2021, eq. 5, with the average over pairs of its code.
  """
  _check_cells(x, y, mask)
  y = jax.lax.stop_gradient(y)
  cosine = jnp.einsum('bpd,bqd->bpq', inputs.wide(x), inputs.wide(y), precision='highest')
  return -jnp.where(mask, cosine, 0).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)


def pix_contrast(
  x: Float[Array, 'b p d'],
  y: Float[Array, 'b q d'],
  mask: Bool[Array, 'b p q'],
  *,
  temperature: float | Float[Array, ''] = 0.3,
) -> Float[Array, 'b p']:
  r"""PixContrast: a cell finds, among all cells of another view, those that lie at its own place.

  .. math:: \ell_i = -\log \frac{\sum_{j \in P_i} e^{x_i^\top y_j / \tau}}{\sum_j e^{x_i^\top y_j / \tau}}

  y are constants. The paper's loss is the mean over the cells that have positives, of both orders of two views.

  Args:
    x: `[B, P, D]`, unit norm: a student's cells.
    y: `[B, Q, D]`, unit norm: a teacher's cells of the other view of the same image.
    mask: True for the positives P_i, as `pair_mask` makes it; the other cells are negatives.
    temperature: tau.

  Returns:
    `[B, P]`, at least 0; 0, with a gradient of 0, for cells without positives (`mean(values, mask.any(-1))`).

  Raises:
    ValueError: as of `pix_pro`; a temperature <= 0.

  Source: Xie et al., 2021, eq. 2.
  """
  inputs.check_temperature(temperature)
  _check_cells(x, y, mask)
  y = jax.lax.stop_gradient(y)
  logits = jnp.einsum('bpd,bqd->bpq', inputs.wide(x), inputs.wide(y), precision='highest') / temperature
  found = mask.any(-1)
  # Without positives every cell stands in for them: the value is 0, and nothing infinite meets the gradient.
  positives = jnp.where(found[..., None], mask, True)
  values = jax.nn.logsumexp(logits, -1) - jax.nn.logsumexp(logits, -1, where=positives)
  return jnp.where(found, values, 0)
