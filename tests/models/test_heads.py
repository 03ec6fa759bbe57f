"""Heads, and the perceptron and norms beneath them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax.models import heads, mlp, norm
from contrastive_jax.types import Refusal


def shapes(encoder, width):
  return jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct((1, width), 'float32'))


def kernels(params):
  return [params[name]['kernel'].shape for name in sorted(params) if name.startswith('dense')]


def test_default_projector_is_that_of_simclr():
  params, stats = shapes(heads.projector(), 2048)
  assert kernels(params) == [(2048, 2048), (2048, 128)]
  assert stats == {}


def test_projector_is_two_maps_with_a_rectifier_between_them():
  encoder = heads.projector(hidden=6, features=3)
  x = jax.random.normal(jax.random.key(0), (4, 5))
  params, stats = jit(encoder.init)(jax.random.key(1), x)
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # so that the biases are not 0
  (w1, b1), (w2, b2) = (
    (np.asarray(params[n]['kernel']), np.asarray(params[n]['bias'])) for n in ('dense_0', 'dense_1')
  )
  expected = np.maximum(np.asarray(x) @ w1 + b1, 0) @ w2 + b2
  np.testing.assert_allclose(encoder.apply(params, stats, x)[0], expected, rtol=1e-5, atol=1e-6)


def test_mocov3_projector_has_no_bias_and_no_affine_last_norm():
  encoder = heads.projector(hidden=4096, features=256, layers=3, norm='batch', norm_last=True)
  params, stats = shapes(encoder, 384)
  assert kernels(params) == [(384, 4096), (4096, 4096), (4096, 256)]
  assert not any('bias' in params[name] for name in params if name.startswith('dense'))
  assert set(params) == {'dense_0', 'dense_1', 'dense_2', 'norm_0', 'norm_1'}
  assert set(stats) == {'norm_0', 'norm_1', 'norm_2'}


def test_last_norm_whitens_each_feature_over_the_batch():
  encoder = heads.projector(features=7, norm='batch', norm_last=True)
  x = jax.random.normal(jax.random.key(0), (64, 5))
  params, stats = jit(encoder.init)(jax.random.key(1), x)
  y, _ = encoder.apply(params, stats, x, train=True)
  np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(y.std(axis=0), 1, atol=1e-2)


def test_default_predictor_is_that_of_byol_and_returns_to_the_width_it_came_from():
  params, stats = shapes(heads.predictor(), 256)
  assert kernels(params) == [(256, 4096), (4096, 256)]
  assert set(stats) == {'norm_0'}


def test_bias_of_the_last_layer_can_be_left_out():
  params, _ = shapes(heads.projector(bias=False), 8)
  assert 'bias' in params['dense_0'] and 'bias' not in params['dense_1']


def test_a_single_layer_is_linear_and_per_example_whatever_the_hidden_norm():
  encoder = heads.projector(layers=1, features=3, norm='batch')
  assert encoder.per_example
  x = jax.random.normal(jax.random.key(0), (4, 5))
  params, stats = jit(encoder.init)(jax.random.key(1), x)
  y, stats = encoder.apply(params, stats, x, train=True)
  assert stats == {}
  np.testing.assert_allclose(y, x @ params['dense_0']['kernel'], rtol=1e-5, atol=1e-6)


def test_identity_returns_its_input_and_has_no_parameters():
  encoder = heads.identity()
  x = jnp.arange(6.0).reshape(2, 3)
  params, stats = jit(encoder.init)(jax.random.key(0), x)
  y, _ = encoder.apply(params, stats, x, keys=None, train=True)
  assert (params, stats, encoder.per_example) == ({}, {}, True)
  np.testing.assert_array_equal(y, x)


def test_perceptron_flattens_images():
  encoder = mlp.make(widths=(8, 3))
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  params, stats = jit(encoder.init)(jax.random.key(1), x)
  assert kernels(params) == [(48, 8), (8, 3)]
  np.testing.assert_array_equal(encoder.apply(params, stats, x)[0], encoder.apply(params, stats, x.reshape(2, 48))[0])


@pytest.mark.parametrize(
  ('channels', 'least', 'groups'),
  [
    (64, 2, 32),
    (512, 2, 32),
    (8, 2, 4),
    (128, 16, 8),
    (48, 16, 3),
    (2048, 16, 32),
    (8, 16, 1),
    (17, 2, 1),
    (90, 2, 30),
  ],
)
def test_groups_are_at_most_32_and_never_narrower_than_asked(channels, least, groups):
  assert norm.groups(channels, least) == groups


@pytest.mark.parametrize(
  ('make', 'options', 'message'),
  [
    (heads.projector, {'norm': 'bath'}, "unknown norm 'bath'; did you mean 'batch'"),
    (heads.projector, {'layers': 0}, 'layers is 0'),
    (heads.projector, {'features': 1.5}, 'features is 1.5'),
    (heads.projector, {'norm_last': True}, 'norm_last=True needs a norm.*batch, group, layer'),
    (heads.predictor, {'hidden': 0}, 'hidden is 0'),
    (mlp.make, {'widths': ()}, 'widths is empty'),
    (mlp.make, {'dropout': 1}, 'dropout is 1: a probability'),
    (mlp.make, {'dropout': '0.1'}, "dropout is '0.1': a probability"),
  ],
)
def test_options_that_mean_nothing_are_refused(make, options, message):
  with pytest.raises(Refusal, match=message):
    make(**options)
