"""Values of a config against the signatures that they are for, and values read from the command line."""

import ast
import inspect
import types
import typing
from typing import Any

from contrastive_jax.types import Refusal

_PLAIN = (bool, int, float, str, tuple, type(None))


def _kinds(parameter: inspect.Parameter) -> set[type]:
  """The plain types that the annotation allows; empty where it does not say. Arrays never come from a config."""
  annotation = parameter.annotation
  members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
  return {typing.get_origin(member) or member for member in members} & set(_PLAIN)


def read(text: str, parameter: inspect.Parameter) -> Any:
  """The value that a text of the command line stands for: a Python literal, true, false, none, or the text itself."""
  kinds = _kinds(parameter)
  words = {'true': True, 'false': False, 'none': None}
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = text if str in kinds else words.get(text.lower(), text)  # norm=none is a word, steps=none is None
  return text if str in kinds and type(value) not in kinds else value


def checked(name: str, value: Any, parameter: inspect.Parameter) -> Any:
  """The value in the type that the parameter's annotation names: 1 as 1.0 where float is meant, lists as tuples.

  Raises:
    Refusal: another type.
  """
  kinds = _kinds(parameter)
  value = _tuples(value)
  if float in kinds and int not in kinds and type(value) is int:
    value = float(value)
  if kinds and type(value) not in kinds:
    needed = ' or '.join(sorted('None' if kind is type(None) else kind.__name__ for kind in kinds))
    raise Refusal(f'{name} must be a value of type {needed}, but it is {value!r}')
  return value


def _tuples(value: Any) -> Any:
  """JSON and users write lists where signatures say tuples."""
  return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
