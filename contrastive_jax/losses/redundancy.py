"""Losses of second moments: no pair of instances is compared, so there is no fold to choose.

Statistics are those of the arrays given: under `jit` with arrays split over devices, of the global batch. Inside a
caller's own `shard_map` or `pmap` they would be those of one device, which changes the loss, so it is refused there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from contrastive_jax.losses import inputs
from contrastive_jax.types import Refusal, nearest

__all__ = ['barlow_twins', 'mmcr', 'vicreg', 'w_mse']


def _off_diagonal(matrix: Float[Array, 'd d']) -> Float[Array, 'd d']:
  return matrix - jnp.diag(jnp.diagonal(matrix))


def _product(a, b):
  """a^T b over the instances, at full precision."""
  return jnp.matmul(a.T, b, precision='highest')


def _check_two(name: str, a, b):
  inputs.check_whole(name)
  inputs.check_floats(a=a, b=b)
  if a.ndim != 2 or a.shape != b.shape or a.shape[0] < 2:
    raise Refusal(f'a and b must be [B, D] of one shape with B >= 2, but they are {a.shape} and {b.shape}')


def barlow_twins(
  a: Float[Array, 'b d'],
  b: Float[Array, 'b d'],
  *,
  off_diagonal_weight: float | Float[Array, ''] = 0.005,
  scale: float | Float[Array, ''] = 1.0,
) -> Float[Array, '']:
  r"""Barlow Twins: the cross-correlation of the two views' features shall be the identity.

  .. math:: \mathcal{L} = \sum_l (1 - C_{ll})^2 + \lambda \sum_{l \ne m} C_{lm}^2, \qquad
            C_{lm} = \frac1B \sum_i \hat a_{il} \hat b_{im}

  Features are standardised over the batch, with the biased variance and 1e-5 added to it.

  Args:
    a: `[B, D]` features of one view, of any norm.
    b: `[B, D]` features of the other view.
    off_diagonal_weight: lambda; the paper's 0.0051, rounded as libraries do.
    scale: multiplies the loss; public code uses 0.024 to 0.1 with its learning rates.

  Returns:
    A scalar.

  Raises:
    ValueError: shapes that differ, B < 2, a call inside `shard_map` or `pmap`.

  Source: Zbontar et al., 2021, eq. 1 and 2.
  """
  _check_two('barlow_twins', a, b)
  a, b = ((x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + 1e-5) for x in (inputs.wide(a), inputs.wide(b)))
  correlation = _product(a, b) / a.shape[0]
  on = jnp.square(1 - jnp.diagonal(correlation)).sum()
  return scale * (on + off_diagonal_weight * jnp.square(_off_diagonal(correlation)).sum())


def vicreg(
  a: Float[Array, 'b d'],
  b: Float[Array, 'b d'],
  *,
  invariance: float | Float[Array, ''] = 25.0,
  variance: float | Float[Array, ''] = 25.0,
  covariance: float | Float[Array, ''] = 1.0,
) -> Float[Array, '']:
  r"""VICReg: views agree, every feature varies, and no two features say the same.

  .. math:: \mathcal{L} = \frac{\lambda}{BD} \lVert a - b \rVert^2
            + \frac{\mu}{2} \sum_{x \in \{a, b\}} \frac1D \sum_l \Big[ 1 - \sqrt{\mathrm{Var}(x_l) + 10^{-4}} \Big]_+
            + \nu \sum_{x \in \{a, b\}} \frac1D \sum_{l \ne m} \mathrm{Cov}(x)_{lm}^2

  Variance and covariance are unbiased; features are not normalised.

  Args:
    a: `[B, D]` features of one view.
    b: `[B, D]` features of the other view.
    invariance: lambda.
    variance: mu; the factor 1/2, which some code leaves out, is the mean over the views.
    covariance: nu.

  Returns:
    A scalar.

  Raises:
    ValueError: shapes that differ, B < 2, a call inside `shard_map` or `pmap`.

  Source: Bardes et al., 2022, eq. 1 to 6, with the constants of its code.
  """
  _check_two('vicreg', a, b)
  a, b = inputs.wide(a), inputs.wide(b)

  def spread(x):
    hinge = jax.nn.relu(1 - jnp.sqrt(x.var(0, ddof=1) + 1e-4)).mean()
    centred = x - x.mean(0)
    moments = _product(centred, centred) / (x.shape[0] - 1)
    return hinge, jnp.square(_off_diagonal(moments)).sum() / x.shape[1]

  (hinge_a, redundancy_a), (hinge_b, redundancy_b) = spread(a), spread(b)
  agreement = jnp.square(a - b).mean()
  spread_ = (hinge_a + hinge_b) / 2
  return invariance * agreement + variance * spread_ + covariance * (redundancy_a + redundancy_b)


def _nuclear(x: Float[Array, '... n d']) -> Float[Array, '...']:
  """Sums of singular values: roots of the eigenvalues of the smaller Gram matrix."""
  n, d = x.shape[-2:]
  gram = jnp.einsum('...nd,...md->...nm' if n <= d else '...nd,...ne->...de', x, x, precision='highest')
  eigenvalues = jnp.linalg.eigvalsh(gram)
  # A singular value of zero has no derivative, and rounding makes eigenvalues of either sign of it.
  some = eigenvalues > 1e-6 * jnp.maximum(eigenvalues[..., -1:], 1e-12)
  return jnp.where(some, jnp.sqrt(jnp.where(some, eigenvalues, 1)), 0).sum(-1)


def mmcr(z: Float[Array, 'v b d'], *, weight: float | Float[Array, ''] = 0.0) -> Float[Array, '']:
  r"""Maximum manifold capacity representations: the centroids of the instances shall span as much as they can.

  .. math:: \mathcal{L} = -\lVert M \rVert_* + \frac{\lambda}{B} \sum_i \lVert Z_i \rVert_*, \qquad
            M_i = \frac1V \sum_v z_{v,i}

  with the nuclear norm (the sum of singular values) of the centroids `[B, D]` and of each instance's views `[V, D]`.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2.
    weight: lambda; 0 in the paper.

  Returns:
    A scalar, at least -sqrt(B min(B, D)).

  Raises:
    ValueError: `z` is not `[V, B, D]`, V < 2, a call inside `shard_map` or `pmap`.

  Source: Yerxa et al., 2023, eq. 3.
  """
  inputs.check_whole('mmcr')
  inputs.check_views(z)
  z = inputs.wide(z)
  spread = -_nuclear(z.mean(0))
  if isinstance(weight, int | float) and weight == 0:
    return spread
  return spread + weight * _nuclear(jnp.swapaxes(z, 0, 1)).mean()


def _check_partition(partition, h):
  inputs.check_integers(partition=partition)
  if partition.ndim != 2 or partition.shape[1] <= h.shape[2]:
    raise Refusal(
      f'partition must be [P, W] with W > D, as the covariance of {h.shape[2]} features needs more instances, but it '
      f'is {partition.shape}'
    )
  if isinstance(partition, jax.core.Tracer):
    return
  with jax.ensure_compile_time_eval():
    least, most = int(jnp.min(partition)), int(jnp.max(partition))
  if least < 0 or most >= h.shape[1]:
    raise Refusal(f'partition must name instances 0 to {h.shape[1] - 1}, but it holds {least} to {most}')


DISTANCES = ('cosine', 'euclidean')


def w_mse(
  h: Float[Array, 'v b d'],
  partition: Int[Array, 'p w'],
  *,
  eps: float | Float[Array, ''] = 0.0,
  distance: str = 'cosine',
) -> Float[Array, '']:
  r"""Whitening MSE: views agree after each was whitened over sub-batches, so that they cannot collapse.

  .. math:: \mathcal{L} = \frac{2}{V(V-1)} \sum_{v < w} \frac{1}{n} \sum_i \big( 2 - 2 \cos(y_{v,i}, y_{w,i}) \big),
            \qquad y = L^{-1} (h - \bar h), \quad L L^\top = (1 - \varepsilon) \Sigma + \varepsilon I

  L is the lower Cholesky factor, Sigma the unbiased covariance of one view's features in one sub-batch. The gradient
  passes through the whitening.

  Args:
    h: `[V, B, D]` features of any norm, V >= 2.
    partition: integers `[P, W]`, the instances of each sub-batch, W > D (at least 2 D is advised). Random, from
      outside, so that the loss is a function; several partitions may be stacked.
    eps: of the covariance.
    distance: 'cosine' as above, or 'euclidean': the mean square over all entries.

  Returns:
    A scalar.

  Raises:
    ValueError: `h` is not `[V, B, D]`, V < 2, sub-batches no larger than D or of instances that there are not, an
      unknown distance, a call inside `shard_map` or `pmap`.

  Source: Ermolov et al., 2021, eq. 3 to 6.
  """
  inputs.check_whole('w_mse')
  inputs.check_views(h, name='h')
  if distance not in DISTANCES:
    raise Refusal(f"unknown distance '{distance}'{nearest(str(distance), DISTANCES)}")
  _check_partition(partition, h)
  h = inputs.wide(h)[:, partition]  # [V, P, W, D]
  centred = h - h.mean(2, keepdims=True)
  moments = jnp.einsum('vpwd,vpwe->vpde', centred, centred, precision='highest') / (partition.shape[1] - 1)
  factor = jnp.linalg.cholesky((1 - eps) * moments + eps * jnp.eye(h.shape[3], dtype=h.dtype))
  white = jax.scipy.linalg.solve_triangular(factor, jnp.swapaxes(centred, 2, 3), lower=True)
  white = jnp.swapaxes(white, 2, 3)
  if distance == 'cosine':
    white = inputs.unit(white)
  apart = [jnp.square(white[v] - white[w]) for w in range(h.shape[0]) for v in range(w)]
  each = [x.sum(-1).mean() if distance == 'cosine' else x.mean() for x in apart]
  return jnp.stack(each).mean()
