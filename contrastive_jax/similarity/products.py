"""Products of tiles, at a stated precision, with statistics never below float32."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.types import Refusal, nearest

PRECISIONS = ('float32', 'bfloat16', 'bfloat16_3x')


def check_precision(precision: str | None) -> str:
  """The name of a precision; None means 'float32', on every backend."""
  precision = 'float32' if precision is None else precision
  if precision not in PRECISIONS:
    raise Refusal(f"unknown precision '{precision}'{nearest(str(precision), PRECISIONS)}")
  return precision


def contract(a: Array, b: Array, axes: tuple[int, int], precision: str) -> Float[Array, 'r c']:
  """Contracts axis `axes[0]` of a with axis `axes[1]` of b.

  'float32': products of the inputs' own type (float32, or float64 where they are), whatever the backend's default.
  'bfloat16': inputs rounded to bfloat16, accumulated in float32.
  'bfloat16_3x': each input split into a bfloat16 and its bfloat16 remainder; three of the four products are kept, which
  leaves a relative error of about 2^-16.
  """

  def product(x, y):
    return jax.lax.dot_general(
      x,
      y,
      (((axes[0],), (axes[1],)), ((), ())),
      precision=jax.lax.Precision.HIGHEST if precision == 'float32' else None,
      preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
    )

  if precision == 'float32':
    return product(a, b)
  a_high, b_high = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
  if precision == 'bfloat16':
    return product(a_high, b_high)
  a_low, b_low = ((x - h.astype(x.dtype)).astype(jnp.bfloat16) for x, h in ((a, a_high), (b, b_high)))
  return product(a_high, b_high) + (product(a_high, b_low) + product(a_low, b_high))


def similarities(x: Float[Array, 'n d'], y: Float[Array, 'm d'], precision: str) -> Float[Array, 'n m']:
  """Inner products of all rows, whose gradients are products at the stated precision too.

  JAX's own derivative of a reduced product would round every cotangent to bfloat16. So reduced products bring their
  own, in reverse mode; full ones keep JAX's, in both modes.
  """
  return contract(x, y, (1, 1), precision) if precision == 'float32' else _reduced(x, y, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _reduced(x, y, precision):
  return contract(x, y, (1, 1), precision)


def _reduced_backward(precision, operands, cotangent):
  x, y = operands
  return contract(cotangent, y, (1, 0), precision), contract(cotangent, x, (0, 0), precision)


_reduced.defvjp(lambda x, y, precision: (_reduced(x, y, precision), (x, y)), _reduced_backward)
