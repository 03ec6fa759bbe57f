"""How close instances are to all others: the part of a loss that keeps embeddings from collapsing."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.similarity import Fold, logsumexp, size

__all__ = ['instance_energy']


def instance_energy(
  z: Float[Array, 'v b d'],
  *,
  temperature: Temperature = 2.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""The logarithm of each anchor's mean exponential similarity with all views of the other instances.

  .. math:: e_a = \log \frac{1}{V (B - 1)} \sum_{w} \sum_{j \ne i} \exp \frac{z_a^\top z_{w,j}}{\tau}

  The negatives of BECLR are the logarithm of the mean over anchors of their exponentials.

  Args:
    z: `[V, B, D]`, unit norm. One view is allowed.
    temperature: tau; a scalar, or one per instance `[B]` or per anchor `[V, B]`.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`: 0 where all are orthogonal, 1 / tau where all are the same; 0 of a single instance.

  Raises:
    ValueError: as in `nt_xent`.

  Source: Poulakakis-Daktylidis and Jamali-Rad, 2024, eq. 3.
  """
  inputs.check_views(z, at_least=1)
  inputs.check_temperature(temperature, z.shape[1:2], z.shape[:2])
  z = inputs.wide(z)
  views = z.shape[0]
  op, logit = inputs.symmetric(inputs.flatten(z), inputs.per_row(temperature, z), {}, fold, precision)
  others = inputs.other_instance(views)
  (lse, count), _ = op.reduce([logsumexp(logit, others), size(others)])
  some = count > 0
  return inputs.unflatten(jnp.where(some, jnp.where(some, lse, 0) - jnp.log(jnp.maximum(count, 1)), 0), views)
