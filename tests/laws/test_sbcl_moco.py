"""SBCL on the host of MoCo: what its queue knows of keys, which loss meets it when, and what a refresh leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import resolve
from contrastive_jax.methods import sbcl_moco, subclassing
from contrastive_jax.types import Refusal

NAME = 'ssl/sbcl_moco'
SIZE = 48  # of the queue: one batch and a half


@functools.cache
def run(**overrides):
  options = dict(method__warmup_epochs='1', method__every_epochs='2', method__queue_size=str(SIZE), train__steps='1000')
  return tiny.run(NAME, **(options | overrides))


@functools.cache
def fresh():
  return tiny.fresh(run())


@functools.cache
def refreshed(epochs: int = 1, key: int = 0):
  state, of = fresh(), run()
  embed, step = of.embedder.at(state.params, state.state), epochs * of.info.steps_per_epoch
  return of.method.refresh(state.params, state.state, embed, key=jax.random.key(key), step=step)


def unit_rows(key: int, count: int):
  return losses.unit(jax.random.normal(jax.random.key(key), (count, 16)))


@functools.cache
def labels_of_all():
  return run().sources['train'].read(np.arange(run().info.num_examples))['label']


@functools.cache
def case():
  """A state whose queue is full of keys of known rows, features and a batch: all by hand, but for the subclasses."""
  of, after = run(), refreshed()
  rows = np.random.default_rng(0).permutation(of.info.num_examples)[:SIZE]
  subclass = after['per_sample']['subclass'][rows]
  # Some keys are from before the first subclasses, and some random vectors are still there.
  labels = {'class': jnp.asarray(labels_of_all()[rows]).at[-3:].set(-1), 'subclass': subclass.at[-9:].set(-1)}
  state = {**after, 'queue': after['queue']._replace(values=unit_rows(1, SIZE), labels=labels)}
  (batch,) = tiny.batches(of, 1)
  features = {'query': 3 * unit_rows(2, of.batch_size)[:, None], 'key': 2 * unit_rows(3, of.batch_size)}
  return state, features, batch


def loss_at(step: int, features=None, state=None, **overrides):
  given, made, batch = case()
  of = run(**overrides)
  args = (fresh().params, state or given, features or made, batch)
  return of.method.loss(*args, key=jax.random.key(0), step=step)


def first_step() -> int:
  """Of the subclasses."""
  return run().info.steps_per_epoch


def by_hand(own, of_queue, **options):
  """`losses.sbcl_queue` of the case with these subclasses."""
  state, features, batch = case()
  q, k = losses.unit(features['query'][:, 0]), losses.unit(features['key'])
  bank = state['queue']
  return losses.sbcl_queue(q, k, bank.values, batch['label'], own, bank.labels['class'], of_queue, **options).mean()


def test_the_loss_of_a_step_is_that_of_the_queue_with_the_subclasses_of_the_queries_rows():
  state, _, batch = case()
  own, of_queue = state['per_sample']['subclass'][batch['index']], state['queue'].labels['subclass']
  out = loss_at(first_step())
  np.testing.assert_allclose(out.loss, by_hand(own, of_queue), rtol=1e-5)
  same = np.asarray(own)[:, None] == np.asarray(of_queue)
  assert same.any()
  np.testing.assert_allclose(out.metrics['same_subclass'], same.sum(1).mean(), rtol=1e-6)
  other = loss_at(first_step(), method__temperature='0.2', method__class_temperature='0.3', method__beta='0.7')
  options = dict(temperature=0.2, class_temperature=0.3, beta=0.7)
  np.testing.assert_allclose(other.loss, by_hand(own, of_queue, **options), rtol=1e-5)


def sup_con_with_queue(tau: float) -> float:
  """By loops: positives are the own key and the keys of the queue of the query's class, candidates all of them."""
  state, features, batch = case()
  q, k = (np.float64(losses.unit(side)) for side in (features['query'][:, 0], features['key']))
  keys, of_keys, label = np.float64(state['queue'].values), state['queue'].labels['class'], batch['label']
  values = []
  for i in range(len(q)):
    s = np.concatenate([[q[i] @ k[i]], keys @ q[i]]) / tau
    positives = np.concatenate([[True], np.asarray(of_keys) == label[i]])
    values.append(np.log(np.exp(s).sum()) - s[positives].mean())
  return float(np.mean(values))


def test_the_loss_is_supcon_with_a_queue_until_the_step_at_which_the_warm_up_ends():
  want = sup_con_with_queue(0.07)
  for step in (0, first_step() - 1):
    np.testing.assert_allclose(loss_at(step, method__beta='0.5').loss, want, rtol=1e-5)
  assert abs(loss_at(first_step()).loss - want) > 1e-2


def test_with_one_subclass_a_class_and_without_the_second_term_it_stays_supcon_with_a_queue():
  state, _, _ = case()
  label, bank = jnp.asarray(labels_of_all()), state['queue']
  whole = {**bank.labels, 'subclass': bank.labels['class']}
  one = {**state, 'per_sample': {'subclass': label}, 'queue': bank._replace(labels=whole)}
  out = loss_at(first_step(), state=one, method__beta='0.0')
  np.testing.assert_allclose(out.loss, sup_con_with_queue(0.07), rtol=1e-5)


def test_classes_that_are_no_larger_than_a_subclass_have_one_each():
  of = run(method__subclass_size='1000')
  embed = of.embedder.at(fresh().params, fresh().state)
  new = of.method.refresh(fresh().params, fresh().state, embed, key=jax.random.key(0), step=first_step())
  np.testing.assert_array_equal(new['per_sample']['subclass'], labels_of_all())


def test_keys_go_into_the_queue_with_the_class_and_the_subclass_of_their_rows():
  state, features, batch = case()
  out, b = loss_at(first_step()), run().batch_size
  before, after = state['queue'], out.state['queue']
  np.testing.assert_allclose(after.values[:b], losses.unit(features['key']), rtol=1e-6)
  np.testing.assert_array_equal(after.labels['class'][:b], batch['label'])
  np.testing.assert_array_equal(after.labels['subclass'][:b], state['per_sample']['subclass'][batch['index']])
  for name in ('class', 'subclass'):
    np.testing.assert_array_equal(after.labels[name][b:], before.labels[name][b:])
  assert len(np.unique(after.labels['subclass'])) > len(np.unique(after.labels['class']))


def test_during_the_warm_up_keys_have_a_class_and_no_subclass_and_random_vectors_have_neither():
  of, state = run(), fresh()
  start = state.state['queue'].labels
  assert all((np.asarray(each) == -1).all() and len(each) == SIZE for each in start.values())
  (batch,) = tiny.batches(of, 1)
  after, _ = of.step(tiny.fresh(of), batch)
  labels = after.state['queue'].labels
  np.testing.assert_array_equal(labels['class'], [*batch['label'], *[-1] * (SIZE - of.batch_size)])
  assert (np.asarray(labels['subclass']) == -1).all()


def test_subclasses_are_found_after_the_warm_up_and_then_every_few_epochs():
  unchanged = [tiny.same_bits(refreshed(epochs), fresh().state) for epochs in (0, 1, 2, 3)]
  assert unchanged == [True, False, True, False]


def test_a_refresh_relabels_the_rows_and_not_the_keys_of_the_queue():
  state, of = case()[0], run()
  embed = of.embedder.at(fresh().params, state)
  new = of.method.refresh(fresh().params, state, embed, key=jax.random.key(1), step=3 * first_step())
  old, found = (np.asarray(each['per_sample']['subclass']) for each in (state, new))
  assert (old != found).mean() > 0.1
  assert tiny.same_bits({**new, 'per_sample': {}}, {**state, 'per_sample': {}})


def test_a_number_of_a_subclass_is_of_the_same_class_whenever_it_was_given():
  label = labels_of_all()
  first, second = (np.asarray(refreshed(1, key)['per_sample']['subclass']) for key in (0, 1))
  classes = {int(number): {int(c) for c in label[first == number]} for number in np.unique(first)}
  assert len(classes) == sum(subclassing.subclass_counts(label, 10, 10))
  assert all(classes[int(number)] == {int(c)} for number, c in zip(second, label, strict=True))


def test_keys_and_queue_get_no_gradient_and_parameters_are_the_students_alone():
  state, features, _ = case()

  def of_both(features, values):
    given = {**state, 'queue': state['queue']._replace(values=values)}
    return loss_at(first_step(), features, given).loss

  of_features = jax.grad(of_both)(features, state['queue'].values)
  assert (of_features['key'] == 0).all()
  assert (jnp.abs(of_features['query']).max(2) > 0).all()
  assert set(fresh().params) == {'encoder', 'head'}
  assert set(fresh().state['teacher']['params']) == {'encoder', 'head'}


def test_the_teacher_follows_and_a_teacher_of_momentum_one_stays():
  moved = jax.tree.map(lambda x: x + 1, fresh().params)
  for momentum in (0.75, 1.0):
    update = run(method__momentum=str(momentum)).method.update
    _, after = update(moved, fresh().state, step=jnp.int32(3))
    want = jax.tree.map(lambda x, m=momentum: x + (1 - m), fresh().state['teacher']['params'])
    assert tiny.distance(after['teacher']['params'], want) < 1e-6


@pytest.mark.parametrize('setting', ['small', 'fashion_mnist', 'cifar10', 'imagenet'])
def test_in_every_setting_subclasses_are_found_in_the_first_half_and_anew_and_the_queue_holds_batches(setting):
  config = resolve.load(f'{tiny.ROOT}/configs/{NAME}.py:{setting}')
  assert config.method.warmup_epochs <= config.train.epochs / 2
  assert config.method.warmup_epochs + config.method.every_epochs < config.train.epochs
  assert config.method.queue_size >= 2 * config.data.batch_size
  assert config.data.imbalance == resolve.load(f'{tiny.ROOT}/configs/ssl/sbcl.py:{setting}').data.imbalance > 1


def test_on_imagenet_the_constants_are_those_of_the_official_code():
  method = resolve.load(f'{tiny.ROOT}/configs/{NAME}.py:imagenet').method
  assert (method.queue_size, method.momentum) == (65536, 0.999)
  assert (method.temperature, method.class_temperature, method.beta) == (0.07, 0.12, 0.2)
  assert (method.subclass_size, method.warmup_epochs, method.every_epochs) == (20, 200, 5)


def test_data_without_classes_are_refused():
  with pytest.raises(Refusal, match='names none'):
    sbcl_moco.make(None, None, run().info._replace(num_classes=0))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(method__beta='-1.0'), r'config\.method\.beta must be at least 0, but it is -1\.0'),
    (dict(method__subclass_size='0'), 'must be at least 1, but they are 0, 1 and 2'),
    (dict(method__momentum='1.5'), r'momentum must be from 0 to 1, but it is 1\.5'),
    (dict(method__queue_size='0'), 'queue_size must be at least 1, but it is 0'),
    (dict(method__queue_size='16'), 'queue_size=16 must hold the keys of a batch, but they are 32'),
    (dict(method__class_temperature='0.0'), 'class_temperature must be > 0, but it is 0'),
    (dict(data__num_views='1'), r'compares 2 views of an example, but config\.data\.num_views=1'),
  ],
)
def test_what_cannot_be_trained_is_refused(options, message):
  with pytest.raises(Refusal, match=message):
    run(**options).check()
