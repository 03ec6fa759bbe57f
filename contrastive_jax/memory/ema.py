"""Exponential moving averages of parameters: teachers."""

import jax
import jax.numpy as jnp

from contrastive_jax.types import Params, Refusal


def check_momentum(momentum: float):
  """Refuses a momentum outside [0, 1]."""
  if not 0 <= momentum <= 1:
    raise Refusal(f'config.method.momentum must be from 0 to 1, but it is {momentum}')


def cosine_momentum(momentum: float, step, total_steps: int):
  r"""Momentum that rises from its first value to 1, :math:`1 - (1 - m) (\cos(\pi t / T) + 1) / 2`.

  Source: Grill et al., 2020, section 3.2.
  """
  return 1 - (1 - momentum) * (jnp.cos(jnp.pi * step / total_steps) + 1) / 2


def follow(teacher: Params, student: Params, momentum) -> Params:
  """`m teacher + (1 - m) student`, of the student's leaves that the teacher has; a teacher at m = 1 stays as it is."""
  student = {name: student[name] for name in teacher}
  return jax.tree.map(lambda t, s: t + (1 - jnp.asarray(momentum, t.dtype)) * (s - t), teacher, student)
