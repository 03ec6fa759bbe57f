"""Inside the caller's own shard_map or pmap the documented way to differentiate gives the global gradient."""

import functools

import gauntlet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from gauntlet import assert_close, average, instance_axis
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.types import Refusal

RING = losses.ring('data', rows=3, cols=4)
FACTORS = dict(
  name=list(losses.PAIRWISE),
  way=['shard_map', 'shard_map without vma', 'pmap'],
  devices=[2, 8],
  options=['plain', 'rich'],
)


def label(row) -> str:
  return '-'.join(str(v).replace(' ', '_') for v in row.values())


def always(row) -> bool:
  return True


def shared_and_split(name: str, options: str):
  """A model of shared parameters (a linear map and the loss's scalars), and data with an instance axis each."""
  case = gauntlet.case(name, options)
  scalars = {k: v for k, v in case.learnable.items() if np.ndim(v) == 0}
  data = {k: v for k, v in {**case.learnable, **case.fixed}.items() if k not in scalars}
  square = np.random.default_rng(7).normal(size=(5, 5)).astype(np.float32)
  return case, dict(map=square, scalars=scalars), data


def values(case, parameters, data, fold):
  embedded = {k: losses.unit(v @ parameters['map']) if k in ('x', 'y', *gauntlet.VIEWS) else v for k, v in data.items()}
  return case.call({**parameters['scalars'], **embedded}, {}, fold=fold)


@functools.cache
def global_mean(name: str, options: str):
  case, parameters, data = shared_and_split(name, options)
  return jit(jax.value_and_grad(lambda p, d: average(values(case, p, d, losses.dense()))))(parameters, data)


def mesh_of(devices: int, kind=AxisType.Auto):
  return jax.make_mesh((devices,), ('data',), axis_types=(kind,), devices=jax.devices()[:devices])


def through_shard_map(function, parameters, data, devices, *, check_vma):
  mesh = mesh_of(devices, AxisType.Explicit if devices == 2 else AxisType.Auto)
  specs = {k: P(*(None,) * instance_axis(k, v), 'data') for k, v in data.items()}
  mapped = jax.shard_map(function, mesh=mesh, in_specs=(P(), specs), out_specs=P(), check_vma=check_vma)
  with jax.set_mesh(mesh):
    data = {k: jax.device_put(v, jax.NamedSharding(mesh, specs[k])) for k, v in data.items()}
    return jit(mapped)(parameters, data)


def through_pmap(function, parameters, data, devices):
  def blocks(key, value):
    return np.stack(np.split(value, devices, axis=instance_axis(key, value)))

  mapped = jax.pmap(function, axis_name='data', in_axes=(None, 0), devices=jax.devices()[:devices])
  out = jax.tree.map(np.asarray, mapped(parameters, {k: blocks(k, v) for k, v in data.items()}))
  assert_close(jax.tree.map(lambda x: x[-1], out), jax.tree.map(lambda x: x[0], out), 1e-6)
  return jax.tree.map(lambda x: x[0], out)


def differentiate(row, case, parameters, data):
  def mean(p, d):
    return average(values(case, p, d, RING))

  if row['way'] == 'shard_map':
    function = jax.value_and_grad(lambda p, d: lax.pmean(mean(p, d), 'data'))
    return through_shard_map(function, parameters, data, row['devices'], check_vma=True)

  def function(p, d):
    return lax.pmean(jax.value_and_grad(mean)(p, d), 'data')

  if row['way'] == 'pmap':
    return through_pmap(function, parameters, data, row['devices'])
  return through_shard_map(function, parameters, data, row['devices'], check_vma=False)


def check(row):
  case, parameters, data = shared_and_split(row['name'], row['options'])
  got = differentiate(row, case, parameters, data)
  assert_close(got, global_mean(row['name'], row['options']), 2e-5)


# By default losses take turns at the ways, sizes and options: the ring's share in them is the same for all.
HOW = gauntlet.product({k: v for k, v in FACTORS.items() if k != 'name'}, always)
TURNS = [{'name': name} | HOW[i % len(HOW)] for i, name in enumerate(losses.PAIRWISE)]


@pytest.mark.turns(9)
@pytest.mark.parametrize('row', TURNS, ids=label)
def test_the_documented_gradient_is_that_of_the_global_mean(row):
  check(row)


@pytest.mark.slow
@pytest.mark.parametrize('row', gauntlet.product(FACTORS, always), ids=label)
def test_the_documented_gradient_is_that_of_the_global_mean_in_the_full_product(row):
  check(row)


def inside(name, fold, check_vma=True):
  """The loss on the local rows of two devices; per-device values are stacked."""
  case, parameters, data = shared_and_split(name, 'plain')
  mesh = mesh_of(2)
  specs = {k: P(*(None,) * instance_axis(k, v), 'data') for k, v in data.items()}

  def function(p, d):
    return jax.tree.map(lambda v: v[None], values(case, p, d, fold))

  mapped = jax.shard_map(function, mesh=mesh, in_specs=(P(), specs), out_specs=P('data'), check_vma=check_vma)
  return case, parameters, data, mapped


@pytest.mark.turns(11)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_local_gives_each_device_the_loss_of_its_own_rows(name):
  case, parameters, data, mapped = inside(name, losses.local(3, 4))
  got = jit(mapped)(parameters, data)
  for device in range(2):
    rows = {k: np.split(v, 2, axis=instance_axis(k, v))[device] for k, v in data.items()}
    want = values(case, parameters, rows, losses.dense())
    assert_close(jax.tree.map(lambda v, d=device: v[d], got), want)


@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_folds_that_would_drop_other_devices_negatives_are_refused(name):
  turn = losses.PAIRWISE.index(name)
  fold = ['auto', losses.dense(), losses.chunked(3, 4), losses.ring()][turn % 4]
  _, parameters, data, mapped = inside(name, fold, check_vma=turn % 8 < 4)
  with pytest.raises(Refusal, match=r'losses\.ring\(axis\).*losses\.local\(\)'):
    jax.eval_shape(mapped, parameters, data)


@pytest.mark.parametrize('fold', ['auto', losses.dense(), losses.chunked(3, 4), losses.ring()], ids=str)
def test_folds_that_would_drop_other_devices_negatives_are_refused_in_pmap(fold):
  z = np.ones((2, 2, 4, 5), np.float32)
  with pytest.raises(Refusal, match=r'losses\.ring\(axis\).*losses\.local\(\)'):
    jax.pmap(lambda z: losses.nt_xent(z, fold=fold), axis_name='data', devices=jax.devices()[:2])(z)


def on_eight_devices(function, **data):
  specs = (P('data'),) * len(data)
  return jit(jax.shard_map(function, mesh=mesh_of(8), in_specs=specs, out_specs=P('data')))(*data.values())


@pytest.mark.parametrize('name', ['info_nce', 'sigmoid'])
def test_a_side_without_ids_is_known_by_its_positions_on_all_devices(name):
  random = np.random.default_rng(0)
  x, y = gauntlet.unit_rows(random, 16, 5), gauntlet.unit_rows(random, 16, 5)
  x_id = np.arange(16)[::-1].copy()
  loss = getattr(losses, name)
  got = on_eight_devices(lambda x, y, i: loss(x, y, x_id=i, fold=RING), x=x, y=y, i=x_id)
  assert_close(got, loss(x, y, x_id=x_id, fold=losses.dense()))


@pytest.mark.parametrize('name', ['info_nce', 'info_nce_both', 'sigmoid'])
def test_pairs_by_position_of_unequal_shards_are_refused(name):
  x, y = np.ones((16, 5), np.float32), np.ones((32, 5), np.float32)
  with pytest.raises(Refusal, match='it holds 2 and 4: pass x_id and y_id'):
    on_eight_devices(lambda x, y: getattr(losses, name)(x, y, fold=RING), x=x, y=y)


@pytest.mark.parametrize('name', ['queue_nce', 'normface'])
def test_columns_that_every_device_holds_whole_are_refused_by_a_ring_and_right_locally(name):
  random = np.random.default_rng(0)
  x, y, whole = (gauntlet.unit_rows(random, 16, 5) for _ in range(3))
  second = y if name == 'queue_nce' else random.integers(0, 16, 16).astype(np.int32)

  def mapped(fold):
    specs = (P('data'), P('data'), P())
    loss = functools.partial(getattr(losses, name), fold=fold)
    return jax.shard_map(loss, mesh=mesh_of(8), in_specs=specs, out_specs=P('data'))

  with pytest.raises(Refusal, match='a ring would count each of them once a device'):
    jax.eval_shape(mapped(RING), x, second, whole)
  got = jit(mapped(losses.local()))(x, second, whole)
  assert_close(got, getattr(losses, name)(x, second, whole, fold=losses.dense()))


def test_uniformity_of_one_row_a_device_is_that_of_all_rows():
  x = gauntlet.unit_rows(np.random.default_rng(0), 8, 5)
  got = on_eight_devices(lambda x: losses.uniformity(x, fold=RING)[None], x=x)
  np.testing.assert_allclose(got, np.full(8, losses.uniformity(jnp.asarray(x))), rtol=1e-5)


def test_masked_mean_of_equal_shards_averages_to_the_mean_over_all_rows():
  x, mask = gauntlet.unit_rows(np.random.default_rng(0), 16, 5), np.tile([True, False], 8)  # one of each device's two

  def shard(x, mask):
    return lax.pmean(losses.mean(losses.info_nce(x, x, x_mask=mask, fold=RING), mask), 'data')[None]

  want = losses.info_nce(x, x, x_mask=mask)[mask].mean()
  np.testing.assert_allclose(on_eight_devices(shard, x=x, mask=mask)[0], want, rtol=1e-5)
