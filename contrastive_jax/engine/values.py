"""Values of a config against the signatures that they are for, and values read from the command line."""

import ast
import inspect
import types
import typing
from typing import Any

from contrastive_jax.types import Refusal

_PLAIN = (bool, int, float, str, tuple, type(None))


def _members(annotation: Any) -> list:
  """The plain types that the annotation allows; empty where it does not say. Arrays never come from a config."""
  union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
  members = typing.get_args(annotation) if union else (annotation,)
  return [member for member in members if _kind(member) in _PLAIN]


def _kind(member: Any) -> Any:
  return typing.get_origin(member) or member


def read(text: str, parameter: inspect.Parameter) -> Any:
  """The value that a text of the command line stands for: a Python literal, true, false, none, or the text itself."""
  kinds = {_kind(member) for member in _members(parameter.annotation)}
  words = {'true': True, 'false': False, 'none': None}
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = text if str in kinds else words.get(text.lower(), text)  # norm=none is a word, steps=none is None
  return text if str in kinds and type(value) not in kinds else value


def checked(name: str, value: Any, parameter: inspect.Parameter) -> Any:
  """The value in the type that the parameter's annotation names: 1 as 1.0 where float is meant, lists as tuples.

  Raises:
    Refusal: another type, of the value or of what a tuple holds; a tuple of another length.
  """
  value = _tuples(value)
  try:
    return _fitted(value, parameter.annotation)
  except TypeError:
    members = _members(parameter.annotation)
    needed = ' or '.join(sorted('None' if m is type(None) else _written(m) for m in members))
    raise Refusal(f'{name} must be a value of type {needed}, but it is {value!r}') from None


def _fitted(value: Any, annotation: Any) -> Any:
  """The value in a type that the annotation allows; a TypeError where it is in none."""
  members = _members(annotation)
  fitting = [member for member in members if type(value) is _kind(member)]
  if fitting:
    return _items(value, typing.get_args(fitting[0])) if isinstance(value, tuple) else value
  if members and not (type(value) is int and float in members):
    raise TypeError
  return float(value) if members else value


def _items(value: tuple, annotations: tuple) -> tuple:
  """The items of a tuple in their types; `annotations` as in tuple[X, ...] or tuple[X, Y], empty where unknown."""
  if not annotations:
    return value
  if annotations[-1] is Ellipsis:
    annotations = annotations[:1] * len(value)
  if len(value) != len(annotations):
    raise TypeError
  return tuple(_fitted(item, annotation) for item, annotation in zip(value, annotations, strict=True))


def _written(member: Any) -> str:
  """A type as signatures write it: int, tuple[float, float]."""
  return str(member) if typing.get_args(member) else member.__name__


def _tuples(value: Any) -> Any:
  """JSON and users write lists where signatures say tuples."""
  return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
