"""Residual networks against the published ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax.models import resnet
from contrastive_jax.types import Refusal


def shapes(encoder, shape):
  return jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, 'float32'))


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


# torchvision's counts less their classifiers (512 or 2048 by 1000, and 1000).
@pytest.mark.parametrize(
  ('depth', 'published', 'features'),
  [(18, 11_689_512 - 513_000, 512), (34, 21_797_672 - 513_000, 512), (50, 25_557_032 - 2_049_000, 2048)],
)
def test_parameters_are_as_many_as_published(depth, published, features):
  encoder = resnet.make(depth=depth)
  params, stats = shapes(encoder, (1, 224, 224, 3))
  assert count(params) == published
  y, _ = jax.eval_shape(encoder.apply, params, stats, jax.ShapeDtypeStruct((2, 224, 224, 3), 'float32'))
  assert y.shape == (2, features)


def test_cifar_stem_only_swaps_the_first_kernel():
  imagenet, _ = shapes(resnet.make(), (1, 32, 32, 3))
  cifar, _ = shapes(resnet.make(stem='cifar'), (1, 32, 32, 3))
  assert count(imagenet) - count(cifar) == (7 * 7 - 3 * 3) * 3 * 64
  assert imagenet.pop('stem_conv') != cifar.pop('stem_conv')
  assert imagenet == cifar


def test_group_norm_has_the_parameters_of_batch_norm_and_no_statistics():
  batch, stats = shapes(resnet.make(), (1, 32, 32, 3))
  group, none = shapes(resnet.make(norm='group'), (1, 32, 32, 3))
  assert count(batch) == count(group)
  assert stats and none == {}


@pytest.mark.turns(2)
@pytest.mark.parametrize('depth', [18, 50])
def test_zero_init_makes_each_block_without_shortcut_kernel_a_relu(depth):
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 32 if depth == 50 else 8))

  @functools.partial(jit, static_argnums=0)
  def start(zero_init):
    block = resnet.Block(8, 1, depth == 50, zero_init, 'group', jnp.float32, jnp.float32)
    return block.init_with_output(jax.random.key(1), x, train=True)

  y, variables = start(True)
  assert 'shortcut_conv' not in variables['params']
  np.testing.assert_array_equal(y, jax.nn.relu(x))
  assert jnp.abs(start(False)[0] - jax.nn.relu(x)).max() > 0.1


@pytest.mark.parametrize(('stem', 'smallest'), [('imagenet', 32), ('cifar', 8)])
def test_images_too_small_for_the_stem_are_refused(stem, smallest):
  encoder = resnet.make(stem=stem, width=8)
  shapes(encoder, (1, smallest, smallest, 1))
  with pytest.raises(Refusal, match=f"{smallest - 1}x{smallest} pixels are too small: stem '{stem}'"):
    shapes(encoder, (1, smallest - 1, smallest, 1))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'depth': 19}, "unknown depth '19'; did you mean '18'.*18, 34, 50"),
    ({'stem': 'cifar10'}, "unknown stem 'cifar10'; did you mean 'cifar'"),
    ({'norm': 'none'}, "unknown norm 'none'.*batch, group"),
    ({'width': 0}, 'width is 0: positive integers'),
  ],
)
def test_options_that_mean_nothing_are_refused(options, message):
  with pytest.raises(Refusal, match=message):
    resnet.make(**options)
