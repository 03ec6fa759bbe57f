"""Checks of model options and of model inputs: each refusal names what was given and what is valid."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from contrastive_jax.types import Array, Refusal, nearest

Fields = dict[str, Any]  # of a flax module

DTYPES = ('float32', 'bfloat16', 'float64')


def choice(name: str, value: str | int, known: Iterable[str | int]) -> None:
  """Refuses a value that is not one of those known, and names the nearest one."""
  known = tuple(known)
  if value not in known:
    raise Refusal(f"unknown {name} '{value}'{nearest(str(value), map(str, known))}")


def sizes(**options: int | Sequence[int]) -> None:
  """Refuses sizes that are not positive integers; a sequence is checked item by item and must not be empty."""
  for name, value in options.items():
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if not items:
      raise Refusal(f'{name} is empty: at least one positive integer is needed')
    if any(isinstance(item, bool) or not isinstance(item, int) or item < 1 for item in items):
      raise Refusal(f'{name} is {value!r}: positive integers are needed')


def rates(**options: float) -> None:
  """Refuses probabilities outside of [0, 1)."""
  for name, value in options.items():
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
      raise Refusal(f'{name} is {value!r}: a probability is needed, at least 0 and below 1')


def precision(dtype: str) -> Fields:
  """The `dtype` (of the computation) and `param_dtype` fields of a flax module.

  Parameters are float32, and float64 where the computation is float64: float32 parameters would cap its precision.

  Raises:
    Refusal: unknown dtype, or float64 while JAX would silently compute in float32.
  """
  choice('dtype', dtype, DTYPES)
  # Inside `jax.enable_x64()` too, which the global option would not show.
  if dtype == 'float64' and jnp.result_type(float) != jnp.float64:
    raise Refusal("dtype 'float64' needs jax_enable_x64: set JAX_ENABLE_X64=1, or choose 'float32' or 'bfloat16'")
  return {'dtype': jnp.dtype(dtype), 'param_dtype': jnp.dtype('float64' if dtype == 'float64' else 'float32')}


def floating(x: Array) -> None:
  """Refuses raw pixels and other inputs that are not floating-point."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise Refusal(f'models take normalised floating-point inputs, {x.dtype} {list(x.shape)} was given')


def tokens(x: Array) -> None:
  """Refuses inputs that are not tokens, integers [b, L]."""
  if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
    raise Refusal(f'a text encoder takes tokens, integers [b, L], but {x.dtype} {list(x.shape)} was given')


def image(x: Array, *, smallest: int, reason: str) -> None:
  """Refuses x unless it is [b, h, w, c] with h and w at least `smallest` pixels."""
  if x.ndim != 4:
    raise Refusal(f'images [b, h, w, c] are needed, an array of shape {list(x.shape)} was given')
  height, width = x.shape[1:3]
  if min(height, width) < smallest:
    raise Refusal(f'images of {height}x{width} pixels are too small: {reason} needs at least {smallest}x{smallest}')


def pattern(name: str, value: str) -> re.Pattern:
  """A compiled regular expression, refused with its own message where it is not one."""
  try:
    return re.compile(value)
  except re.error as error:
    raise Refusal(f"{name} '{value}' is not a regular expression: {error}") from error
