"""PamC from its config, on a small graph of two halves."""

import numpy as np
import pytest
import tiny

from contrastive_jax.data.source import Source
from contrastive_jax.engine import resolve, setup
from contrastive_jax.types import Refusal

N = 32


def graph(split='train'):
  """A ring in each half; features tell a node's half, mostly."""
  half = np.arange(N) // (N // 2)
  rng = np.random.default_rng(0)
  vector = np.float32(rng.standard_normal((N, 6)) + 2 * half[:, None])
  start = half * (N // 2)
  beside = [(np.arange(N) - start + step) % (N // 2) + start for step in (-1, 1)]
  neighbour = np.stack([*beside, np.full(N, -1)], axis=1).astype(np.int32)
  weight = np.float32(neighbour >= 0) / 2

  def read(rows):
    found = {'vector': vector[rows], 'label': half[rows].astype(np.int32)}
    return found | {'neighbour': neighbour[rows], 'neighbour_weight': weight[rows]}

  return Source('rings', split, N, read, (6,), ('left', 'right'), (0.0,) * 6, (1.0,) * 6, input='vector')


def build(**options):
  texts = {'train.steps': '60', 'data.batch_size': str(N), 'schedule.learning_rate': '0.01', 'train.devices': '1'}
  texts |= {key.replace('__', '.'): value for key, value in options.items()}
  config = resolve.load(f'{tiny.ROOT}/configs/graph/pam_c.py:tiny', texts)
  with tiny.quickly():
    return setup.build(config, {split: graph(split) for split in ('train', 'test')})


@pytest.mark.parametrize('contrast', ['meta_nodes', 'nodes'])
def test_training_lowers_the_contrast_and_refreshes_centroids_when_the_warm_up_ends(contrast):
  of = build(method__contrast=contrast, method__warm_up='0.5')
  state, contrasts = tiny.fresh(of), []
  for done, batch in enumerate(tiny.batches(of, 60), 1):
    state, metrics = of.step(state, batch)
    contrasts.append(float(metrics['contrast']))
    before = np.asarray(state.state['centroids'])
    assert (np.asarray(state.params['centroids']) == 0).all() == (done <= 30)
    embed = of.embedder.at(state.params, state.state)
    state = state._replace(
      state=of.method.refresh(state.params, state.state, embed, key=tiny.jax.random.key(0), step=done)
    )
    assert (np.asarray(state.state['centroids']) == before).all() == (done not in (1, 30))
  assert contrasts[-1] < contrasts[1] - 0.1


def followed(steps, **options):
  """Nodes in the order of the batch and centroids, before each step and after, and metrics; k-means after the first."""
  of = build(**options)
  state, found = tiny.fresh(of), []
  for done, batch in enumerate(tiny.batches(of, steps), 1):
    z = np.asarray(of.embedder.at(state.params, state.state)('train').features)[np.asarray(batch['index'])]
    before = np.array(state.state['centroids'])
    state, metrics = of.step(state, batch)
    after, learned = np.array(state.state['centroids']), np.array(state.params['centroids'])  # a step takes its state
    found.append((z, before, after, learned, {name: float(value) for name, value in metrics.items()}))
    if done == 1:
      embed = of.embedder.at(state.params, state.state)
      again = of.method.refresh(state.params, state.state, embed, key=tiny.jax.random.key(0), step=done)
      state = state._replace(state=again)
  return found


@pytest.mark.parametrize('seed', ['0', '1'])
def test_contrast_with_meta_nodes_falls_and_tells_the_halves_apart_since_clusters_follow_their_nodes(seed):
  metrics = [each for *_, each in followed(60, seed=seed, method__warm_up='1.0')]
  rises = np.diff([each['contrast'] for each in metrics[1:]])
  assert rises[rises > 0].sum() < 0.01  # 1.97 of seed 1 where centroids stayed, and then one had all nodes
  assert metrics[-1]['largest_cluster'] == 0.5


@pytest.mark.parametrize(('beta', 'learns'), [('1.0', 5), ('0.0', 10)])
def test_centroids_are_the_means_of_their_nodes_until_the_divergence_counts(beta, learns):
  found = followed(10, method__clusters='4', method__beta=beta, method__warm_up='0.5', train__steps='10')
  for done, (z, centroids, after, learned, _) in enumerate(found):
    centroids = z[:4] if done == 0 else centroids
    nearest = np.square(z[:, None] - centroids).sum(-1).argmin(1)
    means = [z[nearest == k].mean(0) if (nearest == k).any() else centroids[k] for k in range(4)]
    np.testing.assert_allclose(after, means if done < learns else centroids, rtol=1e-5, atol=1e-6)
    assert (learned == 0).all() == (done < learns)


def test_neighbours_outside_of_a_batch_are_left_out():
  of = build(data__batch_size='8')
  (batch,) = tiny.batches(of, 1)
  rows, there = np.asarray(batch['index']), {int(i) for i in batch['index']}
  from contrastive_jax.methods import pam_c

  place, _ = pam_c._in_batch(batch, N)
  for neighbours, places in zip(np.asarray(batch['neighbour']), np.asarray(place), strict=True):
    for j, at in zip(neighbours, places, strict=True):
      assert at == -1 if j not in there else rows[at] == j


def test_data_without_a_graph_and_options_out_of_range_are_refused():
  with pytest.raises(Refusal, match="the data lack 'neighbour'"):
    setup.build(resolve.load(f'{tiny.ROOT}/configs/graph/pam_c.py:tiny', {'data.source.name': 'digits'})).check()
  with pytest.raises(Refusal, match='batch_size is 8'):
    build(data__batch_size='8', method__clusters='9').check()
  for option, message in {'contrast': 'unknown contrast', 'clusters': 'at least 2', 'warm_up': 'share'}.items():
    with pytest.raises(Refusal, match=message):
      build(**{f'method__{option}': {'contrast': 'all', 'clusters': '1', 'warm_up': '2.0'}[option]})
