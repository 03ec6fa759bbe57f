"""A temperature that is learned with the towers: as a logarithm, and never below a bound."""

import math

import jax.numpy as jnp

from contrastive_jax.types import Refusal


def check(temperature, lowest: float):
  """Refuses a bound <= 0 and a temperature that starts below it, where it is known before compilation."""
  if not lowest > 0:
    raise Refusal(f'config.method.lowest_temperature must be positive, but it is {lowest}')
  if isinstance(temperature, float) and not temperature >= lowest:
    raise Refusal(f'config.method.temperature={temperature} is below config.method.lowest_temperature={lowest}')


def bounded(lowest: float):
  """The `update` slot of a method whose `params['temperature']` is the logarithm of one."""

  def update(params, state, *, step):
    return {**params, 'temperature': jnp.maximum(params['temperature'], math.log(lowest))}, state

  return update
