"""Tiles, products and places: what the folds are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from contrastive_jax import similarity as sim
from contrastive_jax.similarity import folds, products, tiles
from contrastive_jax.types import Refusal


def operand(count):
  return tiles.Operand(jnp.zeros((count, 2, 3)), {}, None)


def served(operands):
  """(anchor tile, candidate tile) of every reduction of the schedule, by the side of the anchors."""
  pairs = {1: [], 0: []}
  for rows, cols, axes, _ in tiles._schedule(operands, False):
    for a, b in zip(rows, cols, strict=True):
      for axis in axes:
        pairs[axis].append((a, b) if axis == 1 else (b, a))
  return pairs


@pytest.mark.parametrize('count', [1, 2, 5])
def test_the_triangle_serves_each_ordered_pair_of_tiles_once(count):
  pairs = served([operand(count)])
  assert sorted(pairs[1] + pairs[0]) == [(a, b) for a in range(count) for b in range(count)]


def test_the_triangle_makes_no_tile_below_the_diagonal():
  made = [(a, b) for rows, cols, _, _ in tiles._schedule([operand(5)], False) for a, b in zip(rows, cols, strict=True)]
  assert len(made) == 15
  assert all(a <= b for a, b in made)


def test_the_rectangle_serves_rows_and_columns_with_each_tile_once():
  pairs = served([operand(3), operand(4)])
  assert sorted(pairs[1]) == [(a, b) for a in range(3) for b in range(4)]
  assert sorted(pairs[0]) == [(b, a) for b in range(4) for a in range(3)]


@pytest.mark.parametrize(
  ('n', 'limit', 'size'), [(10, 4, 4), (9, 4, 3), (8, 4, 4), (3, 100, 3), (1025, 1024, 513), (4097, 1024, 820)]
)
def test_tiles_are_as_equal_as_the_limit_allows(n, limit, size):
  assert tiles.tile_size(n, limit) == size


def test_tiles_that_need_no_padding_are_taken_where_they_are_hardly_smaller():
  assert [tiles.tile_size(n, 1024) for n in (60_000, 50_000, 1026)] == [1000, 1000, 513]


def test_untiled_is_the_inverse_of_tiled_and_padding_is_not_real():
  one = tiles.Operand(jnp.arange(21.0).reshape(7, 3), {'id': jnp.arange(7)}, None)
  cut = tiles.tiled_operand(one, 3)
  assert cut.z.shape == (3, 3, 3)
  assert np.asarray(cut.real).reshape(-1).tolist() == [True] * 7 + [False] * 2
  back = tiles.untiled(cut, 7)
  assert (back.z == one.z).all()
  assert (back.entries['id'] == one.entries['id']).all()


def test_partition_and_combine_keep_every_leaf():
  tree = {'a': jnp.ones(2), 'b': [jnp.arange(3), jnp.zeros(1, bool)]}
  inexact, rest = tiles.partition(tree)
  assert [x.dtype for x in jax.tree.leaves(inexact)] == [jnp.float32]
  assert jax.tree.structure(tiles.combine(inexact, rest)) == jax.tree.structure(tree)


# --- products ---


@pytest.mark.parametrize(('precision', 'error'), [('float32', 1e-6), ('bfloat16_3x', 2**-14), ('bfloat16', 2**-7)])
def test_products_are_as_close_as_their_precision_says(precision, error):
  random = np.random.default_rng(0)
  a, b = (random.normal(size=(20, 64)).astype(np.float32) for _ in range(2))
  exact, scale = (
    a.astype(np.float64) @ b.T.astype(np.float64),
    np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1),
  )
  for made in (products.contract(a, b, (1, 1), precision), products.similarities(a, b, precision)):
    assert made.dtype == jnp.float32
    apart = np.abs(made - exact) / scale
    assert apart.max() < error
    if precision != 'float32':
      assert apart.max() > error / 2**9, 'more exact than asked for: the products were not reduced'


@pytest.mark.parametrize('axes', [(1, 1), (1, 0), (0, 0), (0, 1)])
@pytest.mark.parametrize('precision', products.PRECISIONS)
def test_products_contract_the_axes_they_are_told(axes, precision):
  random = np.random.default_rng(0)
  a, b = (random.integers(-3, 4, (4, 6) if axis == 1 else (6, 4)).astype(np.float32) for axis in axes)
  want = np.tensordot(a, b, axes=([axes[0]], [axes[1]]))
  np.testing.assert_array_equal(products.contract(a, b, axes, precision), want)


@pytest.mark.parametrize('precision', ['bfloat16', 'bfloat16_3x'])
def test_gradients_of_reduced_products_are_as_close_as_the_products(precision):
  random = np.random.default_rng(0)
  x, y, cotangent = (jnp.asarray(random.normal(size=s), jnp.float32) for s in ((9, 64), (7, 64), (9, 7)))
  got = jax.vjp(lambda x, y: products.similarities(x, y, precision), x, y)[1](cotangent)
  exact = jax.vjp(lambda x, y: products.similarities(x, y, 'float32'), x, y)[1](cotangent)
  error = {'bfloat16': 2e-2, 'bfloat16_3x': 1e-4}[precision]
  for g, e in zip(got, exact, strict=True):
    assert jnp.abs(g - e).max() < error * jnp.abs(e).max()


def test_products_of_float64_stay_float64():
  with jax.enable_x64(True):
    a = jnp.ones((2, 3), jnp.float64)
    assert products.contract(a, a, (1, 1), 'float32').dtype == jnp.float64


# --- places ---


def mesh_of(devices):
  return jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def resolve(fold, n, mesh=None):
  z = jax.ShapeDtypeStruct((n, 2), jnp.float32)
  if mesh is None:
    return folds.resolve(fold, [z], (n, n))
  with jax.set_mesh(mesh):
    return folds.resolve(fold, [z], (n, n))


def test_auto_materialises_a_million_logits_and_tiles_more():
  assert resolve('auto', 1024).kind == 'dense'
  assert resolve('auto', 1025).kind == 'chunked'


def test_auto_is_a_ring_on_many_devices_and_chunked_on_one():
  assert resolve('auto', 2000, mesh_of(8)) == folds.Place('ring', (1024, 2048), mesh_of(8).abstract_mesh, 'data')
  assert resolve('auto', 2000, mesh_of(1)) == folds.Place('chunked', (1024, 2048))


def test_a_named_fold_is_kept_whatever_the_size():
  assert resolve(sim.Dense(), 10_000, mesh_of(8)).kind == 'dense'
  assert resolve(sim.Chunked(3, 4), 2, mesh_of(8))[:2] == ('chunked', (3, 4))
  assert resolve(sim.Ring(rows=3, cols=4), 2, mesh_of(8))[:2] == ('ring', (3, 4))
  assert resolve(sim.Local(3, 4), 2, mesh_of(8)) == folds.Place('chunked', (3, 4))


@pytest.mark.parametrize('fold', ['chunk', 'Auto', None, 3, sim.Chunked, (3, 4)])
def test_what_is_no_fold_is_refused_with_the_folds_there_are(fold):
  with pytest.raises(
    Refusal, match=r"unknown fold.*'auto', dense\(\), chunked\(rows, cols\), ring\(axis\) or local\(\)"
  ):
    resolve(fold, 4)


@pytest.mark.parametrize(('name', 'near'), [('bfloat', 'bfloat16'), ('float23', 'float32'), ('tf32', '')])
def test_an_unknown_precision_is_refused_with_the_nearest_known(name, near):
  with pytest.raises(Refusal, match=f"unknown precision '{name}'.*{near}.*known: bfloat16, bfloat16_3x, float32"):
    products.check_precision(name)


def test_no_precision_is_float32():
  assert products.check_precision(None) == 'float32'
