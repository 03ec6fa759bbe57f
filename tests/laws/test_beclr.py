"""The method with a clustered memory: its loss, its memories, and when neighbours join the batch."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import resolve
from contrastive_jax.memory import clustered_queue
from contrastive_jax.methods import beclr
from contrastive_jax.types import Refusal

NAME = 'ssl/beclr'
SIZE = 256  # of the memory: four batches of both views


@functools.cache
def run(**overrides):
  return tiny.run(NAME, train__steps='1000', **({'method__memory_epochs': '1'} | overrides))


def features_of(of, state):
  (batch,) = tiny.batches(of, 1)
  views = tiny.views(of)(batch, np.int32(0))
  features, _ = of.method.encode(state.params, state.state, views, key=jax.random.key(0), step=0, train=True)
  return features


def loss_of(of, state, features, step):
  return of.method.loss(state.params, state.state, features, {}, key=jax.random.key(0), step=step)


def sides(features):
  return {name: jnp.swapaxes(losses.unit(features[name]), 0, 1) for name in beclr.SIDES}


def clustered(of, state, features):
  """The state after the memories have filled and clusters were found."""
  while not all(int(bank.pushed) == SIZE for bank in state.state['memory'].values()):
    state = state._replace(state=loss_of(of, state, features, 0).state)
  step = of.info.steps_per_epoch
  new = of.method.refresh(state.params, state.state, None, key=jax.random.key(1), step=step)
  return state._replace(state=new)


def by_hand(p, z, target):
  """The loss of unit rows [2, B, d], in float64."""
  p, z, target = (np.float64(x) for x in (p, z, target))
  s = np.einsum('vid,wjd->viwj', z, z)
  b = z.shape[1]
  each = [
    np.mean([np.exp(s[v, i, w, j] / 2) for w in range(2) for j in range(b) if j != i])
    for v in range(2)
    for i in range(b)
  ]
  positive = ((p[0] * target[1]).sum(-1).mean() + (p[1] * target[0]).sum(-1).mean()) / 2
  return -positive + 0.1 * np.log(np.mean(each))


def test_without_neighbours_it_is_byol_and_a_term_of_uniformity():
  of = run(method__neighbours='0')
  state = tiny.fresh(of)
  assert of.method.refresh is None and 'memory' not in state.state
  features = features_of(of, state)
  out, given = loss_of(of, state, features, 0), sides(features)
  np.testing.assert_allclose(out.loss, by_hand(*(given[n] for n in ('prediction', 'projection', 'target'))), rtol=1e-5)
  regression = losses.normalized_mse(given['prediction'][0], given['target'][1]).mean()
  regression += losses.normalized_mse(given['prediction'][1], given['target'][0]).mean()
  np.testing.assert_allclose(out.metrics['positive_similarity'], 1 - regression / 4, rtol=1e-5)


def test_before_its_epoch_the_memory_fills_and_changes_no_loss():
  of, without = run(), run(method__neighbours='0')
  state = tiny.fresh(of)
  features = features_of(of, state)
  ready = clustered(of, state, features)
  for each in (state, ready):
    out = loss_of(of, each, features, 0)
    assert out.metrics['neighbours_used'] == 0
    np.testing.assert_allclose(out.loss, loss_of(without, tiny.fresh(without), features, 0).loss, rtol=1e-6)


def test_neighbours_of_each_kind_join_the_batch_by_rank():
  of = run()
  state = tiny.fresh(of)
  features = features_of(of, state)
  ready = clustered(of, state, features)
  out, given = loss_of(of, ready, features, of.info.steps_per_epoch), sides(features)
  assert out.metrics['neighbours_used'] == 1
  grown = {}
  for name, rows in given.items():
    bank = out.state['memory'][name]  # after this batch has gone in
    values, labels = np.asarray(bank.queue.values), np.asarray(bank.labels)
    cluster = np.asarray(rows @ losses.unit(bank.prototypes).T).argmax(-1)
    found = np.zeros((2, 5, *rows.shape[1:]))
    for v, i in np.ndindex(rows.shape[:2]):
      similarity = values @ np.asarray(rows[v, i])
      own = np.flatnonzero(labels == cluster[v, i])
      among = own if len(own) >= 5 else np.arange(SIZE)
      found[v, :, i] = values[among[np.argsort(-similarity[among], kind='stable')[:5]]]
    grown[name] = np.concatenate([rows, found.reshape(2, -1, rows.shape[2])], axis=1)
  want = by_hand(*(grown[n] for n in ('prediction', 'projection', 'target')))
  np.testing.assert_allclose(out.loss, want, rtol=1e-4)


@pytest.mark.parametrize('seed', range(3))
def test_by_default_a_batch_of_512_on_one_side_uses_each_of_32_prototypes_a_quarter_to_twice_as_often_as_alike(seed):
  defaults = inspect.signature(beclr.make).parameters
  options = {name: defaults[name].default for name in ('eps', 'iterations')}
  of_bank, of_rows, of_side = jax.random.split(jax.random.key(seed), 3)
  bank = clustered_queue.init(of_bank, 1024, 16, num_clusters=32)
  side = losses.unit(jax.random.normal(of_side, (16,)))
  z = losses.unit(side + losses.unit(jax.random.normal(of_rows, (512, 16))))
  label = np.asarray(beclr.assigned(bank, z, **options))
  distance = np.linalg.norm(np.asarray(z)[:, None] - np.asarray(losses.unit(bank.prototypes)), axis=-1)
  loads, nearest = (np.bincount(each, minlength=32) for each in (label, distance.argmin(1)))
  assert loads.min() >= 16 / 4 and loads.max() <= 16 * 2
  assert nearest.min() == 0 and nearest.max() > 16 * 4  # as without optimal transport
  assert distance[np.arange(512), label].mean() < distance.mean() - 0.2


def test_clusters_are_found_when_the_queue_is_full_and_not_before():
  of = run(method__every_epochs='4')
  state, step = tiny.fresh(of), of.info.steps_per_epoch
  features = features_of(of, state)
  refresh = functools.partial(of.method.refresh, state.params, embed_all=None, key=jax.random.key(0))
  assert tiny.same_bits(refresh(state.state, step=step), state.state)
  ready = clustered(of, state, features).state
  assert all(int(bank.clustered) for bank in ready['memory'].values())
  assert tiny.same_bits(refresh(ready, step=2 * step), ready)
  assert not tiny.same_bits(refresh(ready, step=4 * step), ready)


def test_the_teacher_and_the_memory_get_no_gradient():
  of = run()
  state = tiny.fresh(of)
  features = features_of(of, state)
  ready = clustered(of, state, features)

  def objective(features):
    return loss_of(of, ready, features, of.info.steps_per_epoch).loss

  gradients = jax.grad(objective)(features)
  assert not np.asarray(gradients['target']).any()
  assert np.asarray(gradients['prediction']).any() and np.asarray(gradients['projection']).any()
  # Neighbours are constants on both sides of the positives, so these weigh a sixth of what they do without.
  alone = jax.grad(lambda f: loss_of(of, ready, f, 0).loss)(features)
  np.testing.assert_allclose(gradients['prediction'], alone['prediction'] / 6, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize('size', ['32', '64'])
def test_a_memory_of_no_more_than_the_views_of_a_batch_is_refused(size):
  with pytest.raises(Refusal, match=f'memory_size={size} must hold more than the embeddings of a batch'):
    tiny.run(NAME, method__memory_size=size).check()
  tiny.run(NAME, method__memory_size='65').check()


def test_neighbours_that_would_join_after_the_end_of_the_run_are_refused():
  per_epoch = run().info.steps_per_epoch
  of_two = dict(method__memory_epochs='2')
  with pytest.raises(Refusal, match=f'memory_epochs=2 are {2 * per_epoch} steps, but the run has {2 * per_epoch}, so'):
    tiny.run(NAME, **of_two, train__steps=str(2 * per_epoch))
  tiny.run(NAME, **of_two, train__steps=str(2 * per_epoch + 1))
  tiny.run(NAME, **of_two, method__neighbours='0')  # two steps


@pytest.mark.parametrize('setting', ['small', 'fashion_mnist', 'cifar10', 'imagenet'])
def test_in_every_setting_the_memory_outlasts_a_batch_and_neighbours_join_in_the_first_fifth(setting):
  config = resolve.load(f'{tiny.ROOT}/configs/{NAME}.py:{setting}')
  batches = 2 if setting == 'small' else 4
  assert config.method.memory_size >= batches * 2 * config.data.batch_size
  assert config.method.memory_epochs <= config.train.epochs / 5


def test_a_period_of_no_epochs_is_refused():
  with pytest.raises(Refusal, match='every_epochs must be at least 1'):
    tiny.run(NAME, method__every_epochs='0')
