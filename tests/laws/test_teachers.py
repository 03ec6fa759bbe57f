"""Methods with a predictor, a teacher or a queue: what their papers say of them, at `:tiny`."""

import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import resolve, serve, workdir
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.engine.warmstart import warm_start
from contrastive_jax.models.load import save_safetensors
from contrastive_jax.types import Refusal


@functools.cache
def stepped(name: str, **overrides):
  """A run, its state before and after one step, and the step's metrics."""
  of = tiny.run(name, **overrides)
  before = jax.device_get(tiny.fresh(of))
  after, metrics = of.step(tiny.fresh(of), tiny.batches(of, 1)[0])
  return of, before, jax.device_get(after), jax.device_get(metrics)


def output(name: str, params=None, **overrides):
  """The loss of the first batch with other parameters, and what they get as a gradient."""
  of = tiny.run(name, **overrides)
  state = tiny.fresh(of)
  if params is not None:
    state = state._replace(params=params(state.params))
  out, gradients = tiny.gradients(name, **overrides)(state, tiny.batches(of, 1)[0])
  return jax.device_get(out), jax.device_get(gradients)


@pytest.mark.turns(2)
@pytest.mark.parametrize(('name', 'low', 'high'), [('byol', 0, 8), ('simsiam', 0, 2)])
def test_the_regression_of_cosines_lies_in_its_range(name, low, high):
  out, _ = output(f'ssl/{name}')
  assert low < out.loss < high
  # The sum over both orders of 2 - 2 cos, or SimSiam's loss plus 1.
  np.testing.assert_allclose(out.loss, high / 2 * (1 - out.metrics['positive_similarity']), rtol=1e-5)


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', ['byol', 'moco_v3', 'moco_v2', 'sbcl_moco'])
def test_a_teacher_starts_as_its_student_and_then_follows_it(name):
  _, before, after, _ = stepped(f'ssl/{name}', method__momentum='0.9')
  teacher = before.state['teacher']
  assert set(teacher['params']) == {'encoder', 'head'}
  for part in ('encoder', 'head'):
    assert tiny.same_bits(teacher['params'][part], before.params[part])
    want = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, teacher['params'][part], after.params[part])
    assert tiny.distance(after.state['teacher']['params'][part], want) < 1e-6
    assert tiny.distance(after.params[part], before.params[part]) > 1e-4


def test_a_teacher_of_momentum_one_never_changes():
  _, before, after, _ = stepped('ssl/byol', method__momentum='1.0')
  assert tiny.same_bits(after.state['teacher']['params'], before.state['teacher']['params'])


def test_simsiam_has_no_teacher():
  _, before, _, _ = stepped('ssl/simsiam')
  assert set(before.state) == {'stats'}


def test_targets_get_no_gradient():
  """With a predictor whose output is constant, only what reaches the encoder through targets could move it."""

  def silent(params):
    last = max(k for k in params['predictor'] if k.startswith('dense'))
    muted = {**params['predictor'][last], 'kernel': jnp.zeros_like(params['predictor'][last]['kernel'])}
    muted['bias'] = jnp.ones_like(muted['bias'])
    return {**params, 'predictor': {**params['predictor'], last: muted}}

  for name in ('ssl/simsiam', 'ssl/byol'):
    _, gradients = output(name, silent)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves((gradients['encoder'], gradients['head'])))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradients['predictor']))


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', ['moco_v2', 'nnclr', 'sbcl_moco'])
def test_the_queue_takes_the_embeddings_of_a_step_after_its_loss(name):
  of, before, after, _ = stepped(f'ssl/{name}', method__queue_size='48')
  first, then = before.state['queue'], after.state['queue']
  assert int(first.head) == 0 and int(then.head) == of.batch_size == 32
  np.testing.assert_array_equal(then.values[32:], first.values[32:])
  assert (np.abs(then.values[:32] - first.values[:32]).max(1) > 1e-3).all()
  np.testing.assert_allclose(np.linalg.norm(then.values, axis=1), 1, rtol=1e-5)


def test_queue_nce_with_the_other_keys_of_a_batch_is_info_nce():
  x, y = (losses.unit(jax.random.normal(jax.random.key(i), (6, 5))) for i in range(2))
  want = losses.info_nce(x, y, temperature=0.3)
  for i in range(6):
    queue = jnp.delete(y, i, axis=0)
    got = losses.queue_nce(x[i : i + 1], y[i : i + 1], queue, temperature=0.3)
    np.testing.assert_allclose(got[0], want[i], rtol=1e-5)
    decoupled = losses.queue_nce(x[i : i + 1], y[i : i + 1], queue, temperature=0.3, include_positive=False)
    np.testing.assert_allclose(got, jax.nn.softplus(decoupled), rtol=1e-5)


def by_hand(name: str, **options):
  """The features of the first batch, and the loss of them with a queue: `(features, of_queue)`."""
  of = tiny.run(name, **options)
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  batch, key = compiling.jit(tiny.views(of))(raw, np.int32(0)), jax.random.key(0)
  features, after = of.method.encode(state.params, state.state, batch, key=key, step=0, train=True)

  def of_queue(values):
    given = {**after, 'queue': state.state['queue']._replace(values=values)}
    return of.method.loss(state.params, given, features, batch, key=key, step=0)

  return features, of_queue


def rows_of(key: int, count: int):
  return losses.unit(jax.random.normal(jax.random.key(key), (count, 16)))


@pytest.mark.slow
def test_neighbours_that_are_the_embeddings_themselves_make_nnclr_info_nce_with_a_predictor():
  features, of_queue = by_hand('ssl/nnclr', method__queue_size='96', method__temperature='0.3')
  z, p = (jnp.swapaxes(losses.unit(features[k]), 0, 1) for k in ('projection', 'prediction'))
  # Where the next embeddings go there are none of these: a queue that took them before its loss would not change it.
  out = of_queue(jnp.concatenate([-z[0], z[0], z[1]]))
  options = dict(temperature=0.3)
  want = (losses.info_nce(z[0], p[1], **options).mean() + losses.info_nce(z[1], p[0], **options).mean()) / 2
  np.testing.assert_allclose(out.loss, want, rtol=1e-5)
  np.testing.assert_allclose(out.metrics['neighbour_similarity'], 1, rtol=1e-5)


@pytest.mark.slow
def test_nnclr_finds_its_neighbours_before_its_embeddings_enter_the_queue():
  features, of_queue = by_hand('ssl/nnclr', method__queue_size='96')
  out = of_queue(rows_of(1, 96))
  assert out.metrics['neighbour_similarity'] < 0.99
  z = losses.unit(features['projection'][:, 0])
  np.testing.assert_allclose(out.state['queue'].values[:32], z, rtol=1e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize('include_positive', [True, False])
def test_the_loss_of_moco_is_queue_nce_against_the_queue_before_the_step(include_positive):
  options = dict(method__queue_size='48', method__temperature='0.4', method__include_positive=str(include_positive))
  features, of_queue = by_hand('ssl/moco_v2', **options)
  q, k, values = losses.unit(features['query'][:, 0]), losses.unit(features['key']), rows_of(2, 48)
  want = losses.queue_nce(q, k, values, temperature=0.4, include_positive=include_positive).mean()
  np.testing.assert_allclose(of_queue(values).loss, want, rtol=1e-5)
  assert np.abs(q - k).max() > 1e-3  # of another view


def of_moco_v3(temperature: float):
  """The loss of MoCo v3 as a function of predictions and targets `[B, 2, D]`, with the scale of its config."""
  options = dict(method__temperature=str(temperature), method__scale=str(4 * temperature))
  slot = tiny.run('ssl/moco_v3', **options).method.loss
  return lambda p, k: slot({}, {}, {'prediction': p, 'target': k}, {}, key=None, step=0).loss


def predictions_and_targets():
  return 3 * jax.random.normal(jax.random.key(3), (2, 12, 2, 8))


def test_the_settings_of_moco_v3_scale_its_mean_by_four_temperatures():
  for setting in ('small', 'fashion_mnist', 'cifar10', 'imagenet', 'tiny'):
    method = resolve.load(f'{tiny.ROOT}/configs/ssl/moco_v3.py:{setting}').method
    assert method.scale == 4 * method.temperature


@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_the_loss_of_moco_v3_is_the_sum_of_two_tau_cross_entropies_of_both_orders(temperature):
  p, k = predictions_and_targets()
  q, keys = (np.float64(x) / np.linalg.norm(np.float64(x), axis=-1, keepdims=True) for x in (p, k))
  want = 0.0
  for a in range(2):
    logits = q[:, a] @ keys[:, 1 - a].T / temperature
    want += 2 * temperature * (np.log(np.exp(logits).sum(1)) - np.diagonal(logits)).mean()
  np.testing.assert_allclose(of_moco_v3(temperature)(p, k), want, rtol=1e-5)


def test_two_tau_makes_the_gradients_of_moco_v3_comparable_over_temperatures():
  temperatures, (p, k) = np.array([0.05, 0.2, 1.0]), predictions_and_targets()
  norms = np.array([np.linalg.norm(compiling.jit(jax.grad(of_moco_v3(t)))(p, k)) for t in temperatures.tolist()])
  plain = norms / (2 * temperatures)  # of the cross-entropies
  assert norms.max() / norms.min() < 2 < 8 < plain.max() / plain.min()


def test_the_momentum_of_byol_rises_with_the_steps():
  of = tiny.run('ssl/byol', method__momentum='0.5', train__steps='10')
  state = tiny.fresh(of)
  moved = jax.tree.map(lambda x: x + 1, {k: state.params[k] for k in ('encoder', 'head')})
  _, after = of.method.update({**state.params, **moved}, state.state, step=jnp.int32(5))
  (last,) = {
    round(float(jnp.mean(x)), 5)
    for x in jax.tree.leaves(jax.tree.map(jnp.subtract, after['teacher']['params'], state.state['teacher']['params']))
  }
  assert last == 0.25  # halfway the momentum is halfway between 0.5 and 1


def test_the_views_of_moco_draw_dropout_of_their_own():
  of = tiny.run('ssl/moco_v2', encoder__dropout='0.5', encoder__widths='(32, 32)', method__queue_size='32')
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  batch = compiling.jit(tiny.views(of))(raw, np.int32(0))
  same = {**batch, 'view_1': batch['view_0']}
  features, _ = of.method.encode(state.params, state.state, same, key=jax.random.key(0), step=0, train=True)
  assert np.abs(features['query'][:, 0] - features['key']).max() > 1e-3


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('byol', dict(method__momentum='1.5'), r'momentum must be from 0 to 1, but it is 1\.5'),
    ('byol', dict(data__num_views='1'), r'compares 2 views of an example, but config\.data\.num_views=1'),
    ('byol', dict(predictor__features='7'), r'as wide as the head \(16\), but it is 7 wide'),
    ('byol', dict(method__loss='nt_xent'), "unknown loss 'nt_xent' in config.method.loss"),
    ('moco_v2', dict(data__num_views='1'), r'compares 2 views of an example, but config\.data\.num_views=1'),
    ('moco_v2', dict(method__queue_size='16'), 'queue_size=16 must hold the keys of a batch, but they are 32'),
    ('nnclr', dict(data__num_views='1'), 'compares 2 views of an example'),
    ('simclr', dict(predictor__hidden='8'), "unknown key 'config.predictor'"),
  ],
)
def test_what_cannot_be_meant_is_refused(name, options, message):
  with pytest.raises(Refusal, match=message):
    tiny.run(f'ssl/{name}', **options).check()


def test_a_method_chosen_by_flag_brings_a_predictor_and_leaves_one_behind():
  assert tiny.config('ssl/simclr', method__name='siamese').predictor.name == 'predictor'
  assert 'predictor' not in tiny.config('ssl/byol', method__name='pair')


@pytest.mark.turns(3)
@pytest.mark.parametrize('rule', [(), (('params/.*', 'largest'),), (('state/teacher/.*', 'largest'),)])
def test_after_a_warm_start_the_teacher_is_a_copy_of_its_student_where_its_rule_says(rule, tmp_path):
  of = tiny.run('ssl/byol', devices=8, train__sharding=repr(rule))
  state = tiny.fresh(of)
  donor = {k: jax.tree.map(lambda x: np.asarray(x) + 1, v) for k, v in state.params.items()}
  save_safetensors(tmp_path / 'donor.safetensors', donor, stats=jax.device_get(state.state['stats']))
  started = warm_start(state, str(tmp_path / 'donor.safetensors'), None)
  teacher = started.state['teacher']
  for part in ('encoder', 'head'):
    assert tiny.same_bits(teacher['params'][part], started.params[part])
  for was, now in zip(jax.tree.leaves(state.state['teacher']), jax.tree.leaves(teacher), strict=True):
    assert now.sharding.is_equivalent_to(was.sharding, now.ndim)
  of.step(started, tiny.batches(of, 1)[0])  # gives up all of its buffers, none of them twice


@pytest.mark.parametrize('name', ['ssl/sog_clr', 'metric/arcface'])
def test_a_model_that_holds_rows_or_proxies_of_its_data_embeds_other_data(name, tmp_path):
  of, path = tiny.run(name), workdir.enter(str(tmp_path / 'run'), tiny.config(name), tiny.run(name).sources)
  checkpoints = Checkpoints(path / 'checkpoints')
  checkpoints.save(0, tiny.fresh(of))
  checkpoints.close()
  images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
  np.savez(tmp_path / 'other.npz', image=images, label=np.arange(40) % 3, image_test=images[:30])
  other = resolve.load(str(path), {'data.source.name': 'arrays', 'data.source.path': str(tmp_path / 'other.npz')})
  assert serve.load(path, other).embed_split('test').features.shape[0] == 30
