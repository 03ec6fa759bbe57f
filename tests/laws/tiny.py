"""Every config as a tiny run, for laws of whatever method; a new config is covered without writing a test."""

import contextlib
import functools
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import compiling
import jax
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.data.pipeline import Batches
from contrastive_jax.engine import gradient, resolve, setup
from contrastive_jax.engine.state import TrainState, batch_sharding
from contrastive_jax.types import Refusal

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / 'configs').rglob('*.py') if 'def get_config(' in path.read_text())
NAMES = [path.relative_to(ROOT / 'configs').with_suffix('').as_posix() for path in FILES]

OWN_VIEWS = ('series', 'unaltered')  # of what are no images, or of methods that make their own
OF_CAPTIONS = [name for name in NAMES if name.startswith('multimodal/')]  # of images with captions
# Configs of images have the settings of `configs.common`; the others have their own.
_SETTINGS = {name: path.read_text() for name, path in zip(NAMES, FILES, strict=True)}
OF_IMAGES = [name for name in NAMES if name not in OF_CAPTIONS and 'from configs import common' in _SETTINGS[name]]


def kind(name: str) -> tuple:
  """What decides which code a config runs, but for the equation of its loss."""
  one = config(name)
  loss = getattr(losses, one.method.get('loss', ''), None)
  given = [] if loss is None else list(inspect.signature(loss).parameters.values())
  return one.method.name, one.data.num_views, *(p.name for p in given if p.kind == p.POSITIONAL_OR_KEYWORD)


def config(name: str, **overrides):
  """A config at `:tiny`, completed; overrides are texts with '__' for '.'."""
  path = ROOT / 'configs' / f'{name}.py'
  return resolve.load(f'{path}:tiny', {key.replace('__', '.'): value for key, value in overrides.items()})


# The first config of each kind, and the others.
USUAL = list({kind(name): name for name in reversed(NAMES)}.values())[::-1]
UNUSUAL = [name for name in NAMES if name not in USUAL]


@functools.cache
def run(name: str, *, devices: int = 1, **overrides: str) -> setup.Run:
  """The run of a config at `:tiny`, with the views that compile fastest; kept, for what its functions have compiled."""
  if config(name).data.views.name not in OWN_VIEWS:
    overrides = dict(data__views__name='weak') | overrides
  try:
    with quickly():
      of = setup.build(config(name, train__devices=str(devices), **overrides))
  except Refusal as refusal:
    if 'apt-get ' in str(refusal) or 'pip install ' in str(refusal):
      pytest.skip(str(refusal))
    raise
  return of


@contextlib.contextmanager
def quickly():
  """What the engine hands to `jax.jit` in here compiles fast and runs slowly."""
  with mock.patch.object(jax, 'jit', compiling.jit):
    yield


def fresh(of: setup.Run) -> TrainState:
  """The state before the first step."""
  with quickly():
    return of.fresh()


@contextlib.contextmanager
def float64():
  """Everything in float64, in threads too (`jax.enable_x64` would hold for this one alone)."""
  jax.config.update('jax_enable_x64', True)
  try:
    yield
  finally:
    jax.config.update('jax_enable_x64', False)


def batches(of: setup.Run, count: int, start: int = 0) -> list[dict[str, jax.Array]]:
  """The first raw batches of a run, as its loop reads them."""
  put = functools.partial(jax.device_put, device=batch_sharding(of.mesh))
  options = dict(seed=of.seed, batch_size=of.batch_size, start=start, stop=start + count, put=put, plan=of.plan())
  return [batch for _, batch in Batches(of.sources['train'], **options)]


@functools.cache
def gradients(name: str, **options) -> Callable:
  """Compiled `(train_state, raw) -> (Output, gradients)`, of one differentiated function."""
  of = run(name, **options)
  return compiling.jit(gradient.plain(method_of(of), of.expand))


def cached(of: setup.Run, microbatch: int) -> Callable:
  """`(train_state, raw) -> (Output, gradients)` of micro-batches."""
  with quickly():
    return gradient.cached(method_of(of), of.expand, microbatch=microbatch, mesh=of.mesh)


def pieces(cached_gradients: Callable) -> dict[str, Any]:
  """The compiled functions that a cached gradient is made of, by name."""
  found = inspect.getclosurevars(cached_gradients).nonlocals
  return {k: v for k, v in found.items() if hasattr(v, 'lower')}


def views(of: setup.Run) -> Callable:
  """`(raw, step) -> batch` with the run's augmentations."""
  return lambda raw, step: of.expand(raw, of.seed, step)


def method_of(of: setup.Run) -> Callable:
  """`numbers -> Method`, as the run's step has it."""
  return lambda numbers: of.recipes(numbers).method


def place(train_state: TrainState, of: setup.Run) -> TrainState:
  """A copy of the state, whole on every device of another run."""
  return jax.tree.map(lambda x: jax.device_put(np.asarray(x), of.replicated()), train_state)


def distance(got, want, floor: float = 1e-3) -> float:
  """The largest difference of two trees, relative to the largest entry of each array (the floor at least)."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  return max(
    (_apart(np.asarray(g, np.float64), np.asarray(w, np.float64), floor) for g, w in pairs if np.size(w)), default=0.0
  )


def _apart(g: np.ndarray, w: np.ndarray, floor: float) -> float:
  assert g.shape == w.shape
  assert np.isfinite(g).all()
  return float(np.abs(g - w).max() / max(np.abs(w).max(), floor))


def same_bits(got, want) -> bool:
  """Whether two trees have the same structure, types and bits."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  return all(g.dtype == w.dtype and np.asarray(g).tobytes() == np.asarray(w).tobytes() for g, w in pairs)


def kinds(tree) -> Mapping[str, tuple]:
  """Shape, dtype and sharding of every leaf by its path."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): (x.shape, x.dtype, x.sharding.spec) for path, x in leaves}
