"""Methods with a predictor, a teacher or a queue: what their papers say of them, at `:tiny`."""

import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
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


@pytest.mark.parametrize(('name', 'low', 'high'), [('byol', 0, 8), ('simsiam', 0, 2)])
def test_the_regression_of_cosines_lies_in_its_range(name, low, high):
  out, _ = output(f'ssl/{name}')
  assert low < out.loss < high
  # The sum over both orders of 2 - 2 cos, or SimSiam's loss plus 1.
  np.testing.assert_allclose(out.loss, high / 2 * (1 - out.metrics['positive_similarity']), rtol=1e-5)


@pytest.mark.parametrize('name', ['byol', 'moco_v3', 'moco_v2'])
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


@pytest.mark.parametrize('name', ['moco_v2', 'nnclr'])
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


def test_neighbours_that_are_the_embeddings_themselves_make_nnclr_info_nce_with_a_predictor():
  name, options = 'ssl/nnclr', dict(method__queue_size='64')
  of = tiny.run(name, **options)
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  batch = compiling.jit(tiny.views(of))(raw, np.int32(0))
  key = jax.random.key(0)
  features, _ = of.method.encode(state.params, state.state, batch, key=key, step=0, train=True)
  z, p = (jnp.swapaxes(losses.unit(features[k]), 0, 1) for k in ('projection', 'prediction'))
  bank = state.state['queue']._replace(values=jnp.concatenate([z[0], z[1]]))
  out = of.method.loss(state.params, {**state.state, 'queue': bank}, features, batch, key=key, step=0)
  want = (losses.info_nce(z[0], p[1]).mean() + losses.info_nce(z[1], p[0]).mean()) / 2
  np.testing.assert_allclose(out.loss, want, rtol=1e-5)
  np.testing.assert_allclose(out.metrics['neighbour_similarity'], 1, rtol=1e-5)


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
