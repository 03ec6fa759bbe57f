"""AutoTCL at `:tiny`: two objectives in one step, each of its own parameters, and what the paper and its code say."""

import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import resolve, setup
from contrastive_jax.types import Refusal

NAME = 'series/auto_tcl'
VIEWS = dict(
  method__augmentation='views',
  data__num_views='2',
  data__views__name='series',
  optimiser__rates='()',
  optimiser__every='()',
)


@functools.cache
def first(**options):
  """A run, its fresh state, its first batch of views, and `(params, state) -> features` of that batch."""
  of = tiny.run(NAME, **options)
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  batch = compiling.jit(tiny.views(of))(raw, np.int32(0))

  def encode(params):
    return of.method.encode(params, state.state, batch, key=jax.random.key(0), step=0, train=True)[0]

  return of, state, batch, encode


def loss(features, **options):
  of, state, batch, _ = first(**options)
  return of.method.loss(state.params, state.state, features, batch, key=jax.random.key(1), step=0)


@functools.cache
def features_of(**options):
  """What the fresh state makes of the first batch."""
  _, state, _, encode = first(**options)
  return compiling.jit(encode)(state.params)


def moved(tree) -> bool:
  return any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))


def contrast(x, v) -> float:
  x, v = (np.asarray(z, np.float64) / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, v))
  logits = x @ v.T
  return float((np.log(np.exp(logits).sum(1)) - np.diag(logits)).mean())


def test_what_the_encoder_sees_has_no_gradient_in_the_augmenter_and_the_other_way_round():
  _, state, _, encode = first()

  def gradient(*names):
    total = jax.grad(lambda params: sum((encode(params)[name] ** 2).sum() for name in names))
    return compiling.jit(total)(state.params)

  of_encoder, of_augmenter = gradient('x', 'v', 'map'), gradient('moved', 'kept')
  assert moved(of_encoder['encoder']) and not moved(of_encoder['augmenter'])
  assert moved(of_augmenter['augmenter']) and not moved(of_augmenter['encoder'])


def test_the_discrepancy_reaches_the_augmentation_alone_and_the_contrast_does_not():
  features = features_of()
  slope = compiling.jit(jax.grad(lambda features: loss(features).loss))
  got = slope(features)
  other = slope(features | {'moved': 1.5 * features['moved'], 'kept': 0.9 * features['kept']})
  for name in ('x', 'v', 'map'):
    np.testing.assert_array_equal(got[name], other[name])
    assert moved(got[name])
  other = slope(features | {'v': features['v'][::-1], 'map': -features['map']})
  for name in ('moved', 'kept'):
    np.testing.assert_array_equal(got[name], other[name])
    assert moved(got[name])


def test_lambdas_act_on_the_augmenter_only():
  weights = dict(method__sparsity='2.0', method__roughness='3.0')
  gradients = []
  for options in ({}, weights):
    _, state, _, encode = first(**options)
    gradients.append(compiling.jit(jax.grad(lambda p, e=encode, o=options: loss(e(p), **o).loss))(state.params))
  assert tiny.distance(gradients[0]['encoder'], gradients[1]['encoder']) < 1e-5
  assert tiny.distance(gradients[0]['augmenter'], gradients[1]['augmenter']) > 0.1


def test_a_mask_and_a_factor_of_one_leave_the_series_as_it_is():
  _, state, _, encode = first()
  output = state.params['augmenter']['output']
  sure = {'kernel': jnp.zeros_like(output['kernel']), 'bias': jnp.full_like(output['bias'], 60.0)}
  params = state.params | {'augmenter': state.params['augmenter'] | {'output': sure}}
  features = compiling.jit(encode)(params)
  for name in ('v', 'moved'):
    np.testing.assert_allclose(features[name], features['x'], rtol=1e-5, atol=1e-6)
  out, before = loss(features), loss(features_of())
  np.testing.assert_allclose(out.metrics['positive_similarity'], 1.0, rtol=1e-5)  # no greater is possible
  np.testing.assert_allclose(out.metrics['discrepancy'], 0.0, atol=1e-5)
  np.testing.assert_allclose(out.metrics['kept'], 1.0, rtol=1e-5)
  assert before.metrics['discrepancy'] > 1e-4


def test_the_loss_is_the_sum_of_its_parts_as_the_paper_weighs_them():
  features = features_of()
  out = loss(features)
  m = {name: float(value) for name, value in out.metrics.items()}
  want = m['contrast'] + 0.1 * m['local'] + m['discrepancy']
  want += 0.001 * max(0, m['kept'] - 0.4) + 0.001 * m['roughness']
  np.testing.assert_allclose(out.loss, want, rtol=1e-5)
  np.testing.assert_allclose(m['contrast'], contrast(features['x'], features['v']), rtol=1e-5)
  np.testing.assert_allclose(m['discrepancy'], losses.mmd_rbf(features['x'], features['moved']), rtol=1e-4)
  np.testing.assert_allclose(m['kept'], np.asarray(features['kept']).mean(), rtol=1e-5)


def test_augmentations_are_the_series_times_a_factor_at_kept_steps_and_zero_at_the_others():
  from contrastive_jax.methods import auto_tcl

  x = jax.random.normal(jax.random.key(0), (4, 50, 2))
  logits = jax.random.normal(jax.random.key(1), (4, 50, 4))
  keys = jax.random.split(jax.random.key(2), 4)
  v, kept = auto_tcl.augmented(logits, x, keys, auto_tcl.Mask(1.0, 0.05, 0.001, True, False))
  ratio = np.asarray(v / (x * jax.nn.sigmoid(logits[..., 2:])))
  assert {*np.round(ratio, 4).ravel().tolist()} == {0.0, 1.0}
  np.testing.assert_allclose(kept, jax.nn.sigmoid(logits[..., :2]), rtol=1e-6)
  np.testing.assert_allclose(ratio.mean(), kept.mean(), atol=0.1)
  # As released, chances from 0 to 1 are logits, so most steps are kept whatever the network says.
  _, soft = (auto_tcl.augmented(logits - 9, x, keys, auto_tcl.Mask(1.0, 0.05, 0.001, True, r)) for r in (False, True))
  assert (np.asarray(soft[0]) != 0).mean() > 0.4


def test_released_oddities_change_what_they_name():
  features = features_of()
  usual = loss(features).metrics
  one = loss(features, method__released="('first_series_only',)").metrics
  alone = loss(features | {'map': jnp.broadcast_to(features['map'][:1], features['map'].shape)}).metrics
  np.testing.assert_allclose(one['local'], alone['local'], rtol=1e-5)
  assert abs(one['local'] - usual['local']) > 1e-6
  rough = loss(features, method__released="('roughness',)").metrics
  assert abs(rough['roughness'] - usual['roughness']) > 1e-3
  assert rough['local'] == usual['local']


def test_the_augmenter_rests_in_every_other_step_and_evaluators_see_the_mean_encoder():
  of = tiny.run(NAME)
  state, seen = tiny.fresh(of), []
  for batch in tiny.batches(of, 3):
    before = jax.tree.map(np.asarray, state.params)
    state, _ = of.step(state, batch)
    after = jax.tree.map(np.asarray, state.params)
    assert tiny.same_bits(before['augmenter'], after['augmenter']) == (len(seen) % 2 == 1)
    assert not tiny.same_bits(before['encoder'], after['encoder'])
    seen.append(after['encoder'])
  mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *seen)
  assert tiny.distance(jax.tree.map(np.asarray, state.state['average']), mean) < 1e-5
  batch = {'view_0': first()[2]['view_0']}
  pooled = of.method.embed(state.params, state.state, batch)
  other = of.method.embed({'encoder': None}, state.state, batch)
  np.testing.assert_array_equal(pooled['features'], other['features'])


def test_features_are_of_the_last_step_or_of_all():
  of, state, batch, _ = first()
  last = of.method.embed(state.params, state.state, batch)
  pooled = tiny.run(NAME, method__read='pooled').method.embed(state.params, state.state, batch)
  np.testing.assert_array_equal(last['projection'], losses.unit(pooled['features']))
  assert (last['features'] <= pooled['features'] + 1e-6).all()
  assert (last['features'] < pooled['features']).any()


def test_fixed_augmentations_take_the_second_view_and_have_no_augmenter():
  of, state, batch, _ = first(**VIEWS)
  assert {*state.params} == {'encoder'}
  features = features_of(**VIEWS)
  out = of.method.loss(state.params, state.state, features, batch, key=jax.random.key(1), step=0)
  np.testing.assert_allclose(out.metrics['contrast'], contrast(features['x'], features['v']), rtol=1e-5)
  np.testing.assert_allclose(out.loss, out.metrics['contrast'] + 0.1 * out.metrics['local'], rtol=1e-5)
  assert np.abs(np.asarray(features['x']) - features['v']).max() > 0.01


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'method.augmentation': 'fixed'}, 'config.method.augmentation'),
    ({'method.read': 'first'}, 'config.method.read'),
    ({'method.released': "('mask',)"}, 'config.method.released'),
    ({'method.sparsity': '-1.0'}, 'sparsity must be at least 0'),
    ({'method.segments': '30'}, 'from 4 to the 24 steps'),
    ({'method.stretch': '-0.1'}, 'stretch must be at least 0'),
    ({'encoder.name': 'mlp'}, 'features of every step'),
    ({'data.num_views': '2'}, 'num_views=2'),
    ({'method.augmentation': 'views', 'optimiser.rates': '()', 'optimiser.every': '()'}, 'num_views=1'),
  ],
)
def test_what_cannot_be_is_refused_before_the_first_step(options, message):
  tiny.run(NAME)  # skips where the data are missing
  with pytest.raises(Refusal, match=message):
    setup.build(resolve.load(f'{tiny.ROOT}/configs/{NAME}.py:tiny', options)).check()
