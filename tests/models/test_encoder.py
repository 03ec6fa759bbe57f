"""What every model obeys, whichever it is."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from contrastive_jax.models import convnet, heads, mlp, resnet, vit
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal


class Case(NamedTuple):
  make: functools.partial
  shape: tuple[int, ...]
  per_example: bool = True
  stochastic: bool = False


PICTURE, DIGIT, VECTOR = (16, 16, 3), (8, 8, 1), (48,)
CASES = {
  'mlp': Case(functools.partial(mlp.make, widths=(32, 16)), DIGIT),
  'mlp-dropout': Case(functools.partial(mlp.make, widths=(32, 16), dropout=0.3, norm='layer'), DIGIT, stochastic=True),
  'mlp-batch': Case(functools.partial(mlp.make, widths=(32, 16), norm='batch'), DIGIT, per_example=False),
  'convnet': Case(functools.partial(convnet.make, widths=(16, 32)), DIGIT),
  'convnet-flat': Case(functools.partial(convnet.make, widths=(8,), norm='none', pool='flatten', features=8), DIGIT),
  'convnet-batch': Case(functools.partial(convnet.make, widths=(8, 16), norm='batch'), PICTURE, per_example=False),
  'resnet-group': Case(functools.partial(resnet.make, stem='cifar', norm='group', width=8), PICTURE),
  'resnet-batch': Case(functools.partial(resnet.make, stem='cifar', width=8), PICTURE, per_example=False),
  'vit': Case(functools.partial(vit.make, variant='mu', patch=4), PICTURE),
  'vit-dropout': Case(
    functools.partial(vit.make, variant='mu', patch=4, pool='class', dropout=0.2, stochastic_depth=0.3),
    PICTURE,
    stochastic=True,
  ),
  'projector': Case(functools.partial(heads.projector, features=8), VECTOR),
  'projector-batch': Case(functools.partial(heads.projector, norm='batch', norm_last=True), VECTOR, per_example=False),
  'predictor': Case(functools.partial(heads.predictor, hidden=16, norm='group'), VECTOR),
}
EVERY = pytest.mark.parametrize('name', CASES)
PER_EXAMPLE = pytest.mark.parametrize('name', [name for name, case in CASES.items() if case.per_example])
MIXING = pytest.mark.parametrize('name', [name for name, case in CASES.items() if not case.per_example])
STOCHASTIC = pytest.mark.parametrize('name', [name for name, case in CASES.items() if case.stochastic])


class Model(NamedTuple):
  encoder: Encoder
  params: dict
  stats: dict
  x: jax.Array
  keys: jax.Array
  init: Callable
  pulled: Callable  # (x, keys, cotangent) -> outputs in training, new statistics, gradient


@functools.cache
def build(name, batch=4):
  """A model with a batch; compiled functions are shared by the tests."""
  encoder = CASES[name].make()
  x = jax.random.normal(jax.random.key(0), (batch, *CASES[name].shape))
  init = jit(encoder.init)
  params, stats = init(jax.random.key(1), x)

  @jit
  def pulled(x, keys, cotangent):
    y, pull, stats_out = jax.vjp(
      lambda params: encoder.apply(params, stats, x, keys=keys, train=True), params, has_aux=True
    )
    return y, stats_out, pull(cotangent)[0]

  return Model(encoder, params, stats, x, jax.random.split(jax.random.key(2), batch), init, pulled)


def trace(name, dtype):
  """Shapes of parameters, statistics, output and new statistics, and the traced training pass: nothing is compiled."""
  encoder = CASES[name].make(dtype=dtype)
  x = jax.ShapeDtypeStruct((4, *CASES[name].shape), 'float64' if dtype == 'float64' else 'float32')
  keys = jax.random.split(jax.random.key(2), 4)
  params, stats = jax.eval_shape(encoder.init, jax.random.key(1), x)

  def apply(params, stats, x):
    return encoder.apply(params, stats, x, keys=keys, train=True)

  y, moved = jax.eval_shape(apply, params, stats, x)
  return params, stats, y, moved, jax.make_jaxpr(apply)(params, stats, x)


def operand_dtypes(jaxpr):
  """The dtypes that enter matrix products and convolutions, in nested computations too."""
  found = set()
  for equation in jaxpr.eqns:
    if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
      found |= {variable.aval.dtype.name for variable in equation.invars}
    for inner in jaxprs_in_params(equation.params):
      found |= operand_dtypes(inner)
  return found


def cotangent(model):
  y, _ = jax.eval_shape(model.encoder.apply, model.params, model.stats, model.x)
  return jax.random.normal(jax.random.key(3), y.shape)


@pytest.mark.turns(3)
@EVERY
def test_parameters_and_statistics_are_plain_nested_dicts_of_float32(name):
  model = build(name)

  def check(node):
    if type(node) is dict:
      for key, child in node.items():
        assert type(key) is str
        check(child)
    else:
      assert isinstance(node, jax.Array) and node.dtype == jnp.float32

  check(model.params)
  check(model.stats)
  assert bool(model.stats) != CASES[name].per_example


@pytest.mark.turns(4)
@EVERY
def test_initial_parameters_depend_on_the_key_and_not_on_the_batch(name):
  model = build(name)
  again, _ = model.init(jax.random.key(1), 3 * model.x + 1)
  jax.tree.map(np.testing.assert_array_equal, model.params, again)
  other, _ = model.init(jax.random.key(5), model.x)
  assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), model.params, other)))


@pytest.mark.turns(3)
@EVERY
def test_bfloat16_is_what_products_take_and_float32_is_what_comes_out(name):
  params, stats, y, moved, traced = trace(name, 'bfloat16')
  assert y.dtype == jnp.float32
  assert {leaf.dtype.name for leaf in jax.tree.leaves((params, stats, moved))} == {'float32'}
  assert operand_dtypes(traced.jaxpr) == {'bfloat16'}


@pytest.mark.turns(9)
@pytest.mark.parametrize('name', ['convnet', 'vit', 'projector-batch'])
def test_bfloat16_outputs_are_near_those_of_float32(name):
  model = build(name)
  y, _, _ = model.pulled(model.x, model.keys, cotangent(model))
  lower = jit(functools.partial(CASES[name].make(dtype='bfloat16').apply, train=True))
  error = jnp.abs(lower(model.params, model.stats, model.x)[0] - y).max()
  assert 0 < error < 0.05 * jnp.abs(y).max()


@EVERY
def test_float64_never_passes_through_float32(name):
  with jax.enable_x64(True):
    params, stats, y, moved, traced = trace(name, 'float64')
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, stats, y, moved))} == {'float64'}
    text = str(traced)
    assert 'f64[' in text and 'f32[' not in text


@EVERY
def test_float32_promotes_nothing_silently(name):
  with jax.numpy_dtype_promotion('strict'):
    assert trace(name, 'float32')[2].dtype == jnp.float32


@pytest.mark.turns(9)
@PER_EXAMPLE
def test_outputs_and_gradients_do_not_depend_on_how_the_batch_is_cut(name):
  model = build(name)
  g = cotangent(model)
  y, _, gradient = model.pulled(model.x, model.keys, g)
  halves = [model.pulled(model.x[part], model.keys[part], g[part]) for part in (slice(0, 2), slice(2, 4))]
  np.testing.assert_allclose(y, jnp.concatenate([half[0] for half in halves]), rtol=1e-4, atol=1e-5)
  summed = jax.tree.map(jnp.add, halves[0][2], halves[1][2])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, summed)


@pytest.mark.turns(4)
@PER_EXAMPLE
def test_an_example_is_blind_to_the_others_where_the_model_says_so(name):
  model = build(name)
  assert model.encoder.per_example
  before, after = (model.pulled(x, model.keys, cotangent(model))[0] for x in (model.x, model.x.at[0].multiply(-2.0)))
  np.testing.assert_array_equal(before[1:], after[1:])
  assert jnp.any(before[0] != after[0])


@pytest.mark.turns(2)
@MIXING
def test_batch_norm_mixes_examples_and_moves_statistics_in_training_only(name):
  model = build(name)
  assert not model.encoder.per_example
  changed = model.x.at[0].multiply(-2.0)
  (before, moved, _), (after, _, _) = (model.pulled(x, model.keys, cotangent(model)) for x in (model.x, changed))
  assert jnp.any(before[1:] != after[1:])
  assert jax.tree.structure(moved) == jax.tree.structure(model.stats)
  assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), model.stats, moved)))
  apply = jit(model.encoder.apply)
  (before, same), (after, _) = (apply(model.params, moved, x) for x in (model.x, changed))
  np.testing.assert_array_equal(before[1:], after[1:])
  jax.tree.map(np.testing.assert_array_equal, moved, same)


def test_running_statistics_follow_the_batch_with_a_momentum_of_nine_tenths():
  model = build('mlp-batch')
  _, moved, _ = model.pulled(model.x, model.keys, cotangent(model))
  hidden = np.asarray(model.x).reshape(4, -1) @ np.asarray(model.params['dense_0']['kernel'])
  np.testing.assert_allclose(moved['norm_0']['mean'], 0.1 * hidden.mean(axis=0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(moved['norm_0']['var'], 0.9 + 0.1 * hidden.var(axis=0), rtol=1e-4)


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', ['convnet-batch', 'projector-batch', 'vit-dropout'])
def test_eight_devices_give_the_outputs_and_statistics_of_one(name):
  model = build(name, batch=8)
  apply = jit(functools.partial(model.encoder.apply, train=True))
  expected = apply(model.params, model.stats, model.x, keys=model.keys)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  params, stats = jax.device_put((model.params, model.stats), NamedSharding(mesh, PartitionSpec()))
  x, keys = jax.device_put((model.x, model.keys), NamedSharding(mesh, PartitionSpec('data')))
  actual = apply(params, stats, x, keys=keys)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), actual, expected)


@STOCHASTIC
def test_examples_with_different_keys_are_dropped_differently(name):
  model = build(name)
  same = jnp.broadcast_to(model.x[:1], model.x.shape)
  y, _, _ = model.pulled(same, model.keys, cotangent(model))
  assert len(np.unique(np.asarray(y), axis=0)) > 2
  y, _, _ = model.pulled(same, model.keys[jnp.zeros(4, jnp.int32)], cotangent(model))
  np.testing.assert_array_equal(y, jnp.broadcast_to(y[:1], y.shape))


@STOCHASTIC
def test_keys_change_nothing_outside_of_training(name):
  model = build(name)
  apply = jit(model.encoder.apply)
  plain, _ = apply(model.params, model.stats, model.x)
  np.testing.assert_array_equal(apply(model.params, model.stats, model.x, keys=model.keys)[0], plain)


@STOCHASTIC
def test_training_without_keys_is_refused_where_they_are_needed(name):
  model = build(name)
  with pytest.raises(Refusal, match='needs `keys`'):
    model.encoder.apply(model.params, model.stats, model.x, train=True)


@EVERY
def test_raw_pixels_are_refused(name):
  encoder = CASES[name].make()
  pixels = jnp.zeros((2, *CASES[name].shape), jnp.uint8)
  for call in (lambda: encoder.init(jax.random.key(0), pixels), lambda: encoder.apply({}, {}, pixels)):
    with pytest.raises(Refusal, match='floating-point inputs, uint8'):
      call()


@pytest.mark.parametrize('name', ['convnet', 'resnet-group', 'vit'])
def test_inputs_that_are_not_images_are_refused(name):
  with pytest.raises(Refusal, match=r'\[b, h, w, c\] are needed.*\[1, 16, 16\]'):
    CASES[name].make().init(jax.random.key(0), jnp.zeros((2, 16, 16)))


@EVERY
def test_an_unknown_dtype_is_refused_with_the_nearest_one(name):
  with pytest.raises(Refusal, match="unknown dtype 'bfloat'; did you mean 'bfloat16'"):
    CASES[name].make(dtype='bfloat')


def test_float64_is_refused_where_it_would_silently_be_float32():
  with pytest.raises(Refusal, match='jax_enable_x64'):
    mlp.make(dtype='float64')


def test_dropout_with_batch_norm_is_refused():
  with pytest.raises(Refusal, match="norm 'batch' mixes the examples"):
    mlp.make(dropout=0.1, norm='batch')
