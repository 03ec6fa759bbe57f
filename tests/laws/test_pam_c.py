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
  for option, message in {'contrast': 'unknown contrast', 'clusters': 'at least 2', 'warm_up': 'share'}.items():
    with pytest.raises(Refusal, match=message):
      build(**{f'method__{option}': {'contrast': 'all', 'clusters': '1', 'warm_up': '2.0'}[option]})
