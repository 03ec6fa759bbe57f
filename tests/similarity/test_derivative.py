"""Where the backward pass can be spared: candidates without gradient, and sums that all weigh the same."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import AxisType

from contrastive_jax import losses

MESH = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
FOLDS = {
  'chunked': losses.chunked(8, 16),
  'gathered': losses.chunked(4, 4, 'data', MESH),
  'ring': losses.ring('data', MESH, 4, 4),
}
SIZES = 37, 53
each_fold = pytest.mark.parametrize('fold', FOLDS.values(), ids=FOLDS)


@pytest.fixture(scope='module')
def rows():
  random = np.random.default_rng(0)
  return [losses.unit(jnp.asarray(random.normal(size=(n, 16)), jnp.float32)) for n in SIZES]


def products(fn, *args) -> int:
  """Matrix products in the trace of a function: per tile, in each loop and each branch that it has."""

  def count(jaxpr):
    inner = sum(count(sub) for eqn in jaxpr.eqns for sub in jax.extend.core.jaxprs_in_params(eqn.params))
    return inner + sum(eqn.primitive.name == 'dot_general' for eqn in jaxpr.eqns)

  return count(jax.make_jaxpr(fn)(*args).jaxpr)


def assert_same(fn, fold, *args):
  """Value and gradients of a loss are those of the dense fold."""
  numbers = tuple(range(len(args)))
  got, want = (jit(jax.value_and_grad(lambda *a, f=f: fn(*a, fold=f), numbers))(*args) for f in (fold, losses.dense()))
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(g, w, rtol=2e-5, atol=1e-6 * float(jnp.abs(w).max()))


@pytest.mark.turns(2)
@each_fold
@pytest.mark.parametrize('temperature', [0.1, 0.005])  # a bound that all share, and maxima of each anchor
def test_candidates_without_gradient_leave_the_anchors_gradient_right(fold, temperature, rows):
  def loss(x, temperature, y_mask, *, fold):
    y, keep = jax.lax.stop_gradient(rows[1]), y_mask > 0
    values = losses.info_nce(x, y, temperature=temperature, y_mask=keep, fold=fold)
    return (values * jnp.arange(SIZES[0])).mean()

  assert_same(loss, fold, rows[0], jnp.float32(temperature), (jnp.arange(SIZES[1]) % 5 > 0).astype(jnp.float32))


@pytest.mark.turns(3)
@each_fold
def test_anchors_without_gradient_leave_the_candidates_gradient_right(fold, rows):
  def loss(y, temperature, *, fold):
    of_x, of_y = losses.info_nce_both(jax.lax.stop_gradient(rows[0]), y, temperature=0.1, fold=fold)
    return of_x.mean() + (of_y**2).mean() * temperature

  assert_same(loss, fold, rows[1], jnp.float32(0.1))


@pytest.mark.turns(2)
@each_fold
@pytest.mark.parametrize('weights', [np.ones(37), np.arange(37.0)], ids=['alike', 'different'])
def test_sums_are_differentiated_right_whether_they_weigh_the_same_or_not(fold, weights, rows):
  def loss(x, y, temperature, bias, *, fold):
    return (losses.sigmoid(x, y, temperature=temperature, bias=bias, fold=fold) * weights).mean()

  assert_same(loss, fold, *rows, jnp.float32(0.1), jnp.float32(-3.0))


def test_candidates_without_gradient_need_half_the_products(rows):
  def loss(x, y):
    return losses.info_nce(x, y, fold=FOLDS['chunked']).mean()

  x, y = rows
  assert products(jax.grad(loss, (0, 1)), x, y) == 2 * (1 + 3)  # in two branches: a shared bound, and maxima
  assert products(jax.grad(lambda x: loss(x, y)), x) == 2 * 2
  assert products(jax.grad(lambda y: loss(x, y)), y) == 2 * (1 + 2)


def test_the_mean_of_a_sigmoid_loss_needs_three_products(rows):
  def loss(x, y):
    return losses.sigmoid(x, y, fold=FOLDS['chunked']).mean()

  assert products(loss, *rows) == 1
  assert products(jax.grad(loss, (0, 1)), *rows) == 3 + 3  # the others are for rows that weigh differently


def test_a_sigmoid_loss_can_be_mapped_over_temperatures(rows):
  def loss(x, temperature, fold):
    return losses.sigmoid(x, rows[1], temperature=temperature, fold=fold).mean()

  got, want = (
    jit(jax.vmap(jax.value_and_grad(lambda x, t, f=f: loss(x, t, f)), (None, 0)))(rows[0], jnp.asarray([0.1, 0.5]))
    for f in (FOLDS['chunked'], losses.dense())
  )
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(g, w, rtol=2e-5, atol=1e-6)
