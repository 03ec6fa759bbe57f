"""The method in stages: what is kept of a stage, what its clusters are, and which batches they make."""

import functools
import types

import compiling
import jax
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.data.sampling import planned
from contrastive_jax.engine import loop, resolve
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.types import Refusal

NETWORKS = dict(encoder__widths='(8,)', head__hidden='8', head__features='4')
SHORT = NETWORKS | dict(
  data__batch_size='512', train__steps='4', train__report='False', train__keep_best='0', evals__knn='False'
)
# Another name leaves the numbers of the schedule at their defaults.
CONSTANT = {f'schedule__{key}': str(value) for key, value in tiny.config('ssl/mcl').schedule.items()}
STAGED = SHORT | dict(method__stages='2', method__clusters='2')
# Batch norm, so that there are statistics to keep. Eleven batches an epoch.
THREE = NETWORKS | dict(
  encoder__norm='batch', method__stages='3', method__clusters='3', data__batch_size='128', train__steps='33'
)


def trained(path, name='ssl/mcl', **overrides):
  """A run of `tiny`, trained, and its last state."""
  of = tiny.run(name, **overrides)
  path.mkdir()
  with tiny.quickly():
    loop.fit(of, path)
  state, _ = Checkpoints(path / 'checkpoints', keep_last=2, keep_best=1).restore(tiny.fresh(of))
  return of, state


@pytest.fixture(scope='module')
def staged(tmp_path_factory):
  return trained(tmp_path_factory.mktemp('mcl') / 'run', **STAGED)


def test_after_a_stage_batches_come_from_one_cluster(staged):
  of, state = staged
  group = np.asarray(state.state['plan']['group'])
  assert int(state.state['stage']) == 1 and set(group.tolist()) == {0, 1}
  size = dict(num_examples=of.info.num_examples, batch_size=of.batch_size)
  rows = planned(state.state['plan'], seed=of.seed, **size)(3)
  assert len(set(group[rows].tolist())) == 1


def test_one_cluster_is_the_host_to_the_bit(tmp_path):
  _, ours = trained(tmp_path / 'mcl', **(STAGED | {'method__clusters': '1', 'method__temperature': '0.2'}))
  _, host = trained(tmp_path / 'pair', 'ssl/simclr', **SHORT, **CONSTANT)
  for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(host.params), strict=True):
    np.testing.assert_array_equal(a, b)


def test_features_are_those_of_all_stages_and_later_ones_are_zero_before_they_begin(staged):
  of, after = staged
  before = tiny.fresh(of)
  first, second = (of.embedder.at(state.params, state.state)('test') for state in (before, after))
  width = first.features.shape[1] // 2
  assert not np.asarray(first.features)[:, width:].any()
  for half in (slice(width), slice(width, None)):
    np.testing.assert_allclose(np.linalg.norm(np.asarray(second.features)[:, half], axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(np.asarray(second.projection), axis=1), 1, atol=1e-5)


def test_negatives_masked_to_their_anchors_cluster_cost_what_a_batch_of_that_cluster_alone_does():
  random = np.random.default_rng(0)
  x, y = (losses.unit(random.normal(size=(12, 5)).astype(np.float32)) for _ in range(2))
  cluster = random.permutation(np.repeat(np.arange(3), (3, 4, 5)))
  loss = compiling.jit(losses.info_nce_both)
  masked = sum(np.stack(loss(x, y, x_mask=cluster == c, y_mask=cluster == c)) for c in range(3))
  for c in range(3):
    sampled = loss(x[cluster == c], y[cluster == c])
    np.testing.assert_allclose(masked[:, cluster == c], np.stack(sampled), rtol=1e-5, atol=1e-6)
  assert (masked < np.stack(loss(x, y))).all()  # which meet the negatives of all clusters


@functools.cache
def three():
  """A run of three stages, not trained, and its first state."""
  of = tiny.run('ssl/mcl', **THREE)
  return of, tiny.fresh(of)


def after_stage(of, params, state, labels, stage: int):
  """The state at the end of a stage whose projections have learned these labels."""
  projection = np.zeros((of.info.num_examples, 3 * 4), np.float32)
  projection[:, stage * 4 : stage * 4 + 3] = np.eye(3)[labels]
  embed = {'train': types.SimpleNamespace(projection=projection)}.__getitem__
  return of.method.refresh(params, state, embed, key=jax.random.key(0), step=(stage + 1) * of.info.steps_per_epoch)


def test_a_stage_is_kept_bit_for_bit_as_it_ends_and_embeds_as_its_host():
  of, fresh = three()
  random, host = np.random.default_rng(0), tiny.run('ssl/simclr', **NETWORKS, encoder__norm='batch').method
  first = jax.tree.map(np.asarray, {'params': fresh.params, 'stats': fresh.state['stats']})
  # At the ends of the three stages; added numbers are positive, for statistics are variances too.
  lives = [jax.tree.map(lambda x: x + random.uniform(0.1, 1, x.shape).astype(x.dtype), first) for _ in range(3)]
  state = fresh.state
  for stage, live in enumerate(lives[:2]):
    labels = random.integers(0, 3, of.info.num_examples)
    state = after_stage(of, live['params'], {**state, 'stats': live['stats']}, labels, stage)
    assert int(state['stage']) == stage + 1
  for stage, live in enumerate(lives[:2]):
    assert tiny.same_bits(jax.tree.map(lambda x, s=stage: x[s], state['stages']), live)
  batch = tiny.views(of)(tiny.batches(of, 1)[0], np.int32(0))
  seen = compiling.jit(of.method.embed)(lives[2]['params'], {**state, 'stats': lives[2]['stats']}, batch)
  embed = compiling.jit(host.embed)
  wanted = [embed(live['params'], {'stats': live['stats']}, batch) for live in lives]
  features, projection = (np.concatenate([losses.unit(w[n]) for w in wanted], 1) for n in ('features', 'projection'))
  np.testing.assert_allclose(seen['features'], features, atol=1e-6)
  np.testing.assert_allclose(seen['projection'], projection / 3**0.5, atol=1e-6)
  assert np.abs(features[:, :8] - features[:, 8:16]).max() > 0.01 < np.abs(features[:, :8] - features[:, 16:]).max()


def test_the_clusters_of_all_stages_are_kept_in_mixed_radix():
  of, fresh = three()
  first, second = np.random.default_rng(0).integers(0, 3, (2, of.info.num_examples))
  state = fresh.state
  for stage, labels in enumerate((first, second)):
    state = after_stage(of, fresh.params, state, labels, stage)
  found = np.asarray(state['plan']['group'])
  assert len(set(found.tolist())) == 9 == len({*zip(found.tolist(), first.tolist(), second.tolist(), strict=True)})
  assert state is of.method.refresh(fresh.params, state, None, key=None, step=3 * of.info.steps_per_epoch)


@pytest.mark.parametrize('setting', ['small', 'fashion_mnist', 'cifar10', 'imagenet', 'tiny'])
def test_the_rate_is_the_same_in_all_stages_after_the_warm_up(setting):
  config = resolve.load(f'{tiny.ROOT}/configs/ssl/mcl.py:{setting}')
  rate = resolve.build(config.schedule, 'schedule', 1000, config.data.batch_size)
  assert config.schedule.warmup <= 0.1
  assert float(rate(100)) == float(rate(999)) > 0


@pytest.mark.parametrize(
  'overrides, reason',
  [
    (dict(train__steps='3'), 'stages=2 need an epoch each, but the run has 3 steps, 1 epochs'),
    (dict(method__clusters='3'), 'an epoch must have 3 batches, but it has 2'),
    (dict(method__stages='0'), 'stages=0 and clusters=2 must be at least 1'),
  ],
)
def test_stages_that_do_not_fit_are_refused(overrides, reason):
  with pytest.raises(Refusal, match=reason):
    tiny.run('ssl/mcl', **(STAGED | overrides))
