"""The text transformer: padding, pools, order, and what every model obeys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from contrastive_jax.models import text
from contrastive_jax.types import Refusal

WORDS, LENGTH, WIDTH = 11, 6, 16
SMALL = dict(vocab_size=WORDS, width=WIDTH, depth=2, heads=2)
POOLS = pytest.mark.parametrize('pool', ['mean', 'last', 'class', 'attention'])
CAUSAL = pytest.mark.parametrize('causal', [False, True])


def texts(batch=4, seed=0):
  """Tokens [batch, LENGTH] of which row i has i mod LENGTH fewer than all, then padding."""
  tokens = np.random.default_rng(seed).integers(1, WORDS, (batch, LENGTH)).astype(np.int32)
  for i, row in enumerate(tokens):
    row[LENGTH - i % LENGTH :] = 0
  return jnp.asarray(tokens)


@functools.cache
def built(pool='mean', **options):
  """The encoder and its parameters, turned away from where symmetric ones start."""
  encoder = text.make(**SMALL | dict(pool=pool) | options)
  params, stats = jit(encoder.init)(jax.random.key(1), texts())
  assert stats == {}
  keys = iter(jax.random.split(jax.random.key(5), len(jax.tree.leaves(params))))
  moved = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape, leaf.dtype), params)
  return encoder, moved, jit(functools.partial(encoder.apply, moved, {}))


def features(tokens, pool='mean', **options):
  return np.asarray(built(pool, **options)[2](tokens)[0])


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# --- padding ---


@pytest.mark.turns(4)
@CAUSAL
@POOLS
def test_longer_padding_gives_the_same_features(pool, causal):
  tokens = texts().at[:, 4:].set(0)  # one token and more are left of each
  got = [features(tokens[:, :length], pool, causal=causal) for length in (4, 5, 6)]
  close(got[0], got[2])
  close(got[1], got[2])
  assert np.abs(got[2][0] - got[2][1]).max() > 1e-3


@pytest.mark.turns(2)
@POOLS
def test_neither_features_nor_gradients_know_the_embedding_of_padding(pool):
  encoder, params, _ = built(pool)

  @jit
  def both(table):
    moved = params | {'tokens': {'embedding': table}}
    return jax.value_and_grad(lambda p: jnp.sin(encoder.apply(p, {}, texts(8))[0]).sum())(moved)

  table = params['tokens']['embedding']
  (value, gradient), (other, _) = both(table), both(table.at[0].set(7.0))
  close(value, other)
  of_padding = gradient['tokens']['embedding'][0]
  assert np.abs(of_padding).max() < 1e-5 < np.abs(gradient['tokens']['embedding'][1:]).max()


@pytest.mark.turns(4)
@CAUSAL
@POOLS
def test_a_text_of_padding_alone_has_finite_features_and_gradients_that_its_length_does_not_change(pool, causal):
  encoder, params, _ = built(pool, causal=causal)
  nothing = jnp.zeros((2, LENGTH), jnp.int32)
  both = jit(jax.value_and_grad(lambda p, x: jnp.sin(encoder.apply(p, {}, x)[0]).sum()))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(both(params, nothing)))
  got = features(nothing, pool, causal=causal)
  close(got, features(nothing[:, :3], pool, causal=causal))
  assert (pool == 'class') == bool(got.any())


def test_padding_before_and_between_tokens_is_skipped_as_well():
  tokens = jnp.asarray([[0, 3, 0, 5, 0, 0]], jnp.int32)
  encoder, params, _ = built('mean')
  changed = params | {'tokens': {'embedding': params['tokens']['embedding'].at[0].set(-9.0)}}
  close(features(tokens), jit(encoder.apply)(changed, {}, tokens)[0])


# --- length ---


def test_shorter_texts_use_the_first_positions_and_longer_ones_are_refused():
  encoder, params, apply = built()
  assert params['positions'].shape == (LENGTH, WIDTH)
  far = params | {'positions': params['positions'].at[3:].set(5.0)}
  close(apply(texts()[:, :3])[0], jit(encoder.apply)(far, {}, texts()[:, :3])[0])
  assert np.abs(apply(texts())[0] - jit(encoder.apply)(far, {}, texts())[0]).max() > 1e-2
  with pytest.raises(Refusal, match='initialised with 6 tokens, but a text of 7 was given'):
    jax.eval_shape(encoder.apply, params, {}, jnp.ones((2, 7), jnp.int32))


# --- pools, order, causality ---


def sequence(tokens, **options):
  """The tokens that are pooled: the mean over a text of one more token tells each."""
  encoder, params, _ = built('last', **options)
  apply = jit(encoder.apply)
  return np.stack([apply(params, {}, tokens[:, :length])[0] for length in range(1, LENGTH + 1)], axis=1)


def test_with_causal_the_mean_is_that_of_the_last_features_of_all_beginnings():
  tokens = texts(1)
  np.testing.assert_array_equal(tokens[0] > 0, True)
  _, params, _ = built('last', causal=True)
  mean = text.make(**SMALL, pool='mean', causal=True)
  close(jit(mean.apply)(params, {}, tokens)[0], sequence(tokens, causal=True).mean(1))


def test_last_takes_the_last_token_that_is_no_padding():
  assert text._last(texts(8) > 0, jnp.float32).argmax(1).tolist() == [5, 4, 3, 2, 1, 0, 5, 4]
  holes = jnp.asarray([[False, True, False, True, False], [False] * 5])
  np.testing.assert_array_equal(text._last(holes, jnp.float32), [[0, 0, 0, 1, 0], [0] * 5])


@pytest.mark.parametrize('causal', [False, True])
def test_with_causal_a_token_does_not_see_those_behind_it(causal):
  """The gradient of the first token's features in the embeddings of the others, read off a block."""
  present = jnp.ones((1, 4), bool)
  mask = np.asarray(text._attendable(present, causal))[0, 0]
  np.testing.assert_array_equal(mask, np.tril(np.ones((4, 4))) if causal else np.ones((4, 4)))
  tokens, other = texts(1), texts(1).at[0, -1].set(1 + texts(1)[0, -1] % (WORDS - 1))
  same = features(tokens[:, :5], 'last', causal=causal), features(other[:, :5], 'last', causal=causal)
  np.testing.assert_array_equal(*same)
  assert np.abs(features(tokens, 'last', causal=causal) - features(other, 'last', causal=causal)).max() > 1e-3


@pytest.mark.turns(4)
@CAUSAL
@POOLS
def test_the_order_of_tokens_changes_the_features(pool, causal):
  tokens = jnp.asarray([[1, 2, 3, 4, 5, 6]], jnp.int32)
  swapped = jnp.asarray([[2, 1, 3, 4, 5, 6]], jnp.int32)
  assert np.abs(features(tokens, pool, causal=causal) - features(swapped, pool, causal=causal)).max() > 1e-3


def test_without_positions_and_causality_a_text_is_a_bag_of_words():
  encoder, params, _ = built()
  bag = params | {'positions': jnp.zeros_like(params['positions'])}
  apply = jit(encoder.apply)
  close(*(apply(bag, {}, jnp.asarray([row], jnp.int32))[0] for row in ([1, 2, 3, 4, 0, 0], [4, 2, 1, 3, 0, 0])))


# --- what every model obeys ---


@pytest.mark.turns(4)
@POOLS
def test_outputs_and_gradients_do_not_depend_on_how_the_batch_is_cut_with_dropout(pool):
  encoder, params, _ = built(pool, dropout=0.2, stochastic_depth=0.3)
  x, keys = texts(), jax.random.split(jax.random.key(2), 4)
  g = jax.random.normal(jax.random.key(3), (4, WIDTH))

  @jit
  def pulled(x, keys, g):
    y, pull = jax.vjp(lambda p: encoder.apply(p, {}, x, keys=keys, train=True)[0], params)
    return y, pull(g)[0]

  y, gradient = pulled(x, keys, g)
  halves = [pulled(x[part], keys[part], g[part]) for part in (slice(0, 2), slice(2, 4))]
  close(y, jnp.concatenate([half[0] for half in halves]))
  summed = jax.tree.map(jnp.add, halves[0][1], halves[1][1])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, summed)
  assert np.abs(y - pulled(x, keys[::-1], g)[0]).max() > 1e-3
  with pytest.raises(Refusal, match='needs `keys`'):
    encoder.apply(params, {}, x, train=True)


def test_eight_devices_give_the_features_of_one():
  encoder, params, _ = built('attention', dropout=0.2)
  x, keys = texts(8), jax.random.split(jax.random.key(2), 8)
  apply = jit(functools.partial(encoder.apply, train=True))
  expected = apply(params, {}, x, keys=keys)[0]
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  whole = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
  x, keys = jax.device_put((x, keys), NamedSharding(mesh, PartitionSpec('data')))
  close(apply(whole, {}, x, keys=keys)[0], expected)


@pytest.mark.turns(4)
@POOLS
def test_computing_blocks_again_changes_nothing(pool):
  params = built(pool)[1]
  kept, again = (text.make(**SMALL, pool=pool, remat=remat) for remat in (False, True))

  def gradient(encoder):
    return jit(jax.grad(lambda p: jnp.sin(encoder.apply(p, {}, texts())[0]).sum()))(params)

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradient(kept), gradient(again))


@pytest.mark.turns(6)
@POOLS
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float64'])
def test_features_are_as_wide_as_the_parameters_and_nothing_passes_through_another_type(pool, dtype):
  wide = 'float64' if dtype == 'float64' else 'float32'
  promotion = 'strict' if dtype == 'float32' else 'standard'
  with jax.enable_x64(dtype == 'float64'), jax.numpy_dtype_promotion(promotion):
    encoder = text.make(**SMALL, pool=pool, causal=True, dtype=dtype)
    params, _ = jax.eval_shape(encoder.init, jax.random.key(0), texts())
    traced = jax.make_jaxpr(lambda p: encoder.apply(p, {}, texts()))(params)
    y, _ = jax.eval_shape(encoder.apply, params, {}, texts())
  assert {leaf.dtype.name for leaf in jax.tree.leaves((params, y))} == {wide}
  assert ('bf16[' in str(traced)) == (dtype == 'bfloat16')
  assert dtype != 'float64' or 'f32[' not in str(traced)


@pytest.mark.turns(2)
@POOLS
def test_every_parameter_has_a_gradient(pool):
  encoder, params, _ = built(pool)
  gradient = jit(jax.grad(lambda p: jnp.sin(encoder.apply(p, {}, texts(6))[0]).sum()))(params)
  found = {jax.tree_util.keystr(path): np.abs(leaf).max() for path, leaf in jax.tree.leaves_with_path(gradient)}
  flat = {name for name, largest in found.items() if largest < 1e-6}
  assert all(name.endswith("['key']['bias']") for name in flat), flat  # a shift that a softmax cannot see


def test_the_size_of_clips_text_tower_is_the_published_one():
  encoder = text.make(vocab_size=49408, width=512, depth=12, heads=8, pool='last', causal=True)
  params, _ = jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 77), 'int32'))
  # open_clip's count of ViT-B-32's text tower, less its projection of 512 x 512.
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 63_428_096 - 512 * 512


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'pool': 'means'}, "unknown pool 'means'; did you mean 'mean'"),
    ({'vocab_size': 0}, 'vocab_size is 0: positive integers'),
    ({'heads': 3}, 'heads=3 does not divide width=16'),
    ({'dropout': 1.0}, 'dropout is 1.0: a probability'),
    ({'dtype': 'float'}, "unknown dtype 'float'"),
  ],
)
def test_options_that_mean_nothing_are_refused(options, message):
  with pytest.raises(Refusal, match=message):
    text.make(**SMALL | options)


@pytest.mark.parametrize('x', [jnp.ones((2, 6)), jnp.ones((2, 3, 6), jnp.int32), jnp.ones((2, 6), bool)])
def test_what_is_not_tokens_is_refused(x):
  encoder, params, _ = built()
  for call in (lambda: encoder.init(jax.random.key(0), x), lambda: encoder.apply(params, {}, x)):
    with pytest.raises(Refusal, match=r'takes tokens, integers \[b, L\], but'):
      call()
