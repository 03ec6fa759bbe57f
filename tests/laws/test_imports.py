"""The import law of docs/architecture.md: who may import whom, and who may speak of devices."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = 'contrastive_jax'
ROOT = pathlib.Path(__file__).parents[2] / PACKAGE

# Layer -> the other layers it may import. A layer is a folder or a module directly under the package.
ENTRY = ('train', 'evaluate', 'embed', 'plan', 'search')
LAYERS: dict[str, set[str]] = {
  '__init__': set(),
  'types': set(),
  'similarity': {'types'},
  'losses': {'types', 'similarity'},
  'memory': {'types', 'similarity'},
  'models': {'types'},
  'methods': {'types', 'similarity', 'losses', 'memory', 'models'},
  'data': {'types'},
  'evals': {'types', 'similarity', 'losses'},
}
LAYERS['engine'] = set(LAYERS) - {'__init__'}
LAYERS |= {entry: LAYERS['engine'] | {'engine'} for entry in ENTRY}

FLAX_IN = {'models'}
DEVICES_IN = {'similarity', 'engine'}
# fmt: off
COLLECTIVES = (
  'all_gather', 'all_gather_invariant', 'all_to_all', 'axis_index', 'axis_size', 'pbroadcast', 'pcast', 'pgather',
  'pmax', 'pmean', 'pmin', 'ppermute', 'pshuffle', 'psend', 'precv', 'psum', 'psum_scatter', 'pswapaxes', 'pvary',
  'ragged_all_to_all', 'reduce_scatter',
)
# fmt: on
DEVICE_NAMES = {'shard_map', 'PartitionSpec', 'jax.P', 'jax.pmap', *(f'jax.lax.{name}' for name in COLLECTIVES)}
LOSSES_MAY_USE = {'inspect', 'jax', 'jaxtyping', 'typing'} | {
  'collections',
  'functools',
  'itertools',
  'math',
  'numbers',
  'operator',
}


def names_used(source: str, module: tuple[str, ...]) -> dict[str, int]:
  """Dotted name -> first line, of every import and of every attribute chain that starts at an imported name."""
  tree, used, bound = ast.parse(source), {}, {}

  def use(name: str, node: ast.AST) -> None:
    used[name] = min(node.lineno, used.get(name, node.lineno))

  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        use(alias.name, node)
        bound[alias.asname or alias.name.split('.')[0]] = alias.name if alias.asname else alias.name.split('.')[0]
    elif isinstance(node, ast.ImportFrom):
      start = [*module[: len(module) - node.level]] if node.level else []
      base = '.'.join([*start, *([node.module] if node.module else [])])
      for alias in node.names:
        use(f'{base}.{alias.name}', node)
        bound[alias.asname or alias.name] = f'{base}.{alias.name}'
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      chain, inner = [node.attr], node.value
      while isinstance(inner, ast.Attribute):
        chain, inner = [inner.attr, *chain], inner.value
      if isinstance(inner, ast.Name) and inner.id in bound:
        use('.'.join([bound[inner.id], *chain]), node)
  return used


def layer_of(parts: list[str]) -> str:
  """The layer that the dotted name contrastive_jax.<...> reaches."""
  return '__init__' if parts[1:] in ([], ['__version__']) else parts[1]


def breaches(source: str, layer: str, module: tuple[str, ...]) -> list[str]:
  """One line for every name that a module of this layer must not use."""
  found = []
  for name, line in names_used(source, module).items():
    parts = name.split('.')
    where = f'{".".join(module)}:{line}'
    if parts[0] == PACKAGE:
      target = layer_of(parts)
      if target not in {layer, '__init__', *LAYERS[layer]}:
        found.append(f'{where}: {layer} may not import {target}')
    elif parts[0] == 'flax' and layer not in FLAX_IN:
      found.append(f'{where}: only models may import flax')
    elif layer == 'losses' and parts[0] not in LOSSES_MAY_USE:
      found.append(f'{where}: losses may not import {parts[0]}')
    if layer not in DEVICES_IN and (name in DEVICE_NAMES or parts[-1] in DEVICE_NAMES):
      found.append(f'{where}: only similarity and engine may use {name}')
  return found


def modules() -> list[tuple[str, tuple[str, ...], pathlib.Path]]:
  """(layer, dotted module, file) of every module of the package."""
  found = []
  for path in sorted(ROOT.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    found.append((parts[0], (PACKAGE, *parts), path))
  return found


def loaded_by(statement: str) -> set[str]:
  """Top-level names of the modules in memory after a fresh interpreter ran one statement."""
  code = f'{statement}\nimport sys\nprint(*{{name.split(".")[0] for name in sys.modules}})'
  out = subprocess.run([sys.executable, '-c', code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
  return set(out.stdout.split())


def test_every_module_belongs_to_a_layer():
  assert {layer for layer, _, _ in modules()} <= set(LAYERS)


def test_no_module_breaks_the_import_law():
  found = [line for layer, module, path in modules() for line in breaches(path.read_text(), layer, module)]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize(
  ('layer', 'source', 'breach'),
  [
    ('types', 'from contrastive_jax import losses', 'types may not import losses'),
    ('similarity', 'import contrastive_jax.models.mlp', 'similarity may not import models'),
    ('losses', 'from ..models import mlp', 'losses may not import models'),
    ('losses', 'import numpy as np', 'losses may not import numpy'),
    ('losses', 'def f():\n  from optax import losses', 'losses may not import optax'),
    ('data', 'from contrastive_jax.losses import nt_xent', 'data may not import losses'),
    ('evals', 'from contrastive_jax.engine import state', 'evals may not import engine'),
    ('methods', 'from contrastive_jax import engine', 'methods may not import engine'),
    ('methods', 'import contrastive_jax as c\nx = c.data.views', 'methods may not import data'),
    ('methods', 'from contrastive_jax import load', 'methods may not import load'),
    ('engine', 'from contrastive_jax.train import run', 'engine may not import train'),
    ('engine', 'from flax import linen', 'only models may import flax'),
    ('losses', 'from jax import lax\nx = lax.psum(1, "i")', 'only similarity and engine may use jax.lax.psum'),
    ('methods', 'import jax.lax as l\nl.all_gather', 'only similarity and engine may use jax.lax.all_gather'),
    ('models', 'from jax.sharding import PartitionSpec as S', 'may use jax.sharding.PartitionSpec'),
    ('data', 'import jax\nx = jax.P("data")', 'only similarity and engine may use jax.P'),
    ('evals', 'from jax import shard_map', 'only similarity and engine may use jax.shard_map'),
  ],
)
def test_a_breach_of_the_law_is_caught(layer, source, breach):
  assert any(breach in line for line in breaches(source, layer, (PACKAGE, layer, 'module')))


def test_what_the_law_allows_is_not_caught():
  source = 'from jax import lax, shard_map\nfrom contrastive_jax import __version__, types\nlax.psum'
  assert breaches(source, 'similarity', (PACKAGE, 'similarity', 'ring')) == []
  source = 'import math\nimport jax.numpy as jnp\nfrom contrastive_jax import similarity as sim\njnp.log, sim.mean'
  assert breaches(source, 'losses', (PACKAGE, 'losses', 'softmax')) == []


def test_importing_the_package_imports_nothing_heavy():
  assert loaded_by('import contrastive_jax') & {'jax', 'jaxlib', 'numpy', 'flax', 'optax'} == set()


def test_importing_the_losses_needs_jax_alone():
  loaded = loaded_by('from contrastive_jax import losses')
  assert 'jax' in loaded
  assert (
    loaded & {'flax', 'optax', 'orbax', 'grain', 'tensorflow_datasets', 'sklearn', 'ml_collections', 'absl'} == set()
  )
