"""The method that remembers every example: which rows change, what they become, how they are split and cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.types import Refusal

NAMES = ('ssl/isog_clr', 'ssl/sog_clr')


@functools.cache
def stepped(name: str, count: int = 1, **overrides):
  """A run, its fresh state, that after so many steps, the batches' rows of the data set, and the last metrics."""
  of = tiny.run(name, **overrides)
  fresh = jax.device_get(tiny.fresh(of))
  state, batches, metrics = tiny.fresh(of), tiny.batches(of, count), {}
  for batch in batches:
    state, metrics = of.step(state, batch)
  return of, fresh, jax.device_get(state), [np.asarray(batch['index']) for batch in batches], jax.device_get(metrics)


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', NAMES)
def test_a_step_changes_the_rows_of_its_batch_and_no_others(name):
  of, fresh, state, (index,), _ = stepped(name)
  before, after = fresh.state['per_sample'], state.state['per_sample']
  assert after.log_denominator.shape == (of.info.num_examples,)
  others = np.setdiff1d(np.arange(of.info.num_examples), index)
  assert after.visited[index].all() and not after.visited[others].any()
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(new[others], old[others])
    assert (new[index] != old[index]).all()


def test_a_loss_of_one_temperature_keeps_none_for_each_example():
  _, _, state, _, metrics = stepped('ssl/sog_clr')
  rows = state.state['per_sample']
  assert rows.temperature is None and rows.momentum is None and rows.square is None
  np.testing.assert_allclose(metrics['temperature'], 0.2, rtol=1e-6)


def test_an_example_that_comes_again_is_blended_with_what_is_remembered_of_it():
  def outputs(state, gamma):
    of_batch = tiny.gradients('ssl/sog_clr', method__gamma=gamma)
    return jax.device_get(of_batch(state, batch)[0].state['per_sample'].log_denominator[index])

  of = tiny.run('ssl/sog_clr')
  state, (batch,) = tiny.fresh(of), tiny.batches(of, 1)
  index = np.asarray(batch['index'])
  first = outputs(state, '0.25')
  rows = state.state['per_sample']
  remembered = rows._replace(
    visited=rows.visited.at[index].set(True), log_denominator=rows.log_denominator.at[index].set(first - 1)
  )
  again = outputs(state._replace(state={**state.state, 'per_sample': remembered}), '0.25')
  # The views' own denominators are blended before their mean, which is then that of the whole.
  np.testing.assert_allclose(again, first + np.log(0.75 * np.exp(-1) + 0.25), rtol=1e-5)


@pytest.mark.slow
def test_the_loss_is_that_of_the_batch_alone_at_first_visits():
  of = tiny.run('ssl/sog_clr')
  state, (batch,) = tiny.fresh(of), tiny.batches(of, 1)
  views = tiny.views(of)(batch, np.int32(0))
  features, _ = of.method.encode(state.params, state.state, views, key=jax.random.key(0), step=0, train=True)
  z = jnp.swapaxes(losses.unit(features['g']), 0, 1)
  want = 0.2 * (losses.decoupled(z, temperature=0.2).mean() - np.log(2 * (z.shape[1] - 1)))
  out, _ = tiny.gradients('ssl/sog_clr')(state, batch)
  np.testing.assert_allclose(out.loss, want, rtol=1e-4)
  # That of an example is the mean of its views', whose logarithm is no less than the mean of theirs.
  views_mean = want + out.metrics['positive_similarity']
  assert views_mean < out.metrics['log_denominator'] < views_mean + 0.05


def test_the_rate_of_denominators_falls_by_epochs_from_one_to_gamma():
  overrides = dict(method__gamma='0.3', method__gamma_epochs='2', data__batch_size='64')
  of = tiny.run('ssl/sog_clr', **overrides)
  (batch,), state = tiny.batches(of, 1), tiny.fresh(of)
  of_batch, per_epoch = tiny.gradients('ssl/sog_clr', **overrides), of.info.steps_per_epoch
  rates = []
  for step in (0, per_epoch - 1, per_epoch, 2 * per_epoch, 5 * per_epoch):
    out, _ = of_batch(state._replace(step=jnp.int32(step)), batch)
    rates.append(float(out.metrics['inner_rate']))
  np.testing.assert_allclose(rates, [1, 1, 0.65, 0.3, 0.3], rtol=1e-6)


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', NAMES)
def test_rows_split_among_devices_are_those_of_one_device_and_stay_where_they_are(name):
  split = dict(
    devices=3, data__batch_size='48', train__sharding="(('state/per_sample/.*', ('data',)),)"
  )  # 1437 = 3 * 479
  of, _, after, _, metrics = stepped(name, 3, **split)
  _, _, want, _, wanted = stepped(name, 3, data__batch_size='48')
  np.testing.assert_allclose(metrics['loss'], wanted['loss'], rtol=1e-5)
  assert tiny.distance(after.state['per_sample'], want.state['per_sample']) < 1e-4
  fresh = tiny.fresh(of).state['per_sample']
  assert {row.addressable_shards[0].data.shape for row in jax.tree.leaves(fresh)} == {(479,)}
  assert of.step._cache_size() == 1


def test_temperatures_of_examples_leave_their_start_and_their_range_is_kept():
  _, fresh, state, _, metrics = stepped(
    'ssl/isog_clr', 8, method__rho='0.0', method__tau_rate='1.0', method__gamma='1.0'
  )
  tau, visited = state.state['per_sample'].temperature, state.state['per_sample'].visited
  np.testing.assert_array_equal(fresh.state['per_sample'].temperature, np.full(len(tau), 0.2, np.float32))
  assert (tau[visited] > 0.2).all() and tau.max() <= 1.0
  np.testing.assert_allclose(metrics['temperature'], 0.2, rtol=1e-6)  # within an epoch every visit is the first


def test_what_the_loss_does_not_have_is_refused():
  with pytest.raises(Refusal, match=r"unknown loss 'sogclr' in config\.method\.loss; did you mean 'sog_clr'"):
    tiny.run('ssl/sog_clr', method__loss='sogclr')
  with pytest.raises(Refusal, match=r"unknown key 'config.method.rho'"):
    tiny.run('ssl/sog_clr', method__rho='0.3')
  with pytest.raises(Refusal, match=r'gamma must lie in \(0, 1\], but it is 2.0'):
    tiny.run('ssl/sog_clr', method__gamma='2.0').check()
  with pytest.raises(Refusal, match='V >= 2 views are needed'):
    tiny.run('ssl/sog_clr', data__num_views='1').check()
