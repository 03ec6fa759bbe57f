"""SepCLR: what two sets of instances have in common apart from what only one of them has."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.uniformity import uniformity
from contrastive_jax.similarity import Fold, Similarity, logsumexp, size, total
from contrastive_jax.types import Refusal

__all__ = ['kernel_negative_entropy', 'sep_clr']

Variance = float | Float[Array, '']


def kernel_negative_entropy(
  x: Float[Array, 'b d'],
  *,
  variance: Variance = 0.5,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Logarithm of each row's density by a Gaussian kernel; the mean is the resubstitution estimate of -H(x).

  .. math:: \ell_i = \log \frac1B \sum_{j=1}^{B} e^{-\lVert x_i - x_j \rVert^2 / 2 t}

  The row itself is counted, so the values lie between -log B, where rows are far apart, and 0, where all coincide. Of
  the columns of two embeddings side by side the kernel is the product of theirs: their joint entropy.

  Args:
    x: `[B, D]`, of any norm.
    variance: t, of the kernel.
    fold: as in `uniformity`.
    precision: as in `uniformity`.

  Returns:
    One value per row, `[B]`.

  Raises:
    ValueError: `x` is not `[B, D]`; a static variance <= 0; an unknown fold or precision.

  Source: Louiset et al., 2024, section 4.3; the estimate of Ahmad and Lin, 1976.
  """
  inputs.check_sides(x, x)
  inputs.check_positive('variance', variance)
  x = inputs.wide(x)
  x = x * jax.lax.rsqrt(jnp.asarray(variance, x.dtype))
  rows = {'z': x, 'half': jnp.square(x).sum(-1) / 2}
  term = logsumexp(lambda pair: pair.dot - pair.anchor['half'] - pair.other['half'])
  (others, count), _ = Similarity(rows, fold=fold, precision=precision).reduce([term, size()])
  alone = jnp.isneginf(others)
  # The row itself, which a similarity of rows with themselves leaves out, adds a potential of exp(0).
  of_all = jnp.where(alone, 0, jnp.logaddexp(jnp.where(alone, 0, others), 0))
  return of_all - jnp.log(count + 1)


def sep_clr(
  common: Float[Array, 'v b c'],
  salient: Float[Array, 'v b s'],
  target: Bool[Array, ' b'],
  *,
  variance: Variance = 0.5,
  salient_weight: float = 1000.0,
  background_weight: float = 1000.0,
  joint_weight: float = 10.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""SepCLR: a common embedding of all instances, and a salient one that is zero of those of the background.

  .. math:: \mathcal{L} &= \mathrm{align}(c) + 2 \, \mathrm{unif}(c)
            + \lambda_s \big( \mathrm{align}_\text{target}(s) + 2 \, \mathrm{unif}(s') \big)
            + \lambda_r \, \mathrm{align}_\text{background}(0, s) + \lambda_j \, \mathrm{JE}(s', c) \\
            s'_i &= s_i \text{ of targets}, 0 \text{ of the background}

  With :math:`\mathrm{align}(x) = \mathrm{mean}_i \lVert x^1_i - x^2_i \rVert^2 / 2t`,
  :math:`\mathrm{unif}(x) = \log \mathrm{mean}_{i<j} k(x_i, x_j)` and, which keeps the two from having the same content,
  :math:`\mathrm{JE} = \mathrm{mean}_i \log \mathrm{mean}_j k(s'_i, s'_j) k(c_i, c_j)`, both the mean over views;
  :math:`k(a, b) = e^{-\lVert a - b \rVert^2 / 2t}`.

  Args:
    common: c, `[V, B, C]`, unit norm, V >= 2. With more than two views alignment is the mean over pairs of views.
    salient: s, `[V, B, S]`, of any norm.
    target: `[B]`, True for instances of the target set and False for the background.
    variance: t.
    salient_weight: of alignment and uniformity of the salient embedding.
    background_weight: of the alignment of the background with the null vector.
    joint_weight: of the joint entropy.
    fold: as in `uniformity`.
    precision: as in `uniformity`.

  Returns:
    One value per instance, `[B]`, whose mean is the loss: uniformities count for all alike, a mean over a set for its
    members. A set without members adds nothing.

  Raises:
    ValueError: embeddings that are not `[V, B, ...]` of the same views and instances, V < 2, B < 2; `target` of another
      shape or type; a static variance <= 0; an unknown fold or precision.

  Source: Louiset et al., 2024, "Separating common from salient patterns [...]", with the weights of its repository.
  """
  _check_separated(common, salient, target, variance)
  common, salient, target = inputs.wide(common), inputs.wide(salient), jnp.asarray(target)
  shown = jnp.where(target[:, None], salient, 0)
  of_fold: dict[str, Any] = dict(fold=fold, precision=precision)

  def spread(z):
    return 2 * jnp.stack([uniformity(view, t=1 / (2 * variance), **of_fold) for view in z]).mean()

  both = jnp.concatenate([shown, common], axis=-1)
  joint = jnp.stack([kernel_negative_entropy(view, variance=variance, **of_fold) for view in both]).mean(0)
  of_common = _apart(common) / (2 * variance) + spread(common)
  of_salient = _apart(salient) * _member_weight(target, fold) / (2 * variance) + spread(shown)
  norms = jnp.square(salient).sum(-1).mean(0)
  of_background = norms * _member_weight(~target, fold) / (2 * variance)
  return of_common + salient_weight * of_salient + background_weight * of_background + joint_weight * joint


def _check_separated(common, salient, target, variance):
  inputs.check_views(common, name='common')
  inputs.check_views(salient, name='salient')
  if common.shape[:2] != salient.shape[:2]:
    raise Refusal(f'common and salient must be of the same views and instances: {common.shape} and {salient.shape}')
  inputs.check_array('target', target, jnp.bool_, 'boolean')
  inputs.check_entries(common.shape[1], target_mask=target)
  inputs.check_positive('variance', variance)


def _apart(z: Float[Array, 'v b d']) -> Float[Array, ' b']:
  """Mean squared distance between two views of each instance, over the pairs of views."""
  views = z.shape[0]
  pairs = [jnp.square(z[v] - z[w]).sum(-1) for w in range(views) for v in range(w)]
  return jnp.stack(pairs).mean(0)


def _member_weight(members: Bool[Array, ' b'], fold) -> Float[Array, ' b']:
  """What members of a set weigh so that the mean over all instances of all devices is the mean over the set."""
  ones = jnp.ones((1, 1), jnp.float32)
  op = Similarity({'z': ones}, {'z': members.astype(jnp.float32)[:, None]}, fold=fold)
  (found, count), _ = op.reduce([total(), size()])
  return jnp.where(members, count[0] / jnp.maximum(found[0], 1), 0)
