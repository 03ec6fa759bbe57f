"""Lifts of a loss of two views to any number of views."""

import inspect
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.types import Refusal

__all__ = ['leave_one_out', 'pairwise']


def _of_two(loss: Callable) -> Callable:
  """The loss as a function of two views `[B, D]`, returning its mean."""
  if not callable(loss):
    raise Refusal(f'a lift takes a loss, but it was given a {type(loss).__name__}')
  names = list(inspect.signature(loss).parameters)[:2]
  if names[0] not in ('z', 'h') and names not in (['x', 'y'], ['a', 'b']):
    raise Refusal(f'a lift takes a loss of two sides (x, y or a, b) or of views (z or h), but its are {names}')

  def value(x, y, *rest, **keywords):
    given = (jnp.stack([x, y]),) if names[0] in ('z', 'h') else (x, y)
    found = loss(*given, *rest, **keywords)
    if isinstance(found, tuple):
      raise Refusal('a lift takes a loss that returns one array, but this one returns several')
    return jnp.mean(found)

  return value


def pairwise(loss: Callable) -> Callable[..., Float[Array, '']]:
  r"""The mean of a two-view loss over all pairs of views (PWE).

  .. math:: \frac{2}{V(V-1)} \sum_{v < w} \mathrm{mean} \; \ell(z_v, z_w)

  Args:
    loss: of two sides, `loss(x, y, *, ...)` or `loss(a, b, *, ...)`, or of views, `loss(z, *, ...)`; with further
      arguments, `loss(z, labels, *, ...)`, too.

  Returns:
    A function of z `[V, B, D]`, V >= 2, and of the loss's further arguments; a scalar. With V = 2 it is the loss.

  Raises:
    ValueError: a loss of one side only, or one that returns several values; by the function, fewer than two views.

  Source: the baseline PWE of Koromilas et al., 2025, "A Principled Framework for Multi-View Contrastive Learning".
  """
  of_two = _of_two(loss)

  def lifted(z: Float[Array, 'v b d'], *rest, **keywords):
    inputs.check_views(z)
    pairs = [(v, w) for w in range(len(z)) for v in range(w)]
    return jnp.stack([of_two(z[v], z[w], *rest, **keywords) for v, w in pairs]).mean()

  return lifted


def leave_one_out(loss: Callable, *, normalize: bool = False) -> Callable[..., Float[Array, '']]:
  r"""The mean over views of a two-view loss between the view and the mean of the others (AVG).

  .. math:: \frac1V \sum_v \mathrm{mean} \; \ell \Big( z_v, \frac{1}{V-1} \sum_{w \ne v} z_w \Big)

  Args:
    loss: as of `pairwise`.
    normalize: scales the mean of the others to unit norm; the official code does so with DHEL and not with NT-Xent.

  Returns:
    A function of z `[V, B, D]`, V >= 2, and of the loss's further arguments; a scalar.

  Raises:
    ValueError: as `pairwise`.

  Source: the baseline AVG of Koromilas et al., 2025.
  """
  of_two = _of_two(loss)

  def lifted(z: Float[Array, 'v b d'], *rest, **keywords):
    inputs.check_views(z)
    others = (z.sum(0) - z) / (len(z) - 1)
    others = inputs.unit(others) if normalize else others
    return jnp.stack([of_two(z[v], others[v], *rest, **keywords) for v in range(len(z))]).mean()

  return lifted
