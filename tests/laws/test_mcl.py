import types

import jax
import numpy as np
import pytest
import tiny

from contrastive_jax.data.sampling import planned
from contrastive_jax.engine import loop, setup
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.types import Refusal

SHORT = dict(data__batch_size='512', train__steps='4')
STAGED = SHORT | dict(method__stages='2', method__clusters='2')
QUICK = dict(data__views__name='weak', train__report='False', train__keep_best='0') | {
  f'evals__{name}': 'False' for name in tiny.config('ssl/mcl').evals if name != 'geometry'
}


def trained(path, name='ssl/mcl', **overrides):
  """A run of `tiny`, trained, and its last state."""
  of = setup.build(tiny.config(name, **QUICK, **overrides))
  path.mkdir()
  loop.fit(of, path)
  state, _ = Checkpoints(path / 'checkpoints', keep_last=2, keep_best=1).restore(of.fresh())
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
  _, host = trained(tmp_path / 'pair', 'ssl/simclr', **SHORT)
  for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(host.params), strict=True):
    np.testing.assert_array_equal(a, b)


def test_features_are_those_of_all_stages_and_later_ones_are_zero_before_they_begin(staged):
  of, after = staged
  before = of.fresh()
  first, second = (of.embedder.at(state.params, state.state)('test') for state in (before, after))
  width = first.features.shape[1] // 2
  assert not np.asarray(first.features)[:, width:].any()
  for half in (slice(width), slice(width, None)):
    np.testing.assert_allclose(np.linalg.norm(np.asarray(second.features)[:, half], axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(np.asarray(second.projection), axis=1), 1, atol=1e-5)
  # The first stage is kept as it was when it ended: not what training has made of it since.
  kept = jax.tree.map(lambda x: x[0], after.state['stages']['params'])
  assert not all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (kept, after.params)), strict=True))


def test_the_clusters_of_all_stages_are_kept_in_mixed_radix():
  of = setup.build(
    tiny.config('ssl/mcl', method__stages='3', method__clusters='3', data__batch_size='128', train__steps='33')
  )
  rng = np.random.default_rng(0)
  first, second = rng.integers(0, 3, (2, of.info.num_examples))
  corners = np.eye(3, dtype=np.float32)
  state, params = of.fresh().state, of.fresh().params
  width = of.method.embed(params, state, of.zeros())['projection'].shape[1] // 3

  def embed(labels, stage):
    x = np.zeros((of.info.num_examples, 3 * width), np.float32)
    x[:, stage * width : stage * width + 3] = corners[labels]
    return lambda split: types.SimpleNamespace(projection=x)

  per_epoch = of.info.steps_per_epoch
  for stage, labels in enumerate((first, second)):
    state = of.method.refresh(params, state, embed(labels, stage), key=jax.random.key(0), step=(stage + 1) * per_epoch)
  found = np.asarray(state['plan']['group'])
  assert len(set(found.tolist())) == 9 == len({*zip(found.tolist(), first.tolist(), second.tolist(), strict=True)})
  assert state is of.method.refresh(params, state, None, key=None, step=3 * per_epoch)


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
    setup.build(tiny.config('ssl/mcl', **(STAGED | overrides)))
