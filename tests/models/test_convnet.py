"""The small convolutional net and its own convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax.models import convnet
from contrastive_jax.types import Refusal


@pytest.mark.turns(2)
@pytest.mark.parametrize(('size', 'stride', 'side'), [(3, 1, 8), (3, 2, 8), (3, 2, 7), (7, 4, 9), (7, 4, 28)])
def test_gathered_convolution_equals_the_library_in_value_and_gradient(size, stride, side):
  x = jax.random.normal(jax.random.key(0), (2, side, side + 3, 3))
  kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 5))
  padding = [(size // 2, size // 2)] * 2

  def pulled(convolution):
    y, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, (stride, stride), padding), x, kernel)
    return y, pull(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

  actual = jit(lambda: pulled(convnet.gathered_convolution))()
  library = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  expected = jit(lambda: pulled(library))()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), actual, expected)


@pytest.mark.parametrize('shape', [(8, 8, 1), (28, 28, 1), (33, 18, 2), (64, 64, 3)])
def test_default_width_is_that_of_the_last_stage_for_any_image(shape):
  encoder = convnet.make()
  x = jax.ShapeDtypeStruct((5, *shape), 'float32')
  params, stats = jax.eval_shape(encoder.init, jax.random.key(0), x)
  assert jax.eval_shape(encoder.apply, params, stats, x)[0].shape == (5, 128)
  assert encoder.per_example


@pytest.mark.turns(2)
@pytest.mark.parametrize('stride', [1, 2, 3, 4])
def test_every_pixel_is_seen(stride):
  encoder = convnet.make(widths=(16, 16), stride=stride, norm='none')
  x = jax.random.normal(jax.random.key(0), (1, 13, 14, 1))
  params, stats = jit(encoder.init)(jax.random.key(1), x)
  gradient = jit(jax.grad(lambda x: encoder.apply(params, stats, x)[0].sum()))(x)
  assert jnp.all(gradient != 0)


def test_flatten_keeps_positions_that_the_mean_forgets():
  x = jnp.zeros((1, 16, 16, 1)).at[:, 3:6, 3:6].set(1.0)
  moved = jnp.roll(x, (4, 4), axis=(1, 2))
  for pool, width, differs in (('mean', 16, False), ('flatten', 4 * 4 * 16, True)):
    encoder = convnet.make(widths=(8, 16), norm='none', pool=pool)
    params, stats = jit(encoder.init)(jax.random.key(1), x)
    y, z = (jit(encoder.apply)(params, stats, image)[0] for image in (x, moved))
    assert y.shape == (1, width)
    assert bool(jnp.abs(y - z).max() > 1e-3) == differs


def test_features_set_the_width():
  encoder = convnet.make(widths=(8,), pool='flatten', features=24)
  x = jax.ShapeDtypeStruct((2, 8, 8, 1), 'float32')
  params, stats = jax.eval_shape(encoder.init, jax.random.key(0), x)
  assert jax.eval_shape(encoder.apply, params, stats, x)[0].shape == (2, 24)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'norm': 'grup'}, "unknown norm 'grup'; did you mean 'group'"),
    ({'pool': 'max'}, "unknown pool 'max'.*flatten, mean"),
    ({'widths': ()}, 'widths is empty'),
    ({'widths': (8, -1)}, r'widths is \(8, -1\): positive integers'),
    ({'widths': '32'}, "widths is '32': positive integers"),
    ({'stride': 0}, 'stride is 0'),
    ({'features': 0}, 'features is 0'),
  ],
)
def test_options_that_mean_nothing_are_refused(options, message):
  with pytest.raises(Refusal, match=message):
    convnet.make(**options)


def test_images_smaller_than_the_stride_are_refused():
  with pytest.raises(Refusal, match='3x8 pixels are too small: a stem of stride 4 needs at least 4x4'):
    convnet.make(stride=4).init(jax.random.key(0), jnp.zeros((1, 3, 8, 1)))
