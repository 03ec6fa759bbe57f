"""The method that splits classes: how many subclasses, which temperatures, and which loss when."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import resolve
from contrastive_jax.methods import sbcl, subclassing
from contrastive_jax.types import Embedded, Refusal

NAME = 'ssl/sbcl'


def test_subclasses_are_about_as_large_as_the_rarest_class_or_the_least_size():
  label = np.repeat([0, 1, 3, -1], [143, 57, 14, 30])
  assert subclassing.subclass_counts(label, 4, 10) == (10, 4, 0, 1)
  assert subclassing.subclass_counts(label, 4, 20) == (7, 2, 0, 1)
  for sizes in ((500, 300, 20), (1000, 999, 5)):
    counts = subclassing.subclass_counts(np.repeat(np.arange(3), sizes), 3, 10)
    each = np.array(sizes) / counts
    assert (each[np.array(counts) > 1] < 2 * max(min(sizes), 10)).all()


def test_temperatures_average_to_the_first_before_classes_of_one_subclass_are_reset():
  spread = np.array([0.1, 0.2, 0.3, 0.4, 5.0])
  many = sbcl.class_scales(spread, (3, 2, 2, 4, 2), 20.0)
  np.testing.assert_allclose(many.mean(), 1, rtol=1e-6)
  low, high = np.percentile(spread, [20, 80])
  assert many.max() / many.min() == pytest.approx(high / low, rel=1e-5)
  assert (np.diff(many) >= 0).all()
  some = sbcl.class_scales(spread, (3, 1, 2, 1, 0), 20.0)
  np.testing.assert_array_equal(some[[1, 3]], 1)


def test_a_class_is_spread_as_its_mean_distance_from_its_centre_says():
  random = np.random.default_rng(0)
  z, label = random.normal(size=(40, 3)).astype(np.float32), random.integers(-1, 3, 40)
  found = sbcl._spread(jnp.asarray(z), jnp.asarray(label), classes=4)
  for c in range(3):
    own = z[label == c]
    want = np.linalg.norm(own - own.mean(0), axis=1).mean() / np.log(len(own) + 10)
    np.testing.assert_allclose(found[c], want, rtol=1e-5)
  assert found[3] == 0


@functools.cache
def run(**overrides):
  return tiny.run(NAME, method__warmup_epochs='1', method__every_epochs='2', train__steps='1000', **overrides)


def refreshed(state, epochs):
  of = run()
  embed = of.embedder.at(state.params, state.state)
  return of.method.refresh(
    state.params, state.state, embed, key=jax.random.key(0), step=epochs * of.info.steps_per_epoch
  )


def test_subclasses_are_found_after_the_warm_up_and_then_every_few_epochs():
  state = tiny.fresh(run())
  unchanged = [tiny.same_bits(refreshed(state, epochs), state.state) for epochs in (0, 1, 2, 3)]
  assert unchanged == [True, False, True, False]


def test_every_subclass_is_of_one_class_and_there_are_as_many_as_the_sizes_ask_for():
  of, state = run(), tiny.fresh(run())
  label = of.sources['train'].read(np.arange(of.info.num_examples))['label']
  subclass = np.asarray(refreshed(state, 1)['per_sample']['subclass'])
  counts = subclassing.subclass_counts(label, 10, 10)
  found = [len(np.unique(subclass[label == c])) for c in range(10)]
  assert tuple(found) == counts
  assert max(counts) >= 10 and min(counts) == 1
  assert len(np.unique(subclass)) == sum(counts)  # no two classes share one


def loss_at(step, state, **overrides):
  of = run(**overrides)
  (batch,) = tiny.batches(of, 1)
  views = tiny.views(of)(batch, np.int32(0))
  features, _ = of.method.encode(state.params, state.state, views, key=jax.random.key(0), step=0, train=True)
  z = jnp.swapaxes(losses.unit(features['g']), 0, 1)
  out = of.method.loss(state.params, state.state, features, batch, key=jax.random.key(0), step=step)
  return z, batch, out


def test_the_loss_is_supcon_during_the_warm_up_and_that_of_the_subclasses_after_it():
  state = tiny.fresh(run())
  state = state._replace(state=refreshed(state, 1))
  z, batch, out = loss_at(0, state)
  np.testing.assert_allclose(out.loss, losses.sup_con(z, batch['label'], temperature=0.1).mean(), rtol=1e-5)
  z, batch, out = loss_at(run().info.steps_per_epoch, state)
  subclass = state.state['per_sample']['subclass'][batch['index']]
  tau = 0.1 * state.state['class_scale'][batch['label']]
  want = losses.sbcl(z, batch['label'], subclass, temperature=0.1, class_temperature=tau, base_temperature=0.07)
  np.testing.assert_allclose(out.loss, want.mean(), rtol=1e-5)
  same = (np.asarray(subclass)[:, None] == np.asarray(subclass)).sum(1) - 1
  np.testing.assert_allclose(out.metrics['same_subclass'], same.mean(), rtol=1e-6)


def test_a_class_temperature_that_is_given_is_that_of_all_classes():
  state = tiny.fresh(run())
  state = state._replace(state=refreshed(state, 1))
  z, batch, out = loss_at(run().info.steps_per_epoch, state, method__class_temperature='0.12')
  subclass = state.state['per_sample']['subclass'][batch['index']]
  want = losses.sbcl(z, batch['label'], subclass, temperature=0.1, class_temperature=0.12, base_temperature=0.07)
  np.testing.assert_allclose(out.loss, want.mean(), rtol=1e-5)
  np.testing.assert_allclose(out.metrics['class_temperature'], 0.12, rtol=1e-6)
  assert abs(out.loss - loss_at(run().info.steps_per_epoch, state)[2].loss) > 1e-3  # of the temperatures of each class


@pytest.mark.parametrize('setting', ['small', 'fashion_mnist', 'cifar10', 'imagenet'])
def test_in_every_setting_subclasses_are_found_in_the_first_fifth_and_anew(setting):
  config = resolve.load(f'{tiny.ROOT}/configs/{NAME}.py:{setting}')
  assert config.method.warmup_epochs <= config.train.epochs / 5
  assert config.method.warmup_epochs + config.method.every_epochs < config.train.epochs


def test_data_without_classes_and_numbers_out_of_range_are_refused():
  of = run()
  with pytest.raises(Refusal, match='names none'):
    sbcl.make(None, None, of.info._replace(num_classes=0))
  with pytest.raises(Refusal, match='percentile must be from 0 to 50, but it is 60'):
    sbcl.make(None, None, of.info, percentile=60.0)
  with pytest.raises(Refusal, match='class_temperature must be positive, or None for one a class'):
    sbcl.make(None, None, of.info, class_temperature=0.0)
  with pytest.raises(Refusal, match=r'config\.method\.beta must be at least 0, but it is -0\.1'):
    sbcl.make(None, None, of.info, beta=-0.1)
  with pytest.raises(Refusal, match='must be at least 1, but they are 10, 0 and 10'):
    sbcl.make(None, None, of.info, warmup_epochs=0)


def test_rows_without_a_label_are_in_no_subclass():
  of, state = run(), tiny.fresh(run())
  embedded = of.embedder.at(state.params, state.state)('train')
  hidden = np.where(np.arange(of.info.num_examples) % 7, embedded.label, -1)

  def embed(split):
    return Embedded(embedded.features, embedded.projection, hidden, embedded.index)

  step = of.info.steps_per_epoch
  new = of.method.refresh(state.params, state.state, embed, key=jax.random.key(0), step=step)
  np.testing.assert_array_equal(np.asarray(new['per_sample']['subclass']) < 0, hidden < 0)
