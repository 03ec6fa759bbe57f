"""Two towers that remember every pair: which rows change, what they become, how they are split, which numbers learn."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.types import Refusal

NAME = 'multimodal/fast_clip'
KINDS = {
  'sog_clip': dict(method__loss='sog_clip'),
  'isog_clip': dict(method__loss='isog_clip'),
  'v0': dict(method__version='v0'),
  'v1': dict(method__version='v1'),
  'v2': dict(method__version='v2', method__temperature='0.03'),
  'v3': {},
}
SIDES = ('image', 'text')
BY_ROW = ('isog_clip', 'v2')
LEARNED = ('v0', 'v3')


@functools.cache
def stepped(kind: str, count: int = 1, **overrides):
  """A run, its fresh state, that after so many steps, the batches' rows of the data set, and the last metrics."""
  of = tiny.run(NAME, **KINDS[kind], **overrides)
  fresh = jax.device_get(tiny.fresh(of))
  state, batches, metrics = tiny.fresh(of), tiny.batches(of, count), {}
  for batch in batches:
    state, metrics = of.step(state, batch)
  return of, fresh, jax.device_get(state), [np.asarray(batch['index']) for batch in batches], jax.device_get(metrics)


@pytest.mark.turns(3)
@pytest.mark.parametrize('kind', KINDS)
def test_a_step_changes_the_rows_of_its_batch_on_both_sides_and_no_others(kind):
  of, fresh, state, (index,), _ = stepped(kind)
  others = np.setdiff1d(np.arange(of.info.num_examples), index)
  for side in ('image', 'text'):
    before, after = fresh.state['per_sample'][side], state.state['per_sample'][side]
    assert after.log_denominator.shape == (of.info.num_examples,)
    assert after.visited[index].all() and not after.visited[others].any()
    assert (after.temperature is not None) == (kind in BY_ROW) and (after.square is not None) == (kind == 'v2')
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
      np.testing.assert_array_equal(new[others], old[others])
      assert (new[index] != old[index]).all()
  image, text = (state.state['per_sample'][side].log_denominator[index] for side in ('image', 'text'))
  assert (image != text).any()


@pytest.mark.turns(3)
@pytest.mark.parametrize('kind', KINDS)
def test_one_temperature_is_a_parameter_in_v0_and_v3_alone(kind):
  of, fresh, state, _, metrics = stepped(kind)
  assert ('temperature' in state.params) == (kind in LEARNED)
  start = of.numbers['method.temperature']
  np.testing.assert_allclose(metrics['temperature'], start, rtol=1e-6)
  if kind in LEARNED:
    np.testing.assert_allclose(np.exp(fresh.params['temperature']), start, rtol=1e-6)
    assert state.params['temperature'] != fresh.params['temperature']


def outputs(kind: str, state, batch, **overrides):
  return jax.device_get(tiny.gradients(NAME, **KINDS[kind], **overrides)(state, batch)[0])


def first(kind: str, **overrides):
  """The fresh state of a run, its first batch, and the unit-norm embeddings of both sides."""
  of = tiny.run(NAME, **KINDS[kind], **overrides)
  state, (batch,) = tiny.fresh(of), tiny.batches(of, 1)
  views = tiny.views(of)(batch, np.int32(0))
  features, _ = of.method.encode(state.params, state.state, views, key=jax.random.key(0), step=0, train=True)
  return state, batch, *(losses.unit(features[name][:, 0]) for name in ('g', 't'))


@pytest.mark.turns(2)
@pytest.mark.parametrize('kind', ['sog_clip', 'v3'])
def test_the_loss_at_first_visits_is_that_of_the_batch_alone(kind):
  state, batch, x, y = first(kind)
  logits = np.float64(x) @ np.float64(y).T / 0.07
  differences = [each - np.diag(logits)[:, None] for each in (logits, logits.T)]
  off = ~np.eye(len(logits), dtype=bool)
  log_g = [np.log((np.exp(each) * off).sum(1) / off[0].sum()) for each in differences]
  want = 0.07 * np.mean(log_g[0] + log_g[1])
  if kind == 'v3':  # twice the temperature for G = 2, and the allowed divergence
    want = 2 * 0.07 + 0.07 * 6.5 + want / 2
  out = outputs(kind, state, batch)
  np.testing.assert_allclose(out.loss, want, rtol=1e-4)
  index = np.asarray(batch['index'])
  for side, each in zip(('image', 'text'), log_g, strict=True):
    np.testing.assert_allclose(out.state['per_sample'][side].log_denominator[index], each, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(out.metrics['log_denominator'], 0.07 * np.mean(log_g), rtol=1e-4)


def test_a_pair_that_comes_again_is_blended_with_what_is_remembered_of_it():
  state, batch, *_ = first('v3')
  index = np.asarray(batch['index'])
  found = outputs('v3', state, batch, method__gamma='0.25').state['per_sample']
  remembered = {
    side: rows._replace(log_denominator=jnp.asarray(rows.log_denominator) - 1) for side, rows in found.items()
  }
  again = outputs('v3', state._replace(state={**state.state, 'per_sample': remembered}), batch, method__gamma='0.25')
  for side, rows in again.state['per_sample'].items():
    want = found[side].log_denominator[index] + np.log(0.75 * np.exp(-1) + 0.25)
    np.testing.assert_allclose(rows.log_denominator[index], want, rtol=1e-5, atol=1e-5)


def test_the_rate_of_denominators_falls_by_epochs_and_moments_begin_in_the_second():
  overrides = dict(method__gamma='0.3', method__gamma_epochs='2')
  state, batch, *_ = first('v2', **overrides)
  index = np.asarray(batch['index'])
  per_epoch = tiny.run(NAME, **KINDS['v2'], **overrides).info.steps_per_epoch
  found = [
    outputs('v2', state._replace(step=jnp.int32(step)), batch, **overrides)
    for step in (0, per_epoch - 1, per_epoch, 2 * per_epoch, 5 * per_epoch)
  ]
  np.testing.assert_allclose([out.metrics['inner_rate'] for out in found], [1, 1, 0.65, 0.3, 0.3], rtol=1e-6)
  # In the first epoch both moments are those of the newest gradient, later a tenth and a thousandth of it.
  for out, share in ((found[1], 1.0), (found[2], 0.001 / 0.1**2)):
    rows = out.state['per_sample']['image']
    np.testing.assert_allclose(rows.square[index], share * rows.momentum[index] ** 2, rtol=1e-4)


@pytest.mark.turns(2)
@pytest.mark.parametrize('kind', ['sog_clip', 'isog_clip', 'v2', 'v3'])
def test_a_picture_without_caption_is_neither_anchor_nor_candidate_and_its_rows_stay(kind):
  state, batch, x, y = first(kind)
  index, gone = np.asarray(batch['index']), [3, 8]
  without = {**batch, 'caption_mask': batch['caption_mask'].at[np.array(gone)].set(False)}
  out, kept = outputs(kind, state, without), np.delete(np.arange(len(index)), gone)
  section = tiny.config(NAME, **KINDS[kind]).method
  loss = getattr(losses, section.loss)
  has = {*inspect.signature(loss).parameters} - {'fold', 'precision'}
  rows = tuple(jax.tree.map(lambda of_all: of_all[index[kept]], state.state['per_sample'][side]) for side in SIDES)
  values, new = loss(x[kept], y[kept], rows, **{name: value for name, value in section.items() if name in has})
  np.testing.assert_allclose(out.loss, values.mean(), rtol=1e-4)
  for name, want in zip(SIDES, new, strict=True):
    side = out.state['per_sample'][name]
    assert not side.visited[index[gone]].any() and not side.log_denominator[index[gone]].any()
    for got, each in zip(jax.tree.leaves(side), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(got[index[kept]], each, rtol=1e-4, atol=1e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize('kind', ['v3', 'v2'])
def test_rows_split_among_devices_are_those_of_one_device_and_stay_where_they_are(kind):
  split = dict(devices=2, train__sharding="(('state/per_sample/.*', ('data',)),)")  # 2746 = 2 * 1373
  of, _, after, _, metrics = stepped(kind, 3, **split)
  _, _, want, _, wanted = stepped(kind, 3)
  np.testing.assert_allclose(metrics['loss'], wanted['loss'], rtol=1e-5)
  assert tiny.distance(after.state['per_sample'], want.state['per_sample']) < 1e-4
  fresh = tiny.fresh(of).state['per_sample']
  assert {row.addressable_shards[0].data.shape for row in jax.tree.leaves(fresh)} == {(1373,)}
  assert of.step._cache_size() == 1


def test_a_learned_temperature_keeps_to_its_bound():
  _, _, state, _, _ = stepped('v3', 3, schedule__learning_rate='1.0', method__lowest_temperature='0.05')
  np.testing.assert_allclose(np.exp(state.params['temperature']), 0.05, rtol=1e-5)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    (dict(data__num_captions='2'), r'takes 1 of its captions, but there are 2: config\.data\.num_captions'),
    (dict(data__num_views='2'), r'takes 1 of its views, but there are 2: config\.data\.num_views'),
    (dict(method__version='v4'), "unknown version 'v4'"),
    (dict(method__gamma='1.5'), r'gamma must lie in \(0, 1\], but it is 1.5'),
    (dict(method__lowest_temperature='0.1'), r'temperature=0\.07 is below config\.method\.lowest_temperature=0\.1'),
  ],
)
def test_what_the_method_cannot_do_is_refused(overrides, message):
  with pytest.raises(Refusal, match=message):
    tiny.run(NAME, **overrides).check()


def test_the_epoch_of_a_run_is_no_option():
  with pytest.raises(Refusal, match=r"unknown key 'config\.method\.epoch'"):
    tiny.run(NAME, method__epoch='3')
