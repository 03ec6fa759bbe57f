"""Encoders that return their map: of the same parameters, and what pooling makes features of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax.models import convnet, mlp, resnet, vit

ENCODERS = {
  'convnet': (lambda: convnet.make(widths=(16, 32)), (4, 4, 32)),
  'convnet, flat': (lambda: convnet.make(widths=(8, 16), pool='flatten'), (4, 4, 16)),
  'convnet, batch norm': (lambda: convnet.make(widths=(8, 16), norm='batch'), (4, 4, 16)),
  'resnet': (lambda: resnet.make(depth=18, stem='cifar', norm='group', width=4), (2, 2, 32)),
  'vit': (lambda: vit.make(variant='mu', patch=4), (4, 4, 32)),
  'vit, class token': (lambda: vit.make(variant='mu', patch=4, pool='class'), (4, 4, 32)),
}
X = jax.random.normal(jax.random.key(0), (3, 16, 16, 1))


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', ENCODERS)
def test_pooling_the_map_makes_the_features(name):
  make, shape = ENCODERS[name]
  encoder = make()
  assert encoder.map is not None
  params, stats = jit(encoder.init)(jax.random.key(1), X)
  y, _ = jit(encoder.apply)(params, stats, X)
  cells, _ = jit(encoder.map)(params, stats, X)
  assert cells.shape == (3, *shape)
  if name == 'convnet, flat':
    np.testing.assert_allclose(cells.reshape(3, -1), y, atol=1e-6)
  elif name == 'vit, class token':  # whose features are of the token beside the map
    assert y.shape == (3, 32) and np.abs(cells.mean((1, 2)) - y).max() > 1e-3
  else:
    np.testing.assert_allclose(cells.mean((1, 2)), y, atol=1e-6)


def test_a_map_in_training_moves_the_statistics_of_batch_norm_as_the_features_do():
  encoder = ENCODERS['convnet, batch norm'][0]()
  params, stats = jit(encoder.init)(jax.random.key(1), X)
  after = [
    jit(lambda p, s, x, of=of: of(p, s, x, train=True)[1])(params, stats, X) for of in (encoder.apply, encoder.map)
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), *after)
  assert any(jnp.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (after[1], stats)), strict=True))


def test_a_cell_of_a_convolutional_map_sees_its_place():
  encoder = convnet.make(widths=(16, 32), norm='none')
  params, stats = jit(encoder.init)(jax.random.key(1), X)
  of_cell = jit(jax.grad(lambda x: encoder.map(params, stats, x)[0][0, 0, 3].sum()))(X)  # the upper right one
  seen = np.argwhere(np.abs(of_cell[0, :, :, 0]) > 0)
  assert len(seen) > 0
  assert seen[:, 0].max() < 8 <= seen[:, 1].min()


def test_encoders_that_do_more_than_pool_have_no_map():
  assert convnet.make(features=8).map is None
  assert mlp.make().map is None
