"""Vision transformers against the published ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax.models import vit
from contrastive_jax.types import Refusal

# timm's counts with 1000 classes, 224 x 224 pixels and patches of 16.
TIMM = {'ti': 5_717_416, 's': 22_050_664, 'b': 86_567_656}


def shapes(encoder, shape):
  return jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, 'float32'))


@pytest.mark.parametrize('variant', TIMM)
def test_parameters_are_as_many_as_published(variant):
  params, stats = shapes(vit.make(variant=variant, pool='class'), (1, 224, 224, 3))
  width = vit.VARIANTS[variant].width
  classifier, positions = (width + 1) * 1000, (1 + 14 * 14) * width  # ours are fixed
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == TIMM[variant] - classifier - positions
  assert stats == {}


def test_positions_tell_all_places_apart_and_depend_on_the_offset_only():
  grid = vit.sincos_2d(5, 7, 64)
  assert grid.shape == (35, 64)
  similarity = (grid @ grid.T).reshape(5, 7, 5, 7)
  np.testing.assert_allclose(np.einsum('abab->ab', similarity), 32)
  assert np.sort(grid @ grid.T, axis=1)[:, -2].max() < 31.5
  np.testing.assert_allclose(similarity[0, 0, 2, 3], similarity[2, 3, 4, 6])
  np.testing.assert_allclose(similarity[1, 2, 1, 3], similarity[3, 5, 3, 6])


def test_first_half_of_a_position_is_its_column_and_the_second_its_row():
  grid = vit.sincos_2d(3, 4, 16).reshape(3, 4, 16)
  np.testing.assert_array_equal(grid[..., :8], np.broadcast_to(grid[:1, :, :8], (3, 4, 8)))
  np.testing.assert_array_equal(grid[..., 8:], np.broadcast_to(grid[:, :1, 8:], (3, 4, 8)))
  np.testing.assert_allclose(grid[2, 3, [0, 4, 8, 12]], [np.sin(3), np.cos(3), np.sin(2), np.cos(2)])


@pytest.mark.parametrize('pool', ['mean', 'class'])
def test_moving_a_patch_changes_the_features(pool):
  encoder = vit.make(variant='mu', patch=4, pool=pool)
  x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
  params, stats = jit(encoder.init)(jax.random.key(1), x)
  moved = jnp.concatenate([x[:, :, 4:], x[:, :, :4]], axis=2)
  apply = jit(encoder.apply)
  y, z = (apply(params, stats, image)[0] for image in (x, moved))
  assert jnp.abs(y - z).max() > 1e-3


def test_images_need_not_be_square():
  encoder = vit.make(variant='mu', patch=4)
  params, stats = shapes(encoder, (1, 8, 8, 1))
  y, _ = jax.eval_shape(encoder.apply, params, stats, jax.ShapeDtypeStruct((3, 12, 20, 1), 'float32'))
  assert y.shape == (3, 32)


def test_stochastic_depth_keeps_or_drops_a_whole_branch_and_its_mean():
  x = jax.random.normal(jax.random.key(0), (1, 5, 8))
  block = vit.Block(2, 0.0, 0.5, jnp.float32, jnp.float32)
  init = jit(functools.partial(block.init_with_output, train=False))
  plain, variables = init(jax.random.key(1), x)
  apply = jit(jax.vmap(lambda key: block.apply(variables, x, train=True, rngs={'dropout': key})[0]))
  outputs = np.asarray(apply(jax.random.split(jax.random.key(2), 400)))
  # Two branches, each dropped or doubled: four different results, of which one is the input.
  values, counts = np.unique(outputs.round(4), axis=0, return_counts=True)
  assert len(values) == 4 and counts.min() > 60
  assert any(np.allclose(value, x[0], atol=1e-3) for value in values)
  assert not any(np.allclose(value, plain[0], atol=1e-3) for value in values)


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    ((1, 8, 12, 3), r'8x12 pixels are too small: patch 16 needs at least 16x16'),
    ((1, 32, 40, 3), r'patch 16 does not divide images of 32x40 pixels'),
  ],
)
def test_images_that_patches_do_not_tile_are_refused(shape, message):
  with pytest.raises(Refusal, match=message):
    shapes(vit.make(variant='mu'), shape)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'variant': 'tiny'}, "unknown variant 'tiny'; did you mean 'ti'"),
    ({'pool': 'cls'}, "unknown pool 'cls'.*class, mean"),
    ({'patch': 0}, 'patch is 0: positive integers'),
    ({'patch': 4.0}, 'patch is 4.0: positive integers'),
    ({'dropout': 1.0}, 'dropout is 1.0: a probability'),
    ({'stochastic_depth': -0.1}, 'stochastic_depth is -0.1: a probability'),
  ],
)
def test_options_that_mean_nothing_are_refused(options, message):
  with pytest.raises(Refusal, match=message):
    vit.make(**options)


def test_class_token_starts_at_zero_and_learns():
  encoder = vit.make(variant='mu', patch=4, pool='class')
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  params, stats = jit(encoder.init)(jax.random.key(1), x)
  assert not params['class_token'].any()
  target = jax.random.normal(jax.random.key(2), (2, 32))
  gradient = jit(jax.grad(lambda params: (encoder.apply(params, stats, x)[0] * target).sum()))(params)
  assert jnp.abs(gradient['class_token']).max() > 1e-4
