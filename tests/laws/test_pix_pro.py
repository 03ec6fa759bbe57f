"""PixPro and PixContrast, methods of cells, at `:tiny`: what the paper and its code say of them."""

import functools
import itertools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import resolve
from contrastive_jax.types import Refusal

INSTANCE = dict(method__instance_weight='0.5')


@functools.cache
def first(name: str, **options):
  """A run, its fresh state, its first batch of views and what the method encodes of it."""
  of = tiny.run(f'ssl/{name}', **options)
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  batch, key = compiling.jit(tiny.views(of))(raw, np.int32(0)), jax.random.key(0)
  encode = functools.partial(of.method.encode, key=key, step=0, train=True)
  features, _ = compiling.jit(encode)(state.params, state.state, batch)
  return of, state, batch, features


def value(name: str, features, batch, **options):
  """The loss of features that need not be the method's."""
  of, state, _, _ = first(name, **options)
  return of.method.loss(state.params, state.state, features, batch, key=jax.random.key(0), step=0)


def rows(features, name: str):
  """Unit-norm cells `[V, B, P, d]` in float64."""
  z = np.asarray(features[name], np.float64)
  z = z.reshape(*z.shape[:2], -1, z.shape[-1])
  return np.swapaxes(z / np.linalg.norm(z, axis=-1, keepdims=True), 0, 1)


def masks(batch, v: int, w: int):
  return np.asarray(losses.pair_mask(batch[f'box_{v}'], batch[f'box_{w}'], (4, 4)))


def test_the_loss_of_pix_pro_is_twice_the_sum_over_both_orders():
  _, _, batch, features = first('pix_pro')
  p, k = (rows(features, name) for name in ('prediction', 'target'))
  want = 0.0
  for v, w in itertools.permutations(range(2), 2):
    mask = masks(batch, v, w)
    cosines = np.einsum('bid,bjd->bij', p[v], k[w])
    want += -2 * ((cosines * mask).sum((1, 2)) / (mask.sum((1, 2)) + 1e-6)).mean()
  out = value('pix_pro', features, batch)
  np.testing.assert_allclose(out.loss, want, rtol=1e-4)
  assert -4 < out.loss < 4


def test_cells_that_agree_make_minus_four_and_cells_that_oppose_four():
  _, _, batch, features = first('pix_pro')
  same = jnp.ones_like(features['target'])
  agreed = value('pix_pro', {'prediction': same, 'target': same}, batch)
  opposed = value('pix_pro', {'prediction': -same, 'target': same}, batch)
  np.testing.assert_allclose([agreed.loss, opposed.loss], [-4, 4], rtol=1e-5)
  np.testing.assert_allclose([agreed.metrics['positive_similarity'], agreed.metrics['overlap']], 1, rtol=1e-5)
  assert agreed.metrics['target_spread'] < 1e-3


def test_the_loss_of_pix_contrast_is_the_mean_over_the_cells_that_have_positives():
  _, _, batch, features = first('pix_contrast')
  q, k = (rows(features, name) for name in ('prediction', 'target'))
  of_orders = []
  for v, w in itertools.permutations(range(2), 2):
    mask, weights = masks(batch, v, w), np.exp(np.einsum('bid,bjd->bij', q[v], k[w]) / 0.3)
    there = mask.any(-1)
    assert there.any() and not there.all()
    of_orders.append(-np.log((weights * mask).sum(-1)[there] / weights.sum(-1)[there]).mean())
  np.testing.assert_allclose(value('pix_contrast', features, batch).loss, np.mean(of_orders), rtol=1e-4)


@pytest.mark.parametrize('name', ['pix_pro', 'pix_contrast'])
def test_views_that_do_not_overlap_teach_nothing(name):
  _, _, batch, features = first(name)
  count = len(batch['index'])
  apart = {
    'box_0': jnp.tile(jnp.array([0.0, 0, 0.4, 0.4]), (count, 1)),
    'box_1': jnp.ones((count, 4)).at[:, :2].set(0.6),
  }
  out = value(name, features, {**batch, **apart})
  assert out.loss == 0 and out.metrics['overlap'] == 0


def test_a_prediction_is_the_propagation_of_a_linear_map_of_the_projected_cells():
  _, state, batch, features = first('pix_pro')
  (dense,) = state.params['predictor'].values()  # one convolution 1 x 1, without norm
  config, x = tiny.config('ssl/pix_pro'), jnp.stack([batch['view_0'], batch['view_1']], 1).reshape(-1, 8, 8, 1)
  encoder, head = (resolve.build(config[name], name) for name in ('encoder', 'head'))
  maps, _ = compiling.jit(encoder.map)(state.params['encoder'], {}, x)
  stats = state.state['stats']['head']
  g, _ = compiling.jit(functools.partial(head.apply, train=True))(state.params['head'], stats, maps.reshape(-1, 16))
  cells = g.reshape(-1, 16, 16)
  want = losses.propagate(cells, cells @ dense['kernel'] + dense['bias'], gamma=2.0)
  np.testing.assert_allclose(features['prediction'].reshape(want.shape), want, atol=1e-4)


@pytest.mark.parametrize(
  ('name', 'options', 'parts'),
  [
    ('pix_pro', {}, {'encoder', 'head'}),
    ('pix_pro', INSTANCE, {'encoder', 'head', 'instance_head'}),
    ('pix_contrast', {}, {'encoder', 'head'}),
  ],
)
def test_a_teacher_starts_as_its_student_gets_no_gradient_and_then_follows_it(name, options, parts):
  of, state, _, _ = first(name, **options)
  before = jax.device_get(state)
  teacher = before.state['teacher']
  assert set(teacher['params']) == parts
  assert all(tiny.same_bits(teacher['params'][part], before.params[part]) for part in parts)
  moved = jax.tree.map(lambda x: x + 1, state.params)
  assert of.info.total_steps == 2
  for step, follows in ((0, 0.01), (1, 0.005), (2, 0.0)):  # along half a cosine
    _, after = of.method.update(moved, state.state, step=jnp.int32(step))
    apart = jax.tree.map(np.subtract, jax.device_get(after['teacher']['params']), teacher['params'])
    np.testing.assert_allclose(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(apart)]), follows, atol=1e-6)


def test_keys_get_no_gradient():
  _, _, batch, features = first('pix_pro', **INSTANCE)
  gradient = jax.grad(lambda f: value('pix_pro', f, batch, **INSTANCE).loss)(features)
  assert all((gradient[name] == 0).all() for name in ('target', 'whole_target'))
  assert all((gradient[name] != 0).any() for name in ('prediction', 'whole_prediction'))


def test_the_instance_branch_adds_its_weight_times_a_regression_of_whole_views():
  _, state, batch, features = first('pix_pro', **INSTANCE)
  assert {'instance_head', 'instance_predictor'} < set(state.params)
  p, k = (losses.unit(features[name]) for name in ('whole_prediction', 'whole_target'))
  assert p.shape == (32, 2, 16)
  of_instance = -2 * ((p[:, 0] * k[:, 1]).sum(-1).mean() + (p[:, 1] * k[:, 0]).sum(-1).mean())
  out = value('pix_pro', features, batch, **INSTANCE)
  alone = value('pix_pro', features, batch)
  np.testing.assert_allclose(out.loss, alone.loss + 0.5 * of_instance, rtol=1e-4)
  np.testing.assert_allclose(out.metrics['instance_similarity'], -of_instance / 4, rtol=1e-4)


def test_evaluators_see_the_pooled_features_of_the_encoder():
  of, state, batch, _ = first('pix_contrast')
  out = compiling.jit(of.method.embed)(state.params, state.state, {'view_0': batch['view_0']})
  encoder = resolve.build(tiny.config('ssl/pix_contrast').encoder, 'encoder')
  want, _ = compiling.jit(encoder.apply)(state.params['encoder'], {}, batch['view_0'])
  np.testing.assert_allclose(out['features'], want, atol=1e-5)
  assert out['projection'].shape == (32, 16)
  np.testing.assert_allclose(jnp.linalg.norm(out['projection'], axis=1), 1, rtol=1e-5)


def test_micro_batches_have_the_gradient_of_the_batch_where_no_norm_mixes_examples():
  options = dict(head__norm='layer', **INSTANCE)
  of = tiny.run('ssl/pix_pro', **options)
  assert of.method.per_example and not tiny.run('ssl/pix_pro').method.per_example
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  want, whole = tiny.gradients('ssl/pix_pro', **options)(state, raw)
  got, pieces = tiny.cached(of, 8)(state, raw)
  np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
  assert tiny.distance(pieces, whole, floor=0.05) < 1e-4


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('pix_pro', dict(encoder__name='mlp'), 'this encoder has none: config.encoder must be a convnet'),
    ('pix_contrast', dict(encoder__features='8'), 'this encoder has none'),
    ('pix_pro', dict(data__views__name='unaltered'), 'by where views were cut, which these views do not tell'),
    ('pix_contrast', dict(data__num_views='1'), r'compares 2 views of an example, but config\.data\.num_views=1'),
    ('pix_pro', dict(predictor__features='7'), r'as wide as the head \(16\), but it is 7 wide'),
    ('pix_pro', dict(method__threshold='0.0'), r'config\.method\.threshold must be > 0'),
    ('pix_pro', dict(method__gamma='-1.0'), r'config\.method\.gamma must be > 0'),
    ('pix_pro', dict(method__instance_weight='-1.0'), 'instance_weight must be at least 0'),
    ('pix_pro', dict(method__scale='-4.0'), r'config\.method\.scale must be > 0'),
    ('pix_contrast', dict(method__temperature='0.0'), 'temperature must be > 0'),
    ('pix_contrast', dict(method__momentum='1.5'), 'momentum must be from 0 to 1'),
  ],
)
def test_what_cannot_be_meant_is_refused(name, options, message):
  with pytest.raises(Refusal, match=message):
    tiny.run(f'ssl/{name}', **options).check()


def test_on_imagenet_it_is_the_published_recipe():
  config = resolve.load(str(tiny.ROOT / 'configs/ssl/pix_pro.py:imagenet'))
  assert (config.data.batch_size, config.train.epochs, config.data.views.name) == (1024, 100, 'byol')
  assert (config.method.gamma, config.method.threshold, config.method.momentum) == (2.0, 0.7, 0.99)
  assert (config.head.hidden, config.head.features, config.head.norm, config.head.norm_last) == (
    4096,
    256,
    'batch',
    False,
  )
  assert (config.predictor.layers, config.optimiser.name, config.optimiser.weight_decay) == (1, 'lars', 1e-5)
  rate = resolve.build(config.schedule, 'schedule', 100_000, 1024)
  assert float(rate(5_000)) == pytest.approx(4.0, rel=1e-3)
