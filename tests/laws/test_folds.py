"""Folds never change a value or a gradient: every pairwise loss, on every kind of mesh."""

import contextlib
import functools

import gauntlet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from compiling import jit
from gauntlet import TILES, assert_close, instance_axis, scalar, truth
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.engine import gradient, state

FACTORS = dict(
  name=list(losses.PAIRWISE),
  fold=list(TILES),
  devices=[0, 1, 2, 4, 8],  # 0: no mesh
  axes=['auto', 'explicit'],
  told=['arrays', 'current', 'fold'],  # who says the mesh: the arrays' places, `jax.set_mesh` too, or the fold alone
  options=['plain', 'rich', 'rich ragged'],
  gradient=['plain', 'cached'],  # of the embeddings, or of an encoder by micro-batches
)


def possible(row) -> bool:
  if row['devices'] == 0 and (row['axes'] == 'explicit' or row['told'] != 'arrays'):
    return False
  if row['told'] == 'fold' and (row['fold'] == 'dense' or row['axes'] == 'explicit' or row['gradient'] == 'cached'):
    return False
  # The engine's mesh is automatic, and micro-batches cut as many instances on every side.
  if row['gradient'] == 'cached' and (row['axes'] == 'explicit' or not row['devices'] or row['options'] != 'plain'):
    return False
  # A dimension of 13 does not split in the type of an explicitly sharded array.
  return not (row['axes'] == 'explicit' and row['options'] == 'rich ragged' and row['devices'] > 1)


def label(row) -> str:
  return '-'.join(str(v).replace(' ', '_') for v in row.values())


@functools.cache
def mesh_of(devices: int, axes: str):
  kind = dict(auto=AxisType.Auto, explicit=AxisType.Explicit)[axes]
  return jax.make_mesh((devices,), ('data',), axis_types=(kind,), devices=jax.devices()[:devices])


def placed(arrays: dict, mesh, axis='data') -> dict:
  """Splits what divides among the devices along its instances, and copies the rest to all of them."""
  if mesh is None:
    return arrays
  out = {}
  for key, value in arrays.items():
    at = instance_axis(key, value)
    split = at is not None and np.shape(value)[at] % mesh.size == 0
    out[key] = jax.device_put(value, NamedSharding(mesh, P(*(None,) * at, axis) if split else P()))
  return out


def check(row):
  (check_cached if row['gradient'] == 'cached' else check_plain)(row)


def check_cached(row):
  """The gradient of a linear encoder, by micro-batches of half the batch, against that of the dense fold at once."""
  mesh = state.data_mesh(row['devices'])
  ways = [
    gauntlet.tower(gauntlet.case(row['name'], 'plain'), fold=fold) for fold in (TILES[row['fold']], losses.dense())
  ]
  split = state.batch_sharding(mesh)
  with tiny.quickly(), jax.set_mesh(mesh) if row['told'] == 'current' else contextlib.nullcontext():
    of = gradient.cached(lambda numbers: ways[0].method, lambda raw, seed, step: raw, microbatch=8, mesh=mesh)
    start = state.TrainState(jnp.int32(0), ways[0].params, (), {}, {'seed': jnp.uint32(0)})
    start = jax.device_put(start, NamedSharding(mesh, P()))
    out, found = of(start, jax.device_put(ways[0].batch, split))

  def plainly(params):
    features, _ = ways[1].method.encode(params, {}, ways[1].batch, key=None, step=0, train=True)
    return ways[1].method.loss(params, {}, features, ways[1].batch, key=None, step=0).loss

  assert_close((out.loss, found), jit(jax.value_and_grad(plainly))(ways[1].params), 2e-5)


def check_plain(row):
  variant, _, ragged = row['options'].partition(' ')
  size = 13 if ragged else 16
  case = gauntlet.case(row['name'], variant, size)
  mesh = mesh_of(row['devices'], row['axes']) if row['devices'] else None
  fold, at = TILES[row['fold']], mesh
  if row['told'] == 'fold':
    fold, at = fold._replace(mesh=mesh), None
  function = jit(jax.value_and_grad(scalar(case, fold=fold)))
  with jax.set_mesh(mesh) if row['told'] == 'current' else contextlib.nullcontext():
    got = function(placed(case.learnable, at), placed(case.fixed, at))
  assert_close(got, truth(row['name'], variant, size), 2e-5)


def turns() -> list[dict]:
  """Losses take turns at rows that cover every pair of the factors but the name."""
  others = {k: v for k, v in FACTORS.items() if k != 'name'}
  rows = gauntlet.covering(others, possible)
  return [{'name': name} | rows[i % len(rows)] for i, name in enumerate(losses.PAIRWISE)]


@pytest.mark.parametrize('row', turns(), ids=label)
def test_every_fold_equals_dense_on_one_device_in_value_and_gradient(row):
  check(row)


def pytest_generate_tests(metafunc):
  # Thousands of rows, which are listed only where they may be wanted: every worker collects all tests.
  if metafunc.function is test_every_fold_equals_dense_in_the_full_product:
    wanted = metafunc.config.option.markexpr != 'not slow'
    metafunc.parametrize('row', gauntlet.product(FACTORS, possible) if wanted else [], ids=label)


@pytest.mark.slow
def test_every_fold_equals_dense_in_the_full_product(row):
  check(row)


@pytest.mark.turns(2)
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize('axis', ['data', ('model', 'data')], ids=str)
def test_a_mesh_of_two_axes_splits_instances_along_either_or_both(kind, axis):
  mesh = jax.make_mesh((2, 4), ('model', 'data'), axis_types=(kind, kind))
  name = 'nt_xent' if axis == 'data' else 'info_nce_both'
  case = gauntlet.case(name, 'plain')
  function = jit(jax.value_and_grad(scalar(case, fold=losses.ring(axis, rows=3, cols=4))))
  with jax.set_mesh(mesh):
    got = function(placed(case.learnable, mesh, axis), placed(case.fixed, mesh, axis))
  assert_close(got, truth(name, 'plain'), 2e-5)


@pytest.mark.parametrize('where', ['operand', 'current', 'explicit', 'fold'])
def test_a_ring_moves_columns_by_permutation_and_never_gathers_them(where):
  mesh = mesh_of(8, 'explicit' if where == 'explicit' else 'auto')
  z = gauntlet.case('nt_xent', 'plain').learnable['z']
  fold = losses.ring(mesh=mesh) if where == 'fold' else losses.ring()
  arrays = placed(dict(z=z), mesh if where in ('operand', 'explicit') else None)
  with jax.set_mesh(mesh) if where == 'current' else contextlib.nullcontext():
    text = jit(functools.partial(losses.nt_xent, fold=fold)).lower(arrays['z']).compile().as_text()
  assert 'collective-permute' in text
  if where != 'current':  # there the input arrives whole, and the anchors' values leave gathered
    assert 'all-gather' not in text


@pytest.mark.parametrize('fold', [losses.chunked(axis='batch'), losses.ring('batch')], ids=lambda f: type(f).__name__)
def test_an_axis_the_mesh_lacks_is_refused_by_name(fold):
  with jax.set_mesh(mesh_of(8, 'auto')), pytest.raises(ValueError, match=r"no mesh axis 'batch'.*known: data"):
    losses.nt_xent(jnp.ones((2, 8, 5)), fold=fold)


@pytest.mark.parametrize('entries', ['rows', 'columns', 'both'])
def test_explicitly_replicated_operands_fold_as_sharded_ones_do(entries):
  mesh = mesh_of(8, 'explicit')
  case = gauntlet.case('info_nce', 'plain')
  specs = dict(x=P() if entries != 'columns' else P('data'), y=P() if entries != 'rows' else P('data'))
  arrays = {k: jax.device_put(case.learnable[k], NamedSharding(mesh, specs[k])) for k in specs}
  got = jit(functools.partial(losses.info_nce, fold=losses.ring(rows=3, cols=4)))(**arrays)
  assert_close(got, losses.info_nce(case.learnable['x'], case.learnable['y'], fold=losses.dense()))
