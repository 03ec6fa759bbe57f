"""Folds that name no tiles, and what their docstrings promise."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.similarity import folds
from contrastive_jax.types import Refusal

FOLDS = [losses.dense, losses.chunked, losses.ring, losses.local]
Z = losses.unit(jax.random.normal(jax.random.key(0), (2, 4, 3)))


@pytest.mark.parametrize('fold', [losses.chunked, losses.ring, losses.local])
@pytest.mark.parametrize('sizes', [dict(rows=0), dict(cols=-1), dict(rows=2.0), dict(cols='8'), dict(rows=None)])
def test_tiles_without_rows_or_columns_are_refused_with_what_was_given(fold, sizes):
  ((name, size),) = sizes.items()
  with pytest.raises(Refusal, match=rf'fold {fold.__name__.lower()} need at least one row.*{name}={size!r}'):
    losses.nt_xent(Z, temperature=0.5, fold=fold(**sizes))


def test_tiles_without_rows_are_refused_inside_the_callers_shard_map():
  mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

  def loss(z):
    return losses.nt_xent(z, temperature=0.5, fold=losses.ring('data', rows=0)).mean()[None]

  with pytest.raises(Refusal, match='rows=0'):
    jax.shard_map(loss, mesh=mesh, in_specs=P(None, 'data'), out_specs=P('data'))(Z)


def test_local_tiles_outside_of_a_shard_map_give_the_value_of_all_instances():
  want = losses.nt_xent(Z, temperature=0.5, fold='dense')
  assert jnp.allclose(losses.nt_xent(Z, temperature=0.5, fold=losses.local(3, 3)), want, atol=1e-6)


@pytest.mark.parametrize(
  ('sides', 'width', 'devices', 'kind'),
  [
    ((1024, 1024), 2, 8, 'dense'),
    ((1025, 1024), 2, 1, 'chunked'),
    ((1025, 1024), 2, 8, 'chunked'),  # so few columns that a turn of the ring would wait for them
    ((16, 2**14 - 1), 2, 8, 'dense'),
    ((128, 2**14 - 1), 2, 8, 'chunked'),
    ((128, 2**14), 2, 8, 'ring'),
    ((129, 2**13), 2**12, 8, 'ring'),  # too much to hold on every device
    ((1025,), 2, 8, 'ring'),  # half a ring
  ],
)
def test_auto_chooses_by_the_size_of_the_problem_and_of_the_mesh(sides, width, devices, kind):
  mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  with jax.set_mesh(mesh):
    operands = [jax.ShapeDtypeStruct((n, width), jnp.float32) for n in sides]
    assert folds.resolve('auto', operands, (sides[0], sides[-1])).kind == kind


@pytest.mark.parametrize('fold', FOLDS)
def test_every_option_of_a_fold_is_explained(fold):
  said = inspect.getdoc(fold)
  assert all(f'\n  {name}: ' in said for name in fold._fields)
