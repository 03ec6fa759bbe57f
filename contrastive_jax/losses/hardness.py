"""Losses that choose, weigh or correct their negatives: hard, simple, debiased and hardness-weighted."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.similarity import Fold, logsumexp, maximum, mean, minimum, size
from contrastive_jax.types import Refusal

__all__ = ['hard_nce', 'hardness_nce', 'simple_contrastive']


def _check_share(name: str, value, *, below_one: bool = False):
  if isinstance(value, int | float) and not (0 <= value < 1 if below_one else 0 < value <= 1):
    raise Refusal(f'{name} must lie {"in [0, 1)" if below_one else "in (0, 1]"}, but it is {value}')


def _candidates(z, entries, temperature, fold, precision):
  """The operator of all views, its logit, and the set of negatives: all views of the other instances."""
  op, logit = inputs.symmetric(inputs.flatten(z), temperature, entries, fold, precision)
  return op, logit, inputs.other_instance(z.shape[0])


def _hard(z, temperature, alpha: float, fold, precision):
  """The set of each anchor's hardest negatives, and the entries that it reads: the least logit among them."""
  negative = inputs.other_instance(z.shape[0])
  if isinstance(alpha, int | float) and alpha == 1:
    return {}, negative

  def hard(pair):
    return negative(pair) & (pair.dot >= pair.anchor['least'])

  fixed = jax.lax.stop_gradient((z, temperature))
  return {'least': _quantile(*fixed, alpha, negative, fold, precision)}, hard


# Every pass divides the interval of an anchor's quantile by this; fourteen leave 4e-9 of its range, below rounding.
PARTS, PASSES = 4, 14


def _quantile(z, temperature, alpha: float, negative, fold, precision):
  """Each anchor's largest threshold that at least the share alpha of its negatives reaches.

  By counting: the k largest themselves would take k numbers an anchor, which is a matrix again where k grows with B.
  """
  op, logit, _ = _candidates(z, {}, temperature, fold, precision)
  (low, high, count), _ = op.reduce([minimum(logit, negative), maximum(logit, negative), size(negative)])
  wanted = jnp.maximum(jnp.round(alpha * count), 1)
  nothing = jnp.isinf(low)
  low, high = jnp.where(nothing, 0, low), jnp.where(nothing, 0, high)

  def reaches(part: int):
    return lambda pair: negative(pair) & (pair.dot >= pair.anchor['low'] + part * pair.anchor['step'])

  def narrower(_, interval):
    low, step = interval
    op, _, _ = _candidates(z, {'low': low, 'step': step}, temperature, fold, precision)
    counts, _ = op.reduce([size(reaches(part)) for part in range(1, PARTS + 1)])
    # Counts fall along the parts, so this is the number of the last part that enough negatives reach.
    last = sum((each >= wanted).astype(low.dtype) for each in counts)
    return low + last * step, step / PARTS

  least, _ = jax.lax.fori_loop(0, PASSES, narrower, (low, (high - low) / PARTS))
  # A threshold that was rounded up would lose the last of the negatives that it should keep.
  return least - 2 * jnp.finfo(z.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))


def hard_nce(
  z: Float[Array, 'v b d'],
  *,
  temperature: Temperature = 0.3,
  alpha: float = 0.0819,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Hard contrastive loss: NT-Xent with the hardest share of the negatives alone.

  .. math:: \ell_a = -\frac{1}{V-1} \sum_{p \in P_a} s_{ap} + \log \Big( \sum_{p \in P_a} e^{s_{ap}}
            + \sum_{n \in N_a : \, s_{an} \ge s^{(\alpha)}_a} e^{s_{an}} \Big), \qquad s = z^\top z / \tau

  :math:`s^{(\alpha)}_a` is the upper alpha quantile of the anchor's similarities to its V (B - 1) negatives, a
  constant: the set has no gradient. With alpha = 1 it is NT-Xent.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2.
    temperature: divides similarities; a scalar. The paper's best is 0.3 without, and larger with, truncation.
    alpha: share of the negatives that is kept, in (0, 1]; at least one is. The paper's value for CIFAR.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`.

  Raises:
    ValueError: as in `nt_xent`, and alpha outside (0, 1].

  Source: Wang and Liu, 2021, "Understanding the Behaviour of Contrastive Loss", eq. 10.
  """
  inputs.check_views(z)
  inputs.check_temperature(temperature)
  _check_share('alpha', alpha)
  z = inputs.wide(z)
  views = z.shape[0]
  temperature = jnp.asarray(temperature, z.dtype)
  entries, hard = _hard(z, temperature, alpha, fold, precision)
  op, logit, _ = _candidates(z, entries, temperature, fold, precision)
  (negatives,), _ = op.reduce([logsumexp(logit, hard)])
  positives = inputs.gram(z) / temperature
  others = inputs.off_diagonal(views)
  of_positives = jax.nn.logsumexp(positives, axis=-1, where=others)
  mean_positive = jnp.where(others, positives, 0).sum(-1) / (views - 1)
  return (jnp.logaddexp(negatives.reshape(-1, views), of_positives) - mean_positive).T


def simple_contrastive(
  z: Float[Array, 'v b d'],
  *,
  weight: float | Float[Array, ''] = 1.0,
  alpha: float = 1.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Simple contrastive loss: similarities without a softmax, the limit of NT-Xent at high temperature.

  .. math:: \ell_a = -\frac{1}{V-1} \sum_{p \in P_a} z_a^\top z_p + \frac{\lambda}{|N_a|} \sum_{n \in N_a} z_a^\top z_n

  It pushes all negatives alike. With alpha < 1 only the hardest share of them (hard simple loss), as in `hard_nce`.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2.
    weight: lambda, of the mean over the negatives.
    alpha: share of the negatives that is kept, in (0, 1].
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`.

  Raises:
    ValueError: `z` is not `[V, B, D]`, V < 2, alpha outside (0, 1], an unknown fold or precision.

  Source: Wang and Liu, 2021, eq. 8 and 11.
  """
  inputs.check_views(z)
  _check_share('alpha', alpha)
  z = inputs.wide(z)
  views = z.shape[0]
  entries, kept = _hard(z, jnp.ones((), z.dtype), alpha, fold, precision)
  op, cosine, _ = _candidates(z, entries, 1.0, fold, precision)
  (negatives,), _ = op.reduce([mean(cosine, kept)])
  positives = jnp.where(inputs.off_diagonal(views), inputs.gram(z), 0).sum(-1) / (views - 1)
  return weight * inputs.unflatten(negatives, views) - positives.T


def hardness_nce(
  z: Float[Array, 'v b d'],
  *,
  temperature: Temperature = 0.5,
  tau_plus: float = 0.1,
  beta: float = 1.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Debiased and hardness-weighted InfoNCE: negatives tilted towards hard ones, less the positives hidden among them.

  With :math:`N = V(B - 1)` negatives and :math:`w_{an} \propto e^{\beta s_{an}}`, which sum to 1,

  .. math:: E_a = N \sum_n w_{an} e^{s_{an}}, \qquad
            G_{ap} = \max \Big( \frac{E_a - \tau^+ N e^{s_{ap}}}{1 - \tau^+}, \; N e^{-1/\tau} \Big)

  .. math:: \ell_a = \frac{1}{V-1} \sum_{p \in P_a} \Big( -s_{ap} + \log( e^{s_{ap}} + G_{ap} ) \Big),
            \qquad s = z^\top z / \tau

  The floor is the least that N negatives can sum to; it has no gradient. Beta = 0 is debiased InfoNCE; with
  tau_plus = 0 too, two views give NT-Xent. The gradient passes through the weights, as in the official code.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2; the paper has two. With more, every positive is met on its own.
    temperature: divides similarities; a scalar.
    tau_plus: probability that a random instance is a positive, in [0, 1).
    beta: hardness; multiplies the logits in the weights. Inside `shard_map` a number, not traced.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`; 0 where there is no negative (B = 1).

  Raises:
    ValueError: as in `nt_xent`, and tau_plus outside [0, 1).

  Source: Robinson et al., 2021, eq. 4; beta = 0: Chuang et al., 2020, eq. 7.
  """
  inputs.check_views(z)
  inputs.check_temperature(temperature)
  _check_share('tau_plus', tau_plus, below_one=True)
  z = inputs.wide(z)
  temperature = jnp.asarray(temperature, z.dtype)
  op, logit, negative = _candidates(z, {}, temperature, fold, precision)
  terms = [
    logsumexp(lambda pair: (1 + beta) * logit(pair), negative),
    logsumexp(lambda pair: beta * logit(pair), negative),
  ]
  (tilted, weights), _ = op.reduce(terms)
  _, rows = inputs.global_logsumexp(jax.lax.stop_gradient(weights), fold)
  count = rows - z.shape[0]  # the anchor's own views are none
  return _corrected(z, temperature, tau_plus, tilted, weights, count)


def _corrected(z, temperature, tau_plus, tilted, weights, count):
  """The loss from log-sum-exps of the tilted logits and of the weights; everything over N, in logarithms."""
  views, some = z.shape[0], count > 0
  expected = (jnp.where(some, tilted, 0) - jnp.where(some, weights, 0)).reshape(-1, views, 1)
  log_count = jnp.log(jnp.maximum(count, 1))
  positives = inputs.gram(z) / temperature
  correction = jnp.log(jnp.asarray(tau_plus, z.dtype)) + positives  # -inf, no correction, for a prior of 0
  floor = -1 / temperature
  # The argument of the logarithm is guarded, not only its result.
  apart = correction - expected
  possible = apart < -1e-6
  difference = expected + jnp.log1p(-jnp.exp(jnp.where(possible, apart, -1.0))) - jnp.log1p(-tau_plus)
  corrected = jnp.where(possible & (difference > floor), difference, jax.lax.stop_gradient(floor))
  each = jax.nn.softplus(corrected + log_count - positives)
  values = jnp.where(inputs.off_diagonal(views), each, 0).sum(-1).T / (views - 1)
  return jnp.where(some, values, 0)
