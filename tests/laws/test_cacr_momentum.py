"""CACR with a momentum encoder: what its official code and its paper say of it, at `:tiny`."""

import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses

NAME = 'ssl/cacr_momentum'
TWO = dict(data__num_small_views='0')


@functools.cache
def stepped(**overrides):
  of = tiny.run(NAME, **overrides)
  before = jax.device_get(tiny.fresh(of))
  after, metrics = of.step(tiny.fresh(of), tiny.batches(of, 1)[0])
  return of, before, jax.device_get(after), jax.device_get(metrics)


@functools.cache
def encoded(**overrides):
  """The features of the first batch, and the loss of features."""
  of = tiny.run(NAME, **overrides)
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  batch, key = compiling.jit(tiny.views(of))(raw, np.int32(0)), jax.random.key(0)
  features, after = of.method.encode(state.params, state.state, batch, key=key, step=0, train=True)
  return features, lambda features: of.method.loss(state.params, after, features, batch, key=key, step=0).loss


@pytest.mark.parametrize('cost', ['rbf', 'euclidean'])
def test_every_key_of_a_view_meets_all_other_crops(cost):
  features, loss = encoded(method__cost=cost)
  p, k = (np.asarray(losses.unit(features[name])).swapaxes(0, 1) for name in ('prediction', 'target'))
  assert len(p) == 4 and len(k) == 2  # small views have no keys
  each = [losses.cacr_momentum(np.delete(p, w, 0), k[w], temperature=0.2, cost=cost).mean() for w in range(2)]
  np.testing.assert_allclose(loss(features), np.mean(each), rtol=1e-5)


def test_with_two_views_it_is_half_the_loss_of_moco_v3():
  features, loss = encoded(**TWO)
  moco = tiny.run('ssl/moco_v3', method__temperature='0.2', method__scale='0.8')
  state, batch = tiny.fresh(moco), tiny.batches(moco, 1)[0]
  want = moco.method.loss(state.params, state.state, features, batch, key=jax.random.key(0), step=0).loss
  np.testing.assert_allclose(loss(features), want / 2, rtol=1e-5)


def test_keys_get_no_gradient_and_predictions_do():
  features, loss = encoded()
  gradient = jax.grad(loss)(features)
  assert (gradient['target'] == 0).all()
  assert (jnp.abs(gradient['prediction']).sum((0, 2)) > 0).all()  # each crop's


def test_the_teacher_starts_as_the_student_and_follows_it():
  _, before, after, _ = stepped(method__momentum='0.9')
  for part in ('encoder', 'head'):
    old = before.state['teacher']['params'][part]
    assert tiny.same_bits(old, before.params[part])
    want = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, old, after.params[part])
    assert tiny.distance(after.state['teacher']['params'][part], want) < 1e-6


def test_the_queue_takes_keys_after_the_loss_and_repels():
  of, before, after, metrics = stepped(method__queue_size='48')
  then = after.state['queue']
  assert int(then.head) == of.batch_size == 32
  np.testing.assert_array_equal(then.values[32:], before.state['queue'].values[32:])
  # More negatives in the denominator: a larger loss.
  assert metrics['loss'] > stepped()[3]['loss'] + 0.01


def test_the_entropy_of_the_attraction_lies_between_0_and_1_and_is_absent_where_there_is_one_query():
  assert 0.5 < stepped()[3]['attraction_entropy'] <= 1 + 1e-6
  assert 'attraction_entropy' not in stepped(**TWO)[3]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(method__cost='cosine'), 'unknown cost'),
    (dict(method__momentum='1.5'), 'momentum'),
    (dict(method__queue_size='8'), 'queue'),
    (dict(data__num_views='1', data__num_small_views='1'), '2 views'),
    (dict(predictor__features='7'), 'as wide as the head'),
  ],
)
def test_what_cannot_be_trained_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    tiny.run(NAME, **options).check()
