"""What losses remember of every example: a running denominator in logarithms, a temperature and its moments.

A loss of this kind takes the rows of a batch and returns them anew; `methods/sog_clr.py` gathers and scatters them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from contrastive_jax.losses import inputs
from contrastive_jax.similarity import crosses
from contrastive_jax.types import Refusal

__all__ = ['Running', 'inner_rate', 'running']

Rate = float | Array  # a number, or a traced scalar where a schedule sets it
Scalar = float | Float[Array, '']


class Running(NamedTuple):
  """One row an example. What a loss does not use is None, and takes no memory.

  Attributes:
    log_denominator: logarithm of the running mean of the exponentials of the negatives' logits; 0 before the first
      visit, when it has no meaning.
    visited: whether the example has been in a batch.
    temperature: its own.
    momentum: moving average of the gradient of its temperature.
    square: moving average of the square of that gradient.
  """

  log_denominator: Float[Array, ' b']
  visited: Bool[Array, ' b']
  temperature: Float[Array, ' b'] = None  # type: ignore[assignment]
  momentum: Float[Array, ' b'] = None  # type: ignore[assignment]
  square: Float[Array, ' b'] = None  # type: ignore[assignment]


def running(count: int, *, temperature: float | None = None, square: bool = False) -> Running:
  """What is known of `count` examples before the first step.

  Args:
    count: examples of the data set.
    temperature: at first, where every example has its own (`isog_clr`, `isog_clip`, `fast_clip` v2).
    square: whether temperatures are stepped by Adam (`fast_clip` v2).

  Raises:
    ValueError: a temperature <= 0.
  """
  inputs.check_positive('temperature', temperature)
  zeros = jnp.zeros(count)
  if temperature is None:
    return Running(zeros, jnp.zeros(count, bool))
  own = jnp.full(count, temperature, zeros.dtype)
  state = Running(zeros, jnp.zeros(count, bool), own, zeros)
  return state._replace(square=zeros) if square else state


def inner_rate(epoch: Rate, *, least: float, epochs: float = 0.0) -> Float[Array, '']:
  r"""The rate of running denominators in an epoch, counted from 0: from 1 to `least` along half a cosine.

  .. math:: \gamma = \gamma_{\min} + (1 - \gamma_{\min}) \tfrac12 (1 + \cos(\pi e / E)), \quad e < E

  Args:
    epoch: e.
    least: the rate after E epochs, in (0, 1].
    epochs: E; 0: `least` in every epoch.

  Raises:
    ValueError: `least` outside (0, 1], E < 0.

  Source: Wei et al., 2024, section 4; its official runs fall over about half the epochs.
  """
  check_gamma(least)
  if epochs < 0:
    raise Refusal(f'the rate of running denominators falls over 0 or more epochs, but they are {epochs}')
  done = jnp.clip(jnp.asarray(epoch) / epochs, 0, 1) if epochs else jnp.ones(())
  return least + (1 - least) * (1 + jnp.cos(jnp.pi * done)) / 2


def check(state, count: int, *fields: str) -> Running:
  """The state, without gradient; refuses what is none, lacks a field or has another number of rows than the batch."""
  if not isinstance(state, Running):
    raise Refusal(f'state must be the rows of losses.running(...), but it is a {type(state).__name__}')
  for name in ('log_denominator', 'visited', *fields):
    value = getattr(state, name)
    if value is None:
      raise Refusal(
        f'this loss needs state.{name}: make the state by losses.running(count, temperature=..., square=...)'
      )
    if value.shape != (count,):
      raise Refusal(f'state.{name} must have one row an instance of the batch, [{count}], but it is {value.shape}')
  return jax.lax.stop_gradient(state)


def check_gamma(gamma):
  """Refuses a rate of the running mean outside (0, 1] where it is known before compilation."""
  if isinstance(gamma, int | float) and not 0 < gamma <= 1:
    raise Refusal(f'gamma must lie in (0, 1], but it is {gamma}')


def blend(
  state: Running, log_mean: Float[Array, '*v b'], seen: Bool[Array, '*v b'], gamma: Rate, *, from_zero: bool = False
) -> Float[Array, '*v b']:
  r"""The logarithm of :math:`(1 - \gamma) s + \gamma g`, of g alone at first visits, and of s where nothing was seen.

  No exponential is taken, so there is nothing to overflow and no running maximum to carry.
  """
  log_mean = jax.lax.stop_gradient(log_mean)
  rate = jax.lax.stop_gradient(jnp.asarray(gamma, log_mean.dtype))
  old = state.log_denominator.astype(log_mean.dtype)
  new = jnp.log(rate) + log_mean
  first = new if from_zero else log_mean
  return jnp.where(seen, jnp.where(state.visited, jnp.logaddexp(jnp.log1p(-rate) + old, new), first), old)


def remember(state: Running, seen: Bool[Array, ' b'], **new: Float[Array, ' b']) -> Running:
  """The state with new rows where something was seen."""
  kept = {}
  for name, value in new.items():
    old = getattr(state, name)
    kept[name] = jnp.where(seen, jax.lax.stop_gradient(value).astype(old.dtype), old)
  return state._replace(visited=state.visited | seen, **kept)


def check_range(least: float, most: float, *, beta: float, clip: float):
  """Refuses temperatures that could reach 0, an empty range, and rates and bounds of their steps that are none."""
  if all(isinstance(bound, int | float) for bound in (least, most)) and not 0 < least <= most:
    raise Refusal(f'0 < tau_min <= tau_max is needed, but they are {least} and {most}')
  if isinstance(beta, int | float) and not 0 < beta <= 1:
    raise Refusal(f'tau_beta must lie in (0, 1], but it is {beta}')
  inputs.check_positive('tau_clip', clip)


def descend(state: Running, gradient: Float[Array, ' b'], *, rate: Rate, beta: float, least: float, most: float):
  """Temperatures after a step along a moving average of their gradients, and that average, by name."""
  momentum = (1 - beta) * state.momentum + beta * gradient
  return dict(temperature=jnp.clip(state.temperature - rate * momentum, least, most), momentum=momentum)


def adam(state: Running, gradient: Float[Array, ' b'], *, rate: Rate, epoch: Rate, least: float, most: float):
  """Temperatures after a step of Adam as FastCLIP takes it, and their moments, by name.

  Without moments in the first epoch; later the correction of their bias counts epochs, not steps.
  """
  later = jnp.asarray(epoch, gradient.dtype) >= 1
  beta, beta_square = jnp.where(later, 0.9, 0.0), jnp.where(later, 0.999, 0.0)
  momentum = beta * state.momentum + (1 - beta) * gradient
  square = beta_square * state.square + (1 - beta_square) * gradient**2
  direction = momentum / (1 - beta ** (epoch + 1))
  size = jnp.sqrt(square / (1 - beta_square ** (epoch + 1))) + 1e-8
  temperature = jnp.clip(state.temperature - rate * direction / size, least, most)
  return dict(temperature=temperature, momentum=momentum, square=square)


# --- the arithmetic that losses share ---


class Negatives(NamedTuple):
  """Of every anchor, over its negatives in the batch."""

  log_mean: Float[Array, '*v b']  # logarithm of the mean exponential of their logits; 0 where there are none
  seen: Bool[Array, '*v b']  # whether there are any
  divergence: Any = None  # of the softmax of their logits from the uniform distribution, a constant


def against_uniform(logit):
  r"""A value whose mean over an anchor's negatives is the divergence of their softmax from the uniform one, less 1.

  It is :math:`r (\log r - 1)` of the ratio r of a share to the uniform share, and not :math:`r \log r`: rounding of the
  log-mean-exponential, which travels with the anchor, is then multiplied by the divergence and not by the entropy.
  """

  def value(pair):
    log_ratio = logit(pair) - pair.anchor['log_mean']
    return jnp.exp(log_ratio) * (log_ratio - 1)

  return value


def log_count(lse: Float[Array, ' n'], own: int, fold, mask: inputs.Mask = None) -> Float[Array, '']:
  """The logarithm of how many rows there are on all devices, of those that are not masked, less an anchor's own."""
  if crosses(fold):
    rows = inputs.global_logsumexp(jnp.zeros_like(lse), fold, mask)[1]
  else:
    rows = jnp.asarray(lse.size if mask is None else mask.sum(), lse.dtype)
  return jnp.log(jnp.maximum(rows - own, 1))


def estimate(objective, weight, log_mean):
  """The objective, with the gradient of `weight` times `log_mean`."""
  objective, weight = jax.lax.stop_gradient((objective, weight))
  return objective + weight * (log_mean - jax.lax.stop_gradient(log_mean))


def of_temperature(found: Negatives, log_s, rho) -> Float[Array, '*v b']:
  r"""The estimator of the gradient of :math:`\tau \log s + \tau \rho` in the temperature.

  With the logarithm d of g / s and the divergence K it is :math:`\rho - d - (e^d - 1) \log g - e^d K`: what is usually
  written, :math:`\log s + \rho` less an expected logit, is a small difference of numbers as large as 1 / temperature.
  """
  d = found.log_mean - log_s
  return jax.lax.stop_gradient(rho - d - jnp.expm1(d) * found.log_mean - jnp.exp(d) * found.divergence)
