"""Two-view losses whose alignment and uniformity decouple: DHEL and kernel contrastive learning."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.similarity import Fold, Similarity, mean
from contrastive_jax.types import Refusal, nearest

__all__ = ['dhel', 'kcl']


def dhel(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  *,
  temperature: Temperature = 0.3,
  both_views: bool = True,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Decoupled hyperspherical energy loss (DHEL): negatives come from the anchor's own view alone.

  .. math:: \ell_i = -\frac{x_i^\top y_i}{\tau} + \log \sum_{j \ne i} e^{x_i^\top x_j / \tau}
            + \log \sum_{j \ne i} e^{y_i^\top y_j / \tau}

  Similarities between the views are not in a denominator, so alignment and uniformity have optima of their own.

  Args:
    x: `[B, D]`, unit norm.
    y: `[B, D]`, the other view of each instance.
    temperature: divides similarities; a scalar. The official code uses 0.3.
    both_views: without, the last term is left out.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per instance, `[B]`; 0 where there is no negative (B = 1).

  Raises:
    ValueError: shapes that differ, a static temperature <= 0, an unknown fold or precision.

  Source: Koromilas et al., 2024, "Bridging Mini-Batch and Asymptotic Analysis in Contrastive Learning", section 5.
  """
  inputs.check_sides(x, y, equal=True)
  inputs.check_temperature(temperature)
  x, y = inputs.wide(x), inputs.wide(y)
  energies = inputs.within_views(jnp.stack([x, y]) if both_views else x[None], temperature, fold, precision)
  some = ~jnp.isneginf(energies[0])
  return jnp.where(some, jnp.where(some, energies, 0).sum(0) - (x * y).sum(-1) / temperature, 0)


# Kernels of the squared distance; t, c and s are their parameters.
_KERNELS: dict[str, Callable] = {
  'gaussian': lambda square, p: jnp.exp(-p * square),
  'inverse_multiquadric': lambda square, p: p * jax.lax.rsqrt(p * p + square),
  # A coincident pair has infinite energy; rounding can bring two distinct ones as near.
  'riesz': lambda square, p: jnp.sign(p) * jnp.maximum(square, 1e-12) ** (-p / 2),
  'logarithmic': lambda square, p: -jnp.log1p(p * square),
}


def kcl(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  *,
  kernel: str = 'gaussian',
  parameter: float | Float[Array, ''] = 2.0,
  energy_weight: float | Float[Array, ''] = 16.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Kernel contrastive loss (KCL): a kernel aligns positives, and its energy spreads each view.

  .. math:: \ell_i = -2 k(x_i, y_i) + \gamma \frac{1}{B-1} \sum_{j \ne i} \big( k(x_i, x_j) + k(y_i, y_j) \big)

  Kernels of the distance d with their parameter p: 'gaussian' :math:`e^{-p d^2}`, 'inverse_multiquadric'
  :math:`p / \sqrt{p^2 + d^2}`, 'riesz' :math:`\mathrm{sign}(p) \, d^{-p}`, 'logarithmic' :math:`-\log(p d^2 + 1)`,
  whose energy has half the weight. The expected value does not depend on the batch size.

  Args:
    x: `[B, D]`, unit norm.
    y: `[B, D]`, the other view of each instance.
    kernel: one of these.
    parameter: p.
    energy_weight: gamma.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per instance, `[B]`.

  Raises:
    ValueError: shapes that differ, an unknown kernel, fold or precision.

  Source: Koromilas et al., 2024, section 4, with the kernels of its repository, pakoromilas/DHEL-KCL.
  """
  inputs.check_sides(x, y, equal=True)
  if kernel not in _KERNELS:
    raise Refusal(f"unknown kernel '{kernel}'{nearest(str(kernel), _KERNELS)}")
  x, y = inputs.wide(x), inputs.wide(y)
  parameter = jnp.asarray(parameter, x.dtype)
  of_square = _KERNELS[kernel]

  def energy(view):
    square = jnp.square(view).sum(-1)
    rows = {'z': view, 'square': square, 'parameter': jnp.broadcast_to(parameter, square.shape)}

    def value(pair):
      # Rounding could make the distance of a pair negative.
      apart = jnp.maximum(pair.anchor['square'] + pair.other['square'] - 2 * pair.dot, 0)
      return of_square(apart, pair.anchor['parameter'])

    (each,), _ = Similarity(rows, fold=fold, precision=precision).reduce([mean(value)])
    return each

  aligned = of_square(jnp.square(x - y).sum(-1), parameter)
  share = 0.5 if kernel == 'logarithmic' else 1.0
  return -2 * aligned + energy_weight * share * jax.lax.map(energy, jnp.stack([x, y])).sum(0)
