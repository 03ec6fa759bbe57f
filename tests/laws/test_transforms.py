"""Transformations of JAX and reduced precision leave every pairwise loss what it is."""

import gauntlet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from gauntlet import TILES, assert_close, scalar, truth
from jax.sharding import AxisType

from contrastive_jax import losses

EITHER = ['chunked', 'dense']


def turn(name: str, choices):
  """Losses take turns, so that each choice is tried with some loss and each loss with some choice."""
  return choices[losses.PAIRWISE.index(name) % len(choices)]


@pytest.mark.turns(11)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_eager_equals_compiled(name):
  case = gauntlet.case(name, 'plain')
  got = scalar(case, fold=TILES[turn(name, EITHER)])(case.learnable, case.fixed)
  assert_close(got, truth(name, 'plain')[0])


@pytest.mark.turns(2)
@pytest.mark.parametrize('fold', EITHER)
def test_an_eager_gradient_equals_the_compiled_one(fold):
  case = gauntlet.case('nt_xent', 'plain')
  got = jax.value_and_grad(scalar(case, fold=TILES[fold]))(case.learnable, case.fixed)
  assert_close(got, truth('nt_xent', 'plain'))


@pytest.mark.turns(11)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_vmap_over_a_scalar_equals_a_loop(name):
  case = gauntlet.case(name, 'plain')
  key = next(k for k, v in case.learnable.items() if np.ndim(v) == 0)
  mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
  fold = turn(name, [TILES['chunked'], TILES['ring']._replace(mesh=mesh)])
  function = scalar(case, fold=fold)
  sweep = jnp.asarray([0.07, 0.3, 1.0])

  def one(value):
    return jax.value_and_grad(function)(case.learnable | {key: value}, case.fixed)

  got = jit(jax.vmap(one))(sweep)
  dense = gauntlet.dense(name, 'plain')
  want = [dense(case.learnable | {key: value}, case.fixed) for value in sweep]
  assert_close(got, jax.tree.map(lambda *each: np.stack(each), *want), 2e-5)


TOLERANCE = {'bfloat16': 0.02, 'bfloat16_3x': 5e-5}
# What compares an anchor with single rows may choose others where products are rounded: as near, of another gradient.
CHOOSING = {'triplet'}


@pytest.mark.turns(9)
@pytest.mark.parametrize('precision', TOLERANCE)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_reduced_precision_is_as_close_as_its_rounding(name, precision):
  case, tolerance = gauntlet.case(name, 'plain'), TOLERANCE[precision]
  fold = TILES[EITHER[losses.PAIRWISE.index(name) // 2 % 2]]
  got = jit(jax.value_and_grad(scalar(case, fold=fold, precision=precision)))(case.learnable, case.fixed)
  compared = slice(1 if name in CHOOSING else 2)
  assert_close(got[compared], truth(name, 'plain')[compared], tolerance)
  exact = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), got, truth(name, 'plain'))
  assert not all(jax.tree.leaves(exact)), 'the precision was not used'


@pytest.mark.turns(7)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_forward_mode_through_dense_equals_reverse_mode(name):
  case = gauntlet.case(name, 'plain')
  function = scalar(case, fold=losses.dense())
  direction = jax.tree.map(np.ones_like, case.learnable)
  _, got = jit(lambda a, d: jax.jvp(lambda p: function(p, case.fixed), (a,), (d,)))(case.learnable, direction)
  _, gradient = truth(name, 'plain')
  assert_close(got, sum(np.asarray(g, np.float64).sum() for g in jax.tree.leaves(gradient)), 1e-4)
