"""What a sweep varies: lists of settings, and the ways to combine them.

A setting is what one run is told besides its config, spelt as on the command line:
`{'config.method.temperature': '0.1'}`; the key `config` names the config file itself. Every function here returns a
list of settings, so comprehensions and slices work on them too.
"""

import ast
import random as generators
from collections.abc import Iterable, Mapping
from math import exp, log
from typing import Any, NamedTuple

from contrastive_jax.types import Refusal

Setting = dict[str, str]
SEED, CONFIG = 'config.seed', 'config'
DIGITS = 4  # significant ones of numbers drawn at random: they are read by people


def as_text(value: Any) -> str:
  """A value as the command line would spell it, one spelling for each: 1e-1 and 0.10 are 0.1."""
  if isinstance(value, str):
    try:
      value = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      return value
  return value if isinstance(value, str) else repr(value)


def values(key: str, *options: Any) -> list[Setting]:
  """One setting for each value of a key.

  Raises:
    Refusal: a key that is neither `config` nor begins with `config.`, or no value at all.
  """
  if key != CONFIG and not key.startswith('config.'):
    raise Refusal(f"'{key}' cannot be swept: it must be 'config' (the file) or begin with 'config.', as flags do")
  if not options:
    raise Refusal(f'{key} has no values to sweep over')
  return [{key: as_text(option)} for option in options]


def seeds(number: int, first: int = 0) -> list[Setting]:
  """So many seeds, `first`, `first` + 1, ...; reports average over them."""
  if number < 1:
    raise Refusal(f'a sweep needs at least one seed, but {number} are asked for')
  return values(SEED, *range(first, first + number))


def product(*spaces: Iterable[Setting]) -> list[Setting]:
  """Every combination; the last space varies fastest.

  Raises:
    Refusal: two spaces set one key.
  """
  combined: list[Setting] = [{}]
  for space in map(list, spaces):
    combined = [_merged(left, right) for left in combined for right in space]
  return combined


def zip_(*spaces: Iterable[Setting]) -> list[Setting]:
  """The first setting of each space together, the second ones together, ...

  Raises:
    Refusal: spaces of different lengths, or two that set one key.
  """
  listed = [list(space) for space in spaces]
  if len({len(space) for space in listed}) > 1:
    raise Refusal(f'zip_ needs spaces of one length, but they have {", ".join(str(len(s)) for s in listed)} settings')
  merged = []
  for together in zip(*listed, strict=True):
    setting: Setting = {}
    for part in together:
      setting = _merged(setting, part)
    merged.append(setting)
  return merged


def chain(*spaces: Iterable[Setting]) -> list[Setting]:
  """All settings of all spaces, one after another; those that come again count once."""
  found: list[Setting] = []
  for space in spaces:
    found += [setting for setting in space if setting not in found]
  return found


def _merged(left: Setting, right: Setting) -> Setting:
  both = sorted(left.keys() & right.keys())
  if both:
    raise Refusal(f'{both[0]} is set twice in one setting, to {left[both[0]]} and to {right[both[0]]}')
  return left | right


class Range(NamedTuple):
  """Numbers from `low` to `high`; `scale` 'log' draws their logarithm evenly, `integer` rounds."""

  low: float
  high: float
  scale: str = 'linear'
  integer: bool = False


class Choice(NamedTuple):
  """One of some values."""

  options: tuple[Any, ...]


def uniform(low: float, high: float) -> Range:
  """Any number between the two."""
  return _checked(Range(low, high))


def log_uniform(low: float, high: float) -> Range:
  """Any number between the two, each factor as likely: for rates and temperatures."""
  return _checked(Range(low, high, 'log'))


def integers(low: int, high: int) -> Range:
  """A whole number from `low` to `high`, both included."""
  return _checked(Range(low, high, integer=True))


def choice(*options: Any) -> Choice:
  """One of the values."""
  if not options:
    raise Refusal('choice() needs at least one value')
  return Choice(options)


def _checked(found: Range) -> Range:
  if not found.low < found.high or (found.scale == 'log' and found.low <= 0):
    positive = ' of positive numbers' if found.scale == 'log' else ''
    raise Refusal(f'a range{positive} must go from the smaller to the larger, but it is {found.low} to {found.high}')
  return found


def random(number: int, keys: Mapping[str, Range | Choice], *, seed: int = 0) -> list[Setting]:
  """So many settings, each key drawn from its range by itself; the first ones stay when `number` grows."""
  drawn: list[list[Setting]] = []
  for key, options in keys.items():
    # Only `random()` of this generator is promised to give the same numbers in every version of Python.
    source = generators.Random(f'{seed} {key}')
    drawn.append(values(key, *(_drawn(options, source.random()) for _ in range(number))))
  return zip_(*drawn)


def _drawn(options: Range | Choice, at: float) -> Any:
  """The value at a place between 0 and 1."""
  if isinstance(options, Choice):
    return options.options[int(at * len(options.options))]
  low, high, scale, integer = options
  if integer:
    return int(low) + int(at * (high - low + 1))
  value = exp(log(low) + at * (log(high) - log(low))) if scale == 'log' else low + at * (high - low)
  return rounded(value)


def rounded(value: float) -> float:
  """So many digits as people read."""
  return float(f'{value:.{DIGITS}g}')


def parsed(text: str) -> list[Setting]:
  """The values of a flag, `config.method.temperature=0.1,0.2`; commas in brackets or quotes belong to a value.

  Raises:
    Refusal: no `=`, no values, or a key that cannot be swept.
  """
  key, equals, listed = text.partition('=')
  options = [option.strip() for option in _split(listed)]
  if not equals or not all(options):
    raise Refusal(f"--sweep='{text}' must name a key and its values, as in --sweep=config.method.temperature=0.1,0.2")
  return values(key.lstrip('-'), *options)


def _split(text: str) -> list[str]:
  parts, depth, quote = [''], 0, ''
  for letter in text:
    if quote:
      quote = '' if letter == quote else quote
    elif letter in '\'"':
      quote = letter
    elif letter in '([{':
      depth += 1
    elif letter in ')]}':
      depth -= 1
    elif letter == ',' and not depth:
      parts.append('')
      continue
    parts[-1] += letter
  return parts
