"""Poly-View losses: each view of an instance tells the other views of it from all views of all others."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.similarity import Fold, Similarity, logsumexp
from contrastive_jax.types import Refusal, nearest

__all__ = ['poly_view']

AGGREGATES = ('geometric', 'arithmetic', 'sufficient')


def poly_view(
  z: Float[Array, 'v b d'],
  *,
  temperature: Temperature = 0.1,
  aggregate: str = 'geometric',
  normalize_rest: bool = False,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Poly-View contrastive loss in its three forms.

  With the probability of finding view w of the instance among all views of all others,

  .. math:: p_{v,i,w} = \frac{e^{s_{vi,wi}}}{e^{s_{vi,wi}} + \sum_{j \ne i} \sum_u e^{s_{vi,uj}}},
            \qquad s = z^\top z / \tau

  .. math:: \ell^{\text{geometric}}_{v,i} = -\frac{1}{V-1} \sum_{w \ne v} \log p_{v,i,w}, \qquad
            \ell^{\text{arithmetic}}_{v,i} = -\log \frac{1}{V-1} \sum_{w \ne v} p_{v,i,w}

  The sufficient statistics of the rest are their mean :math:`q_{v,i} = \frac{1}{V-1} \sum_{w \ne v} z_{w,i}`:

  .. math:: \ell^{\text{sufficient}}_{v,i} = -\log \frac{e^{z_{v,i}^\top q_{v,i} / \tau}}
            {e^{z_{v,i}^\top q_{v,i} / \tau} + \sum_{j \ne i} \sum_u e^{z_{u,j}^\top q_{v,i} / \tau}}

  A positive meets the negatives alone: the anchor's other positives are not in its denominator. With two views all
  three are NT-Xent (the last with the views exchanged); the arithmetic form never exceeds the geometric one.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2.
    temperature: divides similarities; a scalar, or one per instance `[B]` or per anchor `[V, B]`.
    aggregate: 'geometric', 'arithmetic' or 'sufficient'.
    normalize_rest: of 'sufficient', scales the mean of the rest to unit norm. The paper does not say whether it is.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`; 0 where there is no negative (B = 1).

  Raises:
    ValueError: as in `nt_xent`, and an unknown aggregate.

  Source: Shidani et al., 2024, "Poly-View Contrastive Learning", the one-versus-rest forms of section 2.
  """
  inputs.check_views(z)
  inputs.check_temperature(temperature, z.shape[1:2], z.shape[:2])
  if aggregate not in AGGREGATES:
    raise Refusal(f"unknown aggregate '{aggregate}'{nearest(str(aggregate), AGGREGATES)}")
  z = inputs.wide(z)
  if aggregate == 'sufficient':
    return _of_the_rest(z, inputs.per_anchor(temperature, z), normalize_rest, fold, precision)
  views = z.shape[0]
  op, logit = inputs.symmetric(inputs.flatten(z), inputs.per_row(temperature, z), {}, fold, precision)
  (negatives,), _ = op.reduce([logsumexp(logit, inputs.other_instance(views))])
  positives = inputs.gram(z) / inputs.per_anchor(temperature, z).T[:, :, None]
  each = jax.nn.softplus(negatives.reshape(-1, views, 1) - positives)  # -log p, [B, V, V]
  others = inputs.off_diagonal(views)
  if aggregate == 'geometric':
    return jnp.where(others, each, 0).sum(-1).T / (views - 1)
  return (jnp.log(views - 1.0) - jax.nn.logsumexp(-each, axis=-1, where=others)).T


def _of_the_rest(z, temperature, normalize: bool, fold, precision):
  """Each view's mean of the others among all views of all other instances."""
  views = z.shape[0]
  rest = (z.sum(0) - z) / (views - 1)
  rest = inputs.unit(rest) if normalize else rest
  logits = (rest * z).sum(-1) / temperature
  rows = {'z': inputs.flatten(rest / temperature[..., None])}
  op = Similarity(rows, {'z': inputs.flatten(z)}, fold=fold, precision=precision)
  (negatives,), _ = op.reduce([logsumexp(over=inputs.other_instance(views))])
  return jax.nn.softplus(inputs.unflatten(negatives, views) - logits)
