"""Losses over V views of B instances, `z: [V, B, D]`: the positives are the other views, or share a label."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.similarity import Fold, logsumexp, positive, size, total

__all__ = ['decoupled', 'mv_dhel', 'mv_info_nce', 'nt_xent', 'sup_con']


def _mean_positive(z, temperature):
  """Mean logit between each view and the other views of its instance, `[V, B]`."""
  views = z.shape[0]
  logits = jnp.where(inputs.off_diagonal(views), inputs.gram(z), 0).sum(-1).T / (views - 1)
  return logits / temperature


def nt_xent(
  z: Float[Array, 'v b d'],
  *,
  temperature: Temperature = 0.1,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""NT-Xent, the loss of SimCLR, for any number of views.

  .. math:: \ell_{v,i} = -\frac{1}{V-1} \sum_{w \ne v} \frac{z_{v,i}^\top z_{w,i}}{\tau}
            + \log \sum_{(w,j) \ne (v,i)} \exp \frac{z_{v,i}^\top z_{w,j}}{\tau}

  The denominator holds all V*B - 1 others, the positives included; only the anchor itself is left out. With more than
  two views the positives are averaged outside the logarithm.

  Args:
    z: `[V, B, D]` views, instances, features; unit norm; V >= 2.
    temperature: divides similarities; a scalar, or one per instance `[B]` or per anchor `[V, B]`. Learnable.
    fold: 'auto', `dense()`, `chunked(rows, cols)`, `ring(axis)`, `local()`; never changes the value.
    precision: of the products: None (float32), 'bfloat16', 'bfloat16_3x'.

  Returns:
    One value per anchor, `[V, B]`. Their mean is the published loss; the official code returns twice that.

  Raises:
    ValueError: `z` is not `[V, B, D]`, V < 2, a static temperature <= 0, an unknown fold or precision.

  Source: Chen et al., 2020, eq. 1.
  """
  inputs.check_views(z)
  inputs.check_temperature(temperature, z.shape[1:2], z.shape[:2])
  z = inputs.wide(z)
  op, logit = inputs.symmetric(inputs.flatten(z), inputs.per_row(temperature, z), {}, fold, precision)
  (lse,), _ = op.reduce([logsumexp(logit)])
  return inputs.unflatten(lse, z.shape[0]) - _mean_positive(z, temperature)


def sup_con(
  z: Float[Array, 'v b d'],
  labels: Int[Array, ' b'],
  *,
  temperature: Temperature = 0.1,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Supervised contrastive loss: every other view of every instance with the anchor's label is a positive.

  .. math:: \ell_a = -\frac{1}{|P(a)|} \sum_{p \in P(a)} \frac{z_a^\top z_p}{\tau}
            + \log \sum_{c \ne a} \exp \frac{z_a^\top z_c}{\tau}

  The form with the mean outside the logarithm ("out"), without the factor tau / base temperature of the official code.

  Args:
    z: `[V, B, D]`, unit norm. One view (V = 1) is allowed: labels make the positives.
    labels: `[B]` integers; a label of -1 is never a positive, not even for the other views of its instance.
    temperature: divides similarities; a scalar, or one per instance `[B]` or per anchor `[V, B]`.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`; 0 for anchors without positives.

  Raises:
    ValueError: as in `nt_xent`, and if `labels` are not integers `[B]`.

  Source: Khosla et al., 2020, eq. 2.
  """
  inputs.check_views(z, at_least=1)
  inputs.check_temperature(temperature, z.shape[1:2], z.shape[:2])
  inputs.check_entries(z.shape[1], labels=labels)
  z = inputs.wide(z)
  views = z.shape[0]
  entries = {'id': inputs.of_rows(labels, views)}
  op, logit = inputs.symmetric(inputs.flatten(z), inputs.per_row(temperature, z), entries, fold, precision)
  terms = [logsumexp(logit), total(logit, positive), size(positive)]
  (lse, logits, count), _ = op.reduce(terms)
  some = count > 0
  values = jnp.where(some, jnp.where(some, lse, 0) - logits / jnp.maximum(count, 1), 0)
  return inputs.unflatten(values, views)


def decoupled(
  z: Float[Array, 'v b d'],
  *,
  temperature: Temperature = 0.1,
  sigma: float | None = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Decoupled contrastive loss (DCL): NT-Xent without the positives in its denominator; with `sigma`, DCLW.

  .. math:: \ell_{v,i} = -\frac{w_i}{V-1} \sum_{w \ne v} \frac{z_{v,i}^\top z_{w,i}}{\tau}
            + \log \sum_{w} \sum_{j \ne i} \exp \frac{z_{v,i}^\top z_{w,j}}{\tau}

  .. math:: w_i = 2 - \frac{\exp(z_{1,i}^\top z_{2,i} / \sigma)}{\frac1B \sum_j \exp(z_{1,j}^\top z_{2,j} / \sigma)}

  Without `sigma` the weights are 1. They are taken as constants: public implementations differ in whether the gradient
  passes through them. The loss is unbounded below.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2 (V = 2 with `sigma`).
    temperature: divides similarities; a scalar, or one per instance `[B]` or per anchor `[V, B]`.
    sigma: temperature of the von Mises-Fisher weights (the paper's is 0.5); None for DCL.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`; 0 where there is no negative (B = 1).

  Raises:
    ValueError: as in `nt_xent`; `sigma` <= 0; V != 2 with `sigma`.

  Source: Yeh et al., 2022, eq. 6 and section 3.3.
  """
  inputs.check_views(z, exactly=None if sigma is None else 2)
  inputs.check_temperature(temperature, z.shape[1:2], z.shape[:2])
  inputs.check_positive('sigma', sigma)
  z = inputs.wide(z)
  views = z.shape[0]
  op, logit = inputs.symmetric(inputs.flatten(z), inputs.per_row(temperature, z), {}, fold, precision)
  (lse,), _ = op.reduce([logsumexp(logit, inputs.other_instance(views))])
  weights: float | Array = 1.0
  if sigma is not None:
    logits = jax.lax.stop_gradient((z[0] * z[1]).sum(-1)) / sigma
    lse_all, count = inputs.global_logsumexp(logits, fold)
    weights = 2 - jnp.exp(logits - lse_all) * count
  some = ~jnp.isneginf(lse)
  values = inputs.unflatten(jnp.where(some, lse, 0), views) - weights * _mean_positive(z, temperature)
  return jnp.where(inputs.unflatten(some, views), values, 0)


def mv_info_nce(
  z: Float[Array, 'v b d'],
  *,
  temperature: Temperature = 0.1,
  include_same_view: bool = True,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Multi-view InfoNCE: one softmax term per instance over all pairs of its views.

  .. math:: \ell_i = -\log \sum_{v \ne w} e^{s_{vi,wi}} + \log \sum_v \sum_{(w,j) \in A_v} e^{s_{vi,wj}},
            \qquad s = z^\top z / \tau

  With `include_same_view` the allowed set holds all V*B - 1 others of the anchor, as in the official code; without it,
  only the other views, w != v, of every instance, as in the published formula.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2.
    temperature: divides similarities; a scalar.
    include_same_view: whether same-view similarities are negatives.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per instance, `[B]`.

  Raises:
    ValueError: as in `nt_xent`.

  Source: Koromilas et al., 2025, "A Principled Framework for Multi-View Contrastive Learning"; the two denominators are
  those of its formula and of its repository, pakoromilas/Multi-View-CL.
  """
  inputs.check_views(z)
  inputs.check_temperature(temperature)
  z = inputs.wide(z)
  views = z.shape[0]
  op, logit = inputs.symmetric(inputs.flatten(z), temperature, {}, fold, precision)

  def other_view(pair):
    return pair.anchor['position'] % views != pair.other['position'] % views

  (lse,), _ = op.reduce([logsumexp(logit) if include_same_view else logsumexp(logit, other_view)])
  energy = jax.nn.logsumexp(inputs.unflatten(lse, views), axis=0)
  alignment = jax.nn.logsumexp(inputs.gram(z) / temperature, axis=(1, 2), where=inputs.off_diagonal(views))
  return energy - alignment


def mv_dhel(
  z: Float[Array, 'v b d'],
  *,
  temperature: Temperature = 0.1,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Multi-view DHEL: one alignment term over all pairs of views, and one uniformity term within each view.

  .. math:: \ell_i = -\log \sum_{v < w} e^{s_{vi,wi}} + \sum_{v=1}^{V} \log \sum_{j \ne i} e^{s_{vi,vj}},
            \qquad s = z^\top z / \tau

  Neither positives nor cross-view negatives enter a denominator. Unordered pairs of views and the mask j != i are those
  of the official code (the published formula sums ordered pairs, which adds log 2). The logarithms of the denominators
  are summed: their product, as in the code, overflows.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2.
    temperature: divides similarities; a scalar.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per instance, `[B]`; 0 where there is no negative (B = 1).

  Raises:
    ValueError: as in `nt_xent`.

  Source: Koromilas et al., 2025, "A Principled Framework for Multi-View Contrastive Learning".
  """
  inputs.check_views(z)
  inputs.check_temperature(temperature)
  z = inputs.wide(z)
  energies = inputs.within_views(z, temperature, fold, precision)
  upper = jnp.triu(inputs.off_diagonal(z.shape[0]))
  alignment = jax.nn.logsumexp(inputs.gram(z) / temperature, axis=(1, 2), where=upper)
  some = ~jnp.isneginf(energies[0])
  return jnp.where(some, jnp.where(some, energies, 0).sum(0) - alignment, 0)
