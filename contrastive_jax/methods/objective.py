"""A loss of `contrastive_jax.losses` by its name in a config, with its hyper-parameters."""

import functools
import inspect
from collections.abc import Callable, Sequence

from contrastive_jax import losses
from contrastive_jax.types import Refusal, nearest

# Keywords that belong to a batch, or that a method sets for all of its losses.
_NOT_HYPER = ('fold', 'precision', 'key', 'x_id', 'y_id', 'x_mask', 'y_mask', 'mask')


def arguments(loss: str) -> list[str]:
  """The arrays that a loss takes, in order."""
  parameters = inspect.signature(getattr(losses, loss)).parameters.values()
  return [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]


def options(loss: str, known: Sequence[str]) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of its factory.

  Raises:
    Refusal: the loss is not among the known ones.
  """
  if loss not in known:
    raise Refusal(f"unknown loss '{loss}' in config.method.loss{nearest(str(loss), known)}")
  parameters = inspect.signature(getattr(losses, loss)).parameters
  return {k: p for k, p in parameters.items() if p.kind == p.KEYWORD_ONLY and k not in _NOT_HYPER}


def bound(loss: str, known: Sequence[str], hyper: dict, *, fold, precision: str | None) -> Callable:
  """The loss as a function of its arrays alone.

  Raises:
    Refusal: an unknown loss; a hyper-parameter that it does not have.
  """
  has = options(loss, known)
  for name in hyper:
    if name not in has:
      raise Refusal(f"loss '{loss}' has no hyper-parameter '{name}'{nearest(name, has)}")
  function = getattr(losses, loss)
  folded = dict(fold=fold, precision=precision) if 'fold' in inspect.signature(function).parameters else {}
  return functools.partial(function, **hyper, **folded)
