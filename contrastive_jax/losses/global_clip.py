"""Global contrastive losses of two modalities: the pairs of `global_contrastive`, with a running denominator a side.

Logits are differences from the similarity of the anchor's own pair, over a temperature; the state has two sides.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs, per_sample
from contrastive_jax.losses.inputs import Mask, Temperature
from contrastive_jax.losses.per_sample import Negatives, Rate, Running, Scalar
from contrastive_jax.similarity import Fold, Similarity, dot, logsumexp, mean, negative
from contrastive_jax.types import Refusal, nearest

__all__ = ['fast_clip', 'isog_clip', 'sog_clip']

Sides = tuple[Running, Running]


def _check(x, y, state, gamma, mask, *fields: str) -> Sides:
  """The two sides of the state, without gradient."""
  inputs.check_sides(x, y, equal=True)
  inputs.check_entries(len(x), mask=mask)
  per_sample.check_gamma(gamma)
  if isinstance(state, Running) or not isinstance(state, tuple | list) or len(state) != 2:
    raise Refusal('state must be a pair, the rows of losses.running(...) for x and for y')
  of_x, of_y = (per_sample.check(side, len(x), *fields) for side in state)
  return of_x, of_y


def _scaled(pair):
  return pair.dot * pair.anchor['scale']


def _of_sides(x, y, mask, temperatures, fold, precision, *, individual: bool) -> list[Negatives]:
  """Of x against y and of y against x; with divergences where temperatures are individual."""
  there = {} if mask is None else {'mask': jnp.asarray(mask)}
  scales = [1 / temperature for temperature in temperatures]
  if individual:
    rows, cols, logit = {'z': x, 'scale': scales[0], **there}, {'z': y, 'scale': scales[1], **there}, _scaled
  else:
    rows, cols, logit = {'z': x * scales[0], **there}, {'z': y, **there}, dot
  term = [logsumexp(logit, negative)]
  lses = [lse for (lse,) in Similarity(rows, cols, fold=fold, precision=precision).reduce(term, term)]
  seen = [~jnp.isneginf(lse) & there.get('mask', True) for lse in lses]
  log_count = per_sample.log_count(lses[0], 1, fold, mask)
  means = [jnp.where(some, lse - log_count, 0) for lse, some in zip(lses, seen, strict=True)]
  own = [jnp.where(some, (x * y).sum(-1) * scale, 0) for scale, some in zip(scales, seen, strict=True)]
  found = [Negatives(each - pair, some) for each, pair, some in zip(means, own, seen, strict=True)]
  if not individual:
    return found
  fixed = jax.lax.stop_gradient((rows | {'log_mean': means[0]}, cols | {'log_mean': means[1]}))
  term = [mean(per_sample.against_uniform(logit), negative)]
  divergences = Similarity(*fixed, fold=fold, precision=precision).reduce(term, term)
  return [each._replace(divergence=one + 1) for each, (one,) in zip(found, divergences, strict=True)]


def _blended(state: Sides, found: list[Negatives], mask, gamma, from_zero: bool, diagonal: bool, fold):
  """The new running denominators of both sides, in logarithms; with the pair itself, of difference 0, if `diagonal`."""
  means = [each.log_mean for each in found]
  if diagonal:
    log_count = per_sample.log_count(means[0], 1, fold, mask)
    means = [jnp.logaddexp(each, -log_count) for each in means]
  return [
    per_sample.blend(side, log_mean, each.seen, gamma, from_zero=from_zero)
    for side, log_mean, each in zip(state, means, found, strict=True)
  ]


def _global(x, y, state: Sides, temperatures, rho, *, mask, gamma, from_zero, diagonal, individual, fold, precision):
  """Values of the pairs; the sides' statistics and running denominators."""
  found = _of_sides(x, y, mask, temperatures, fold, precision, individual=individual)
  log_s = _blended(state, found, mask, gamma, from_zero, diagonal, fold)
  values = jnp.zeros_like(found[0].log_mean)
  for each, log_denominator, temperature in zip(found, log_s, temperatures, strict=True):
    weight = temperature * jnp.exp(each.log_mean - log_denominator)
    values += per_sample.estimate(temperature * (log_denominator + rho), weight, each.log_mean)
  return jnp.where(found[0].seen, values, 0), found, log_s


def sog_clip(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  state: Sides,
  *,
  temperature: Temperature = 0.01,
  gamma: Rate = 0.8,
  from_zero: bool = False,
  diagonal: bool = False,
  mask: Mask = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> tuple[Float[Array, ' b'], Sides]:
  r"""SogCLR of two modalities: each row against a running denominator for all rows of the other side.

  .. math:: \ell_i = \tau \log s_i + \tau \log s'_i, \quad s_i \leftarrow (1 - \gamma) s_i + \gamma g_i, \quad
            g_i = \frac{1}{B-1} \sum_{j \ne i} e^{(x_i^\top y_j - x_i^\top y_i) / \tau}

  and :math:`s'`, :math:`g'` with the sides exchanged. Gradients take s as constants, as in `sog_clr`.

  Args:
    x: `[B, D]`, unit norm.
    y: `[B, D]`, unit norm; y[i] is the partner of x[i].
    state: a pair: rows of `running(count)` for x and for y.
    temperature: a constant, without gradient.
    gamma: as in `sog_clr`.
    from_zero: as in `sog_clr`; the official code does.
    diagonal: keeps the pair itself in g, as 1 / (B - 1): the official code does. It has no gradient of its own.
    mask: `[B]`, False for pairs that do not exist: neither anchors nor candidates, and B is the number of the others.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per pair, `[B]`, and the new state. Without negatives (B = 1) and where masked values are 0 and the state
    stays.

  Raises:
    ValueError: shapes that differ, a static temperature <= 0, gamma outside (0, 1], a state or mask of other rows.

  Source: Yuan et al., 2022; the code of Qiu et al., 2023, which besides adds 1e-10 to s in the weights.
  """
  state = _check(x, y, state, gamma, mask)
  inputs.check_temperature(temperature)
  x, y = inputs.wide(x), inputs.wide(y)
  temperature = jax.lax.stop_gradient(jnp.asarray(temperature, x.dtype))
  how = dict(from_zero=from_zero, diagonal=diagonal, individual=False, fold=fold, precision=precision)
  values, found, log_s = _global(x, y, state, (temperature, temperature), 0, mask=mask, gamma=gamma, **how)
  of_x, of_y = (
    per_sample.remember(side, each.seen, log_denominator=s) for side, each, s in zip(state, found, log_s, strict=True)
  )
  return values, (of_x, of_y)


def isog_clip(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  state: Sides,
  *,
  rho: Scalar = 6.0,
  gamma: Rate = 0.8,
  from_zero: bool = False,
  diagonal: bool = False,
  tau_rate: Rate = 0.03,
  tau_beta: float = 0.9,
  tau_min: float = 0.005,
  tau_max: float = 1.0,
  tau_clip: float = 5.0,
  mask: Mask = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> tuple[Float[Array, ' b'], Sides]:
  r"""iSogCLR of two modalities: `sog_clip` with a temperature of each row of either side, learned as in `isog_clr`.

  .. math:: \ell_i = \tau_i (\log s_i + \rho) + \tau'_i (\log s'_i + \rho)

  Args:
    x: as in `sog_clip`.
    y: as in `sog_clip`.
    state: a pair: rows of `running(count, temperature=...)`; the official runs start at 0.01.
    rho: divergence that is allowed, in nats; 6 to 8 in the official runs, which hold with `diagonal`.
    gamma: as in `sog_clr`.
    from_zero: as in `sog_clip`.
    diagonal: as in `sog_clip`.
    tau_rate: step size of the temperatures.
    tau_beta: weight of the newest gradient in their moving average.
    tau_min: least temperature.
    tau_max: largest temperature.
    tau_clip: largest magnitude of a gradient.
    mask: as in `sog_clip`.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns and errors as in `sog_clip`.

  Source: Qiu et al., 2023, and its code for CC3M, whose defaults these are.
  """
  state = _check(x, y, state, gamma, mask, 'temperature', 'momentum')
  per_sample.check_range(tau_min, tau_max, beta=tau_beta, clip=tau_clip)
  x, y = inputs.wide(x), inputs.wide(y)
  rho = jax.lax.stop_gradient(jnp.asarray(rho, x.dtype))
  temperatures = [jnp.asarray(side.temperature, x.dtype) for side in state]
  how = dict(from_zero=from_zero, diagonal=diagonal, individual=True, fold=fold, precision=precision)
  values, found, log_s = _global(x, y, state, temperatures, rho, mask=mask, gamma=gamma, **how)
  sides = []
  for side, each, s in zip(state, found, log_s, strict=True):
    gradient = jnp.clip(per_sample.of_temperature(each, s, rho), -tau_clip, tau_clip)
    stepped = per_sample.descend(side, gradient, rate=tau_rate, beta=tau_beta, least=tau_min, most=tau_max)
    sides.append(per_sample.remember(side, each.seen, log_denominator=s, **stepped))
  return values, (sides[0], sides[1])


VERSIONS = ('v0', 'v1', 'v2', 'v3')
TAU_GRADIENTS = ('exact', 'released')


def _check_version(x, y, state, version: str, temperature, gamma, mask, tau_gradient: str) -> Sides:
  """The two sides of the state, without gradient; refuses what `fast_clip` refuses."""
  for name, value, known in (('version', version, VERSIONS), ('tau_gradient', tau_gradient, TAU_GRADIENTS)):
    if value not in known:
      raise Refusal(f"unknown {name} '{value}'{nearest(str(value), known)}")
  inputs.check_temperature(temperature)
  return _check(x, y, state, gamma, mask, *(('temperature', 'momentum', 'square') if version == 'v2' else ()))


def _damped(x, factor: float):
  """The same value, with `factor` times the gradient."""
  fixed = jax.lax.stop_gradient(x)
  return fixed + factor * (x - fixed)


def _temperatures(state: Sides, version: str, temperature, dtype) -> list:
  """Those of x and of y; v1's and v2's have no gradient."""
  if version == 'v2':
    return [jnp.asarray(side.temperature, dtype) for side in state]
  temperature = jnp.asarray(temperature, dtype)
  return [jax.lax.stop_gradient(temperature) if version == 'v1' else temperature] * 2


def _floored(log_u, eps: float):
  """log(u + eps) of both sides."""
  return [jnp.logaddexp(u, jnp.log(jnp.asarray(eps, u.dtype))) for u in log_u]


def _released(found: list[Negatives], log_u, floors, temperatures, rho, *, multiply: bool, version: str):
  """The released loss of every pair."""
  ratios = [jnp.exp(each.log_mean - floor) for each, floor in zip(found, floors, strict=True)]
  if multiply:
    ratios = [jax.lax.stop_gradient(tau) * ratio for tau, ratio in zip(temperatures, ratios, strict=True)]
  values = ratios[0] + ratios[1]
  if multiply and version != 'v2':
    values += (rho + (log_u[0] + log_u[1]) / 2) * temperatures[0]
  return jnp.where(found[0].seen, values, 0)


def _after(state: Sides, found: list[Negatives], log_u, floors, rho, tau_rate, epoch, *, individual: bool) -> Sides:
  """The new state; individual temperatures are stepped."""
  sides = []
  for side, each, u, floor in zip(state, found, log_u, floors, strict=True):
    stepped = {}
    if individual:
      gradient = jnp.clip(per_sample.of_temperature(each, floor, rho), -5, 5)
      stepped = per_sample.adam(side, gradient, rate=tau_rate, epoch=epoch, least=0.01, most=1.0)
    sides.append(per_sample.remember(side, each.seen, log_denominator=u, **stepped))
  return sides[0], sides[1]


def fast_clip(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  state: Sides,
  *,
  version: str = 'v3',
  temperature: Temperature = 0.07,
  gamma: Rate = 0.8,
  rho: float = 8.0,
  eps: float = 1e-14,
  multiply_tau: bool | None = None,
  feature_grad_scale: float = 0.5,
  tau_gradient: str = 'released',
  tau_rate: Rate = 0.0133,
  epoch: Rate = 0,
  mask: Mask = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> tuple[Float[Array, ' b'], Sides]:
  r"""FastCLIP: the released estimators of `sog_clip` with a learnable temperature.

  .. math:: G_i = \frac{g_i}{u_i + \epsilon} + \frac{g'_i}{u'_i + \epsilon}, \qquad
            \ell_i = \bar\tau G_i + \Big( \rho + \frac{\log u_i + \log u'_i}{2} \Big) \tau \;\; (\mathrm{v3})

  with g and u, a constant, as g and s in `sog_clip`, and the bar for a constant. v0 and v1 are G itself, v1 with a
  constant temperature, v2 with one of each row of either side, stepped by Adam.

  Args:
    x: as in `sog_clip`.
    y: as in `sog_clip`.
    state: a pair: rows of `running(count)`; in v2 of `running(count, temperature=0.03, square=True)`.
    version: 'v0', 'v1', 'v2' or 'v3'.
    temperature: a scalar, learnable in v0 and v3; unused in v2, whose own stay in [0.01, 1].
    gamma: as in `sog_clr`. In the official runs it falls from 1 to 0.2 over half the epochs.
    rho: of v3 and of v2's temperatures; published values hold with the released gradient.
    eps: added to u (by the official v2 after division by the exponential of a running maximum of the logits).
    multiply_tau: G times the constant temperature, and v3's second term in v0 and v1; None: in v3 alone.
    feature_grad_scale: of the gradient of x and y, which the released code halves at any number of devices.
    tau_gradient: 'released', or 'exact': the temperature's gradient through G is halved too, and v3's is consistent.
    tau_rate: step size of v2's temperatures.
    epoch: of v2's Adam, from 0.
    mask: as in `sog_clip`.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns and errors as in `sog_clip`; an unknown version or tau_gradient is refused too.

  Source: Wei et al., 2024, "FastCLIP", and its code, Optimization-AI/fast_clip.
  """
  state = _check_version(x, y, state, version, temperature, gamma, mask, tau_gradient)
  x, y = (_damped(inputs.wide(side), feature_grad_scale) for side in (x, y))
  temperatures = _temperatures(state, version, temperature, x.dtype)
  through = [_damped(each, 1.0 if tau_gradient == 'released' else 0.5) for each in temperatures]
  found = _of_sides(x, y, mask, through, fold, precision, individual=version == 'v2')
  log_u = _blended(state, found, mask, gamma, False, False, fold)
  floors = _floored(log_u, eps)
  multiply = version == 'v3' if multiply_tau is None else multiply_tau
  values = _released(found, log_u, floors, temperatures, rho, multiply=multiply, version=version)
  return values, _after(state, found, log_u, floors, rho, tau_rate, epoch, individual=version == 'v2')
