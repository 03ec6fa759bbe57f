"""Inputs for any pairwise loss, made from its signature, and the scalars whose gradients the laws compare.

A loss added to `losses.PAIRWISE` is covered without writing a test: its positional parameters must have a name that
`_positional` knows, and its options are found by name, annotation and default.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from compiling import jit

from contrastive_jax import losses
from contrastive_jax.methods.base import Method, Output

TILES = {
  'dense': losses.dense(),
  'chunked': losses.chunked(5, 7),
  'ring': losses.ring(rows=3, cols=4),
  'chunked whole': losses.chunked(64, 64),  # one tile
  'ring whole': losses.ring(rows=64, cols=64),  # one tile for each visitor
}


# Embeddings of every view [V, B, ...]: the instances are on the second axis.
VIEWS = ('z', 'common', 'salient', 'phi')


class Case(NamedTuple):
  """One loss with one set of options."""

  name: str
  learnable: dict[str, np.ndarray]  # what gradients are taken of: embeddings, temperature, bias, ...
  fixed: dict[str, np.ndarray]  # labels, ids, masks
  options: dict[str, Any]  # static keywords

  def call(self, learnable: Mapping, fixed: Mapping, **keywords):
    """The loss's values."""
    return getattr(losses, self.name)(**_with_state({**learnable, **fixed}), **self.options, **keywords)


def _with_state(arrays: Mapping) -> dict:
  """The arrays, those named 'state SIDE FIELD' as one argument: the rows of one side, or of two."""
  sides: dict[str, dict] = {}
  for key, value in arrays.items():
    if key.startswith('state '):
      _, side, field = key.split()
      sides.setdefault(side, {})[field] = value
  rows = [losses.Running(**sides[side]) for side in sorted(sides)]
  state = {'state': rows[0] if len(rows) == 1 else tuple(rows)} if rows else {}
  return {k: v for k, v in arrays.items() if not k.startswith('state ')} | state


def _state(sides: int, size: int, random) -> dict[str, np.ndarray]:
  """Rows of which some were visited, as arrays named 'state SIDE FIELD'."""
  made = {}
  for side in range(sides):
    rows = losses.Running(*random.uniform(0.2, 0.5, (5, size)).astype(np.float32))
    rows = rows._replace(visited=random.random(size) < 0.7)
    made |= {f'state {side} {field}': value for field, value in rows._asdict().items()}
  return made


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
  return inspect.signature(getattr(losses, name)).parameters


def unit_rows(random, *shape) -> np.ndarray:
  rows = random.normal(size=shape)
  return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def accepts(name: str, **arrays) -> bool:
  """Whether the loss takes arrays of these shapes and these options; what it refuses it refuses before computing."""
  traced = {k: v for k, v in arrays.items() if isinstance(v, np.ndarray)}
  case = Case(name, traced, {}, {k: v for k, v in arrays.items() if k not in traced})
  try:
    jax.eval_shape(lambda a: case.call(a, {}), traced)
  except ValueError:
    return False
  return True


def _positional(name: str, size: int, other: int, views: int, random) -> dict[str, np.ndarray]:
  made = {}
  for key, parameter in parameters(name).items():
    if parameter.default is not inspect.Parameter.empty:
      continue
    if key == 'state':
      made |= _state(1 if 'z' in made else 2, size, random)
      continue
    makers = {
      'x': lambda: unit_rows(random, size, 5),
      'y': lambda: unit_rows(random, other, 5),
      't': lambda: unit_rows(random, size, 3, 5),
      'negatives': lambda: unit_rows(random, size, 2, 5),
      'queue': lambda: unit_rows(random, other, 5),
      'proxies': lambda: unit_rows(random, size, 5),
      'labels': lambda: random.integers(-1, 4, size).astype(np.int32),
      'subclasses': lambda: random.integers(-1, 6, size).astype(np.int32),
      'queue_labels': lambda: random.integers(-1, 4, other).astype(np.int32),
      'queue_subclasses': lambda: random.integers(-1, 6, other).astype(np.int32),
      'partners': lambda: random.integers(-1, 4, size).astype(np.int32),
      'target': lambda: random.random(size) < 0.6,
      'phi_x': lambda: unit_rows(random, size, 3),
      'phi_y': lambda: unit_rows(random, size, 3),
      'phi_queue': lambda: unit_rows(random, other, 3),
      'gates': lambda: random.uniform(0.1, 0.9, (size, 5)).astype(np.float32),
      **{view: lambda: unit_rows(random, views, size, 5) for view in VIEWS},
    }
    assert key in makers, f'the laws cannot make the parameter {key} of losses.{name}'
    made[key] = makers[key]()
  return made


def _takes(parameter: inspect.Parameter, what: str) -> bool:
  return parameter.default is not inspect.Parameter.empty and what in str(parameter.annotation)


@functools.cache
def case(name: str, variant: str, size: int = 16) -> Case | None:
  """The loss at its defaults ('plain'), or with everything it can be given ('rich').

  Rich: more views, other sizes on the two sides, ids with several positives and -1, masks, a temperature per anchor,
  and every flag and optional number away from its default, each where the loss allows it. None if it refuses the size.
  """
  random = np.random.default_rng(size)
  rich = variant == 'rich'
  options: dict[str, Any] = {}
  for key, parameter in parameters(name).items():
    if rich and isinstance(parameter.default, bool):
      options[key] = not parameter.default
    if rich and parameter.default is None and str(parameter.annotation) == 'float | None':
      options[key] = 0.5
    if rich and key == 'label_smoothing':
      options[key] = 0.1
  shapes = [(2, size)] if not rich else [(3, size + size // 2), (2, size + size // 2), (3, size), (2, size)]
  tries = (_positional(name, size, other, views, random) for views, other in shapes)
  arrays = next((a for a in tries if accepts(name, **a, **options)), None)
  if arrays is None:
    return None
  learnable = {k: v for k, v in arrays.items() if v.dtype == np.float32 and not k.startswith('state ')}
  fixed = {k: v for k, v in arrays.items() if k not in learnable}
  if rich:
    sides = {key: arrays.get(key) for key in ('x', 'y', 'negatives')} | {'mask': arrays.get('t', arrays.get('x'))}
    for key, parameter in parameters(name).items():
      side = sides.get(key.partition('_')[0])
      if side is not None and _takes(parameter, 'Int['):
        fixed[key] = random.integers(-1, 6, len(side)).astype(np.int32)
      if side is not None and _takes(parameter, 'Bool['):
        fixed[key] = random.random(side.shape[:-1]) < 0.8
  for key, parameter in parameters(name).items():
    if _takes(parameter, 'Float['):
      each = random.uniform(0.1, 0.4, size).astype(np.float32)
      wanted = rich and accepts(name, **arrays, **options, **{key: each})
      learnable[key] = each if wanted else np.float32(max(parameter.default, -2) * 1.5)
  return Case(name, learnable, fixed, options)


def instance_axis(key: str, value) -> int | None:
  """The axis of an argument along which instances are split over devices."""
  return None if np.ndim(value) == 0 else int(key in VIEWS)


def weighted(values) -> jax.Array:
  """A scalar whose gradient tells the anchors apart."""
  return sum(jnp.mean(v * (1.5 + jnp.cos(jnp.arange(v.size) * 1.7)).reshape(v.shape)) for v in jax.tree.leaves(values))


def average(values) -> jax.Array:
  """The mean over anchors; of several outputs, their sum."""
  return sum(v.mean() for v in jax.tree.leaves(values))


def scalar(case: Case, reduce: Callable = weighted, **keywords) -> Callable:
  """(learnable, fixed) -> scalar."""
  return lambda learnable, fixed: reduce(case.call(learnable, fixed, **keywords))


@functools.cache
def dense(name: str, variant: str, size: int = 16, reduce: Callable = weighted):
  """Compiled (learnable, fixed) -> value and gradient of the dense fold on one device."""
  return jit(jax.value_and_grad(scalar(case(name, variant, size), reduce, fold=losses.dense())))


@functools.cache
def truth(name: str, variant: str, size: int = 16):
  """Value and gradient that every fold must give."""
  one = case(name, variant, size)
  return dense(name, variant, size)(one.learnable, one.fixed)


class Tower(NamedTuple):
  """A loss of embeddings that a linear encoder makes, for the engine's two ways to differentiate."""

  method: Method
  params: dict[str, np.ndarray]
  batch: dict[str, np.ndarray]  # every array leads with the instances


def tower(one: Case, **keywords) -> Tower:
  """The case behind a linear encoder; all of its arrays must have as many instances."""

  def turned(key, value):
    return value if instance_axis(key, value) == 0 else value.swapaxes(0, 1)

  arrays = {k: v for k, v in (one.learnable | one.fixed).items() if instance_axis(k, v) is not None}
  batch = {k: turned(k, v) for k, v in arrays.items()}
  sizes = {len(v) for v in batch.values()}
  assert len(sizes) == 1, sizes
  params = {k: v for k, v in one.learnable.items() if k not in arrays}
  mixing = np.eye(5, dtype=np.float32) + np.float32(0.1) * np.arange(25, dtype=np.float32).reshape(5, 5) / 25

  def encode(params, state, batch, *, key, step, train):
    features = {k: batch[k] @ params['mixing'] for k in one.learnable if k in arrays and batch[k].ndim > 1}
    return features, state

  def loss(params, state, features, batch, *, key, step):
    rest = {k: v for k, v in params.items() if k != 'mixing'}
    made = {k: turned(k, v) for k, v in features.items()}
    given = {k: batch[k] for k in arrays if k not in features}
    learnable = made | rest | {k: v for k, v in given.items() if k in one.learnable}
    fixed = {k: v for k, v in given.items() if k in one.fixed}
    return Output(scalar(one, **keywords)(learnable, fixed), state, {})

  index = {'index': np.arange(*sizes, dtype=np.int32)}
  return Tower(Method(None, encode, loss, None), params | {'mixing': mixing}, batch | index)


def assert_close(got, want, tolerance: float = 1e-5):
  """Equal up to the tolerance, relative to each array's largest entry."""
  for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
    assert g.shape == w.shape, (jax.tree_util.keystr(path), g.shape, w.shape)
    scale = max(np.abs(w).max(), 1e-2)
    assert np.abs(g - w).max() <= tolerance * scale, (jax.tree_util.keystr(path), np.abs(g - w).max() / scale)


def covering(factors: Mapping[str, list], allowed: Callable[[dict], bool]) -> list[dict]:
  """Rows of the product, greedily few, that hold every pair of levels which some allowed row holds."""
  rows = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
  pairs = [set(itertools.combinations(enumerate(row.values()), 2)) for row in rows if allowed(row)]
  rows = [row for row in rows if allowed(row)]
  missing, chosen = set().union(*pairs), []
  while missing:
    best = max(range(len(rows)), key=lambda i: len(pairs[i] & missing))
    chosen.append(rows[best])
    missing -= pairs[best]
  return chosen


def product(factors: Mapping[str, list], allowed: Callable[[dict], bool]) -> list[dict]:
  """Every allowed row."""
  rows = (dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values()))
  return [row for row in rows if allowed(row)]
