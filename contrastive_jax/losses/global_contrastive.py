"""Global contrastive losses of views: each against a running estimate of its denominator over the whole data set.

They take and return the rows of `losses.running(...)` of their batch. Gradients are the published estimators, in which
running denominators are constants: a negative is weighed by its share of the batch's denominator times the ratio of
that to the running one. The ratio is of logarithms and at most 1 / gamma, so that nothing overflows at any temperature.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs, per_sample
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.losses.per_sample import Negatives, Rate, Running, Scalar
from contrastive_jax.similarity import Fold, logsumexp, mean

__all__ = ['isog_clr', 'sog_clr']


def _of_views(z, temperature, fold, precision, *, individual: bool) -> Negatives:
  """[V, B], over all views of the other instances; with divergences where temperatures are individual."""
  views, of_rows, over = z.shape[0], inputs.per_row(temperature, z), inputs.other_instance(z.shape[0])
  op, logit = inputs.symmetric(inputs.flatten(z), of_rows, {}, fold, precision)
  (lse,), _ = op.reduce([logsumexp(logit, over)])
  seen = ~jnp.isneginf(lse)
  log_mean = jnp.where(seen, lse - per_sample.log_count(lse, views, fold), 0)
  found = Negatives(inputs.unflatten(log_mean, views), inputs.unflatten(seen, views))
  if not individual:
    return found
  fixed = jax.lax.stop_gradient((inputs.flatten(z), of_rows, {'log_mean': log_mean}))
  op, logit = inputs.symmetric(*fixed, fold, precision)
  (divergence,), _ = op.reduce([mean(per_sample.against_uniform(logit), over)])
  return found._replace(divergence=inputs.unflatten(divergence + 1, views))


def _views(z, temperature, rho, found: Negatives, log_s) -> Float[Array, 'v b']:
  """The objective of every anchor, with the gradient of its estimator."""
  positives = jnp.where(inputs.off_diagonal(z.shape[0]), inputs.gram(z), 0).sum(-1).T / (z.shape[0] - 1)
  weight = temperature * jnp.exp(found.log_mean - log_s)
  values = per_sample.estimate(temperature * (log_s + rho), weight, found.log_mean) - positives
  return jnp.where(found.seen, values, 0)


def _over_views(log_s: Float[Array, 'v b']) -> Float[Array, ' b']:
  """The logarithm of the mean of the views' denominators."""
  return jax.nn.logsumexp(log_s, axis=0) - jnp.log(jnp.asarray(log_s.shape[0], log_s.dtype))


def sog_clr(
  z: Float[Array, 'v b d'],
  state: Running,
  *,
  temperature: Temperature = 0.1,
  gamma: Rate = 0.8,
  from_zero: bool = False,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> tuple[Float[Array, 'v b'], Running]:
  r"""SogCLR: each view against a running denominator, which stands for all negatives of the data set.

  .. math:: \ell_a = \tau \log s_a - \mathrm{mean}_{p \in P_a} z_a^\top z_p, \quad s_a = (1 - \gamma) s_i + \gamma g_a,
            \quad g_a = \mathrm{mean}_{n \in N_a} e^{z_a^\top z_n / \tau}

  The running :math:`s_i` of the instance, then the mean of its views' :math:`s_a`, is a constant, and the gradient is
  that of :math:`\sum_n w_{an} z_a^\top z_n - \mathrm{mean}_p z_a^\top z_p` with constant weights
  :math:`w_{an} = e^{z_a^\top z_n / \tau} / (|N_a| s_a)`. With gamma = 1 it is tau times that of `decoupled`.

  Args:
    z: `[V, B, D]`, unit norm, V >= 2; the paper has two.
    state: rows of `running(count)`, one an instance `[B]`.
    temperature: a constant, without gradient.
    gamma: rate of the running mean, in (0, 1].
    from_zero: running means start at 0, and not at the first g: first weights are then 1 / gamma times as large.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]` (the official loss sums over the two views: twice their mean), and the new state.
    Without negatives (B = 1) values are 0 and the state stays.

  Raises:
    ValueError: as in `nt_xent`; gamma outside (0, 1]; a state of other rows.

  Source: Yuan et al., 2022, "Provable Stochastic Optimization for Global Contrastive Learning"; views' mean and first
  visits as in the code of Qiu et al., 2023, zhqiu/contrastive-learning-iSogCLR, where the first epoch is what first
  visits are here.
  """
  inputs.check_views(z)
  inputs.check_temperature(temperature)
  per_sample.check_gamma(gamma)
  state = per_sample.check(state, z.shape[1])
  z = inputs.wide(z)
  temperature = jax.lax.stop_gradient(jnp.asarray(temperature, z.dtype))
  found = _of_views(z, temperature, fold, precision, individual=False)
  log_s = per_sample.blend(state, found.log_mean, found.seen, gamma, from_zero=from_zero)
  values = _views(z, temperature, 0, found, log_s)
  return values, per_sample.remember(state, found.seen.all(0), log_denominator=_over_views(log_s))


def isog_clr(
  z: Float[Array, 'v b d'],
  state: Running,
  *,
  rho: Scalar = 0.4,
  gamma: Rate = 0.8,
  from_zero: bool = False,
  tau_rate: Rate = 0.03,
  tau_beta: float = 0.5,
  tau_min: float = 0.05,
  tau_max: float = 1.0,
  tau_clip: float = 3.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> tuple[Float[Array, 'v b'], Running]:
  r"""iSogCLR: `sog_clr` with a temperature of each instance, learned as the price of a robust choice of negatives.

  .. math:: \ell_a = \tau_i \log s_a + \tau_i \rho - \mathrm{mean}_{p \in P_a} z_a^\top z_p

  Temperatures minimise it too, each by a step along a moving average of its own gradient
  :math:`\log s_a + \rho - \sum_n w_{an} z_a^\top z_n / \tau_i`, which with gamma = 1 is rho minus the divergence of the
  softmax over the negatives from the uniform distribution. They are no parameters: the loss steps them.

  Args:
    z: as in `sog_clr`.
    state: rows of `running(count, temperature=...)`; the official runs start at 0.1.
    rho: divergence that is allowed, in nats; 0.1 to 0.5 for images.
    gamma: as in `sog_clr`.
    from_zero: as in `sog_clr`.
    tau_rate: step size of the temperatures.
    tau_beta: weight of the newest gradient in their moving average.
    tau_min: least temperature.
    tau_max: largest temperature.
    tau_clip: largest magnitude of a gradient.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns and errors as in `sog_clr`.

  Source: Qiu et al., 2023, "Not All Semantics are Created Equal"; the defaults are those of its runs on CIFAR-100.
  """
  inputs.check_views(z)
  per_sample.check_gamma(gamma)
  per_sample.check_range(tau_min, tau_max, beta=tau_beta, clip=tau_clip)
  state = per_sample.check(state, z.shape[1], 'temperature', 'momentum')
  z = inputs.wide(z)
  temperature, rho = jnp.asarray(state.temperature, z.dtype), jax.lax.stop_gradient(jnp.asarray(rho, z.dtype))
  found = _of_views(z, temperature, fold, precision, individual=True)
  log_s = per_sample.blend(state, found.log_mean, found.seen, gamma, from_zero=from_zero)
  gradient = jnp.clip(per_sample.of_temperature(found, log_s, rho).mean(0), -tau_clip, tau_clip)
  stepped = per_sample.descend(state, gradient, rate=tau_rate, beta=tau_beta, least=tau_min, most=tau_max)
  values = _views(z, temperature, rho, found, log_s)
  return values, per_sample.remember(state, found.seen.all(0), log_denominator=_over_views(log_s), **stepped)
