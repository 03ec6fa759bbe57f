"""Losses of time series and of learned augmentations of them (AutoTCL)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from contrastive_jax.losses import inputs
from contrastive_jax.losses.margins import check_above_zero
from contrastive_jax.types import Refusal

__all__ = ['hard_concrete', 'local_info_nce', 'mask_roughness', 'mmd_rbf']

_KERNELS = (-2, -1, 0, 1, 2)  # powers of 2 of the bandwidths


def hard_concrete(
  logits: Float[Array, '...'],
  key: Key[Array, ''],
  *,
  temperature: float = 1.0,
  stretch: float = 0.1,
  bias: float = 0.0001,
  rounded: bool = False,
) -> Float[Array, '...']:
  r"""A random mask in [0, 1] with mass at both ends, differentiable in its logits.

  .. math:: m = \min \Big( 1, \max \big( 0, \sigma \big( (\mathrm{logit}(\epsilon) + h) / \tau \big) (\zeta - \gamma)
            + \gamma \big) \Big), \qquad \epsilon \sim U(b, 1 - b), \quad \zeta = 1 + s, \quad \gamma = -s

  Args:
    logits: h, of any shape.
    key: of the draws.
    temperature: tau; small ones make masks of zeros and ones.
    stretch: s; 0 leaves no mass at the ends. AutoTCL's code stretches the lower end alone; Louizos et al. both.
    bias: b, in (0, 0.5).
    rounded: values are rounded, with the gradient of those that are not.

  Raises:
    ValueError: what is no floating-point array, temperature <= 0, a stretch or a bias out of range.

  Source: Louizos et al., 2018, "Learning Sparse Neural Networks through L0 Regularization"; Zheng et al., 2024.
  """
  inputs.check_floats(logits=logits)
  check_above_zero(temperature=temperature)
  if not stretch >= 0 or not 0 < bias < 0.5:
    raise Refusal(f'stretch must be at least 0 and bias in (0, 0.5), but they are {stretch} and {bias}')
  noise = jax.random.uniform(key, logits.shape, logits.dtype, bias, 1 - bias)
  soft = jax.nn.sigmoid((jnp.log(noise) - jnp.log1p(-noise) + logits) / temperature)
  mask = jnp.clip(soft * (1 + 2 * stretch) - stretch, 0, 1)
  return mask + jax.lax.stop_gradient(jnp.round(mask) - mask) if rounded else mask


def mmd_rbf(x: Float[Array, 'b d'], y: Float[Array, 'b d']) -> Float[Array, '']:
  r"""Squared maximum mean discrepancy of two batches, of five Gaussian kernels.

  .. math:: \frac{1}{B^2} \sum_{ij} k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j), \qquad
            k(a, b) = \sum_{p = -2}^{2} e^{-\lVert a - b \rVert^2 / (2^p w)}

  w is the mean squared distance over pairs of different rows of both batches, a constant. The diagonals count, so 0 is
  the least, at equal batches. A statistic of 2B rows, made whole: it is of batches of series, which are small.

  Raises:
    ValueError: shapes that differ, what is no floating-point array.

  Source: Gretton et al., 2012; Zheng et al., 2024, whose code has these bandwidths.
  """
  inputs.check_sides(x, y, equal=True)
  inputs.check_whole('mmd_rbf')
  both = jnp.concatenate([inputs.wide(x), inputs.wide(y)])
  squares = jnp.square(both[:, None] - both).sum(-1)
  count = len(both)
  width = jax.lax.stop_gradient(squares.sum()) / (count * (count - 1))
  width = jnp.maximum(width, jnp.finfo(width.dtype).tiny * 2**8)
  kernel = sum((jnp.exp(-squares / (2.0**power * width)) for power in _KERNELS), jnp.zeros(()))
  sign = jnp.where(jnp.arange(count) < len(x), 1.0, -1.0)
  return jnp.matmul(jnp.matmul(sign, kernel, precision='highest'), sign, precision='highest') / len(x) ** 2


def local_info_nce(
  h: Float[Array, 'b t d'], start: Int[Array, ''] | int = 0, *, segments: int = 16
) -> Float[Array, 'b s']:
  r"""Segments of a series: each tells the next one from those that are not beside it.

  Steps are scaled to unit norm, segments of floor(T / S) steps from `start` on are pooled by their maximum, and inner
  products are logits. The positive of a segment is the next one, of the last the one before it; its negatives are all
  but itself and its neighbours, and at the ends but those two steps away, so that every row has S - 3 of them.

  Args:
    h: embeddings of every step, `[B, T, D]`.
    start: of the first segment, from 0 to T - S floor(T / S); drawn anew at every step, say.
    segments: S >= 4.

  Returns:
    One value per series and segment, `[B, S]`; log(S - 2) where all steps are alike.

  Raises:
    ValueError: what is no floating-point `[B, T, D]`, fewer than 4 segments, or steps than segments.

  Source: Zheng et al., 2024; its code uses the first series of a batch alone.
  """
  inputs.check_floats(h=h)
  if h.ndim != 3:
    raise Refusal(f'h must be [B, T, D], but it is {list(h.shape)}')
  if not 4 <= segments <= h.shape[1]:
    raise Refusal(f'segments must be from 4 to the {h.shape[1]} steps, but it is {segments}')
  size = h.shape[1] // segments
  cut = jax.lax.dynamic_slice_in_dim(inputs.unit(inputs.wide(h)), start, size * segments, axis=1)
  pooled = cut.reshape(h.shape[0], segments, size, -1).max(2)
  logits = jnp.einsum('bsd,btd->bst', pooled, pooled, precision='highest')
  place = jnp.arange(segments)
  apart = jnp.abs(place[:, None] - place)
  end = (place == 0) | (place == segments - 1)
  negative = (apart > 1) & ~(end[:, None] & (apart == 2))
  following = jnp.where(place == segments - 1, place - 1, place + 1)
  own = jnp.take_along_axis(logits, jnp.broadcast_to(following[:, None], (*logits.shape[:2], 1)), axis=2)[..., 0]
  others = jax.nn.logsumexp(jnp.where(negative, logits, -jnp.inf), axis=2)
  return jnp.logaddexp(own, others) - own


def mask_roughness(
  h: Float[Array, 'b t f'], near: Int[Array, ' p'], far: Int[Array, ' p'], *, as_released: bool = False
) -> Float[Array, ' b']:
  r"""How far a mask is from smooth among neighbours and different at a distance, at pairs of steps.

  .. math:: R = \frac{1}{P} \sum_{(t, s)} |h_t - h_{t-1}| + |h_t - h_{t+1}| + 1 - |h_t - h_s|

  means over the features. As released, the last part is :math:`|h_t - h_s|` instead where s > t + 1, which makes alike
  what lies ahead.

  Args:
    h: in [0, 1], `[B, T, F]`.
    near: t, `[P]`, from 1 to T - 2; the same for all series.
    far: s, `[P]`.
    as_released: the sign of the paper's code.

  Returns:
    One value per series, `[B]`.

  Raises:
    ValueError: what is no floating-point `[B, T, F]`, steps that are no integers `[P]`.

  Source: Zheng et al., 2024, equation 13.
  """
  inputs.check_floats(h=h)
  if h.ndim != 3:
    raise Refusal(f'h must be [B, T, F], but it is {list(h.shape)}')
  inputs.check_entries(near.shape[0], near=near, far=far)
  here = h[:, near]
  apart = jnp.abs(here - h[:, far])
  ahead = (far > near + 1)[:, None]
  distance = jnp.where(ahead, apart, 1 - apart) if as_released else 1 - apart
  smooth = jnp.abs(here - h[:, near - 1]) + jnp.abs(here - h[:, near + 1])
  return (smooth + distance).mean((1, 2))
