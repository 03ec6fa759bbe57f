"""Blocks that are computed again in the backward pass: the same numbers from less memory."""

import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models import resnet, vit

RESNET = functools.partial(resnet.make, stem='cifar', width=8)
CASES = {
  'resnet-batch': (RESNET, (16, 16, 3)),
  'vit': (functools.partial(vit.make, variant='mu', patch=4), (8, 8, 3)),
  'vit-dropout': (functools.partial(vit.make, variant='mu', patch=4, dropout=0.2, stochastic_depth=0.3), (8, 8, 3)),
}
DEEP = {
  'resnet': (RESNET, (64, 32, 32, 3)),
  'resnet-50': (functools.partial(RESNET, depth=50, norm='group'), (64, 32, 32, 3)),
  'vit': (functools.partial(vit.make, variant='ti', patch=8), (16, 64, 64, 3)),
}


def gradient(encoder):
  """`(params, stats, x, keys) -> gradient of a scalar of the features in training, (features, statistics)`."""

  def scalar(params, stats, x, keys):
    y, stats = encoder.apply(params, stats, x, keys=keys, train=True)
    return jnp.square(y).sum(), (y, stats)

  return jax.grad(scalar, has_aux=True)


def shapes(encoder, shape):
  """Of the arguments of a gradient."""
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), shape[0]))
  x = jax.ShapeDtypeStruct(shape, 'float32')
  return *jax.eval_shape(encoder.init, jax.random.key(0), x), x, keys


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', CASES)
def test_values_gradients_and_statistics_are_those_of_activations_that_are_kept(name):
  make, shape = CASES[name]
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(0), (4, *shape), 'float64')
    keys = jax.random.split(jax.random.key(2), 4)
    kept, again = (make(dtype='float64', remat=remat) for remat in (False, True))
    params, stats = compiling.jit(kept.init)(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, (params, stats), compiling.jit(again.init)(jax.random.key(1), x))
    want, got = (compiling.jit(gradient(encoder))(params, stats, x, keys) for encoder in (kept, again))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, want)
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(want[0])) > 0.01


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', DEEP)
def test_the_backward_pass_is_handed_a_third_of_the_bytes_at_most(name):
  make, shape = DEEP[name]

  def handed(remat: bool) -> int:
    encoder = make(remat=remat)
    params, stats, x, keys = shapes(encoder, shape)

    def pull(params, stats, x, keys):
      return jax.vjp(lambda params: encoder.apply(params, stats, x, keys=keys, train=True)[0], params)[1]

    return sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(pull, params, stats, x, keys))
    )

  assert 3 * handed(True) < handed(False)


@pytest.mark.slow
def test_the_compiled_gradient_needs_half_the_temporary_memory():
  make, shape = DEEP['resnet']
  # Compiling for a CPU drops the barriers between the two computations early, and merges what they have in common.
  options = compiling.options() | {'xla_disable_hlo_passes': 'cse_barrier_expander'}

  def temporaries(remat: bool) -> int:
    encoder = make(remat=remat)
    lowered = jax.jit(gradient(encoder)).lower(*shapes(encoder, shape))
    return lowered.compile(compiler_options=options).memory_analysis().temp_size_in_bytes

  assert 2 * temporaries(True) < temporaries(False)
