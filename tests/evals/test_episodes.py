"""Few-shot episodes and optimal transport of prototypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from contrastive_jax import losses
from contrastive_jax.evals import episodes
from contrastive_jax.types import Embedded, Refusal


def clusters(n=300, classes=6, d=8, seed=0, spread=1.0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes, n)
  centres = np.random.default_rng(99).standard_normal((classes, d)) * 2
  return (centres[label] + spread * rng.standard_normal((n, d))).astype(np.float32), label.astype(np.int32)


def closure(x, label):
  test = Embedded(x, x, label, np.arange(len(x), dtype=np.int32))
  return lambda split, view=None: test


def plan(support, query, eps, iterations=2000):
  """Log-domain Sinkhorn in float64, both marginals uniform."""
  cost = np.square(support[:, None] - query[None]).sum(-1)
  logits, v = -cost / cost.max() / eps, np.zeros(len(query))
  for _ in range(iterations):
    u = -np.log(len(support)) - np.logaddexp.reduce(logits + v, axis=1)
    v = -np.log(len(query)) - np.logaddexp.reduce(logits + u[:, None], axis=0)
  return np.exp(logits + u[:, None] + v)


@pytest.mark.parametrize('passes', [1, 5])
def test_opta_is_what_transport_by_brute_force_makes_of_prototypes(passes):
  rng = np.random.default_rng(0)
  support, query = rng.normal(size=(5, 6)), rng.normal(size=(40, 6))
  found = episodes.opta(jnp.float32(support), jnp.float32(query), passes=passes)
  for _ in range(passes):
    moves = plan(support, query, 0.05)
    support = moves @ query / moves.sum(1, keepdims=True)
  np.testing.assert_allclose(found, support, atol=2e-3)


def test_the_plan_of_opta_has_uniform_marginals():
  rng = np.random.default_rng(1)
  square = np.square(rng.normal(size=(40, 1, 6)) - rng.normal(size=(5, 6))).sum(-1)
  shares = np.asarray(losses.sinkhorn(jnp.float32(-square / square.max()), eps=0.05, iterations=100)) / 40
  np.testing.assert_allclose(shares.sum(1), np.full(40, 1 / 40), rtol=1e-5)
  np.testing.assert_allclose(shares.sum(0), np.full(5, 1 / 5), rtol=1e-3)


def test_opta_of_queries_that_are_the_prototypes_is_the_identity_as_eps_vanishes():
  support = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4)), jnp.float32)
  np.testing.assert_allclose(episodes.opta(support, support, eps=1e-3), support, atol=1e-5)
  assert np.abs(episodes.opta(support, support, eps=1.0) - support).max() > 0.1


def test_rows_are_standardised_without_bias():
  x = np.random.default_rng(0).normal(2, 3, (4, 9)).astype(np.float32)
  want = (x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True)
  np.testing.assert_allclose(episodes.standardised(jnp.asarray(x)), want, rtol=1e-4, atol=1e-5)


def test_an_episode_has_rows_of_different_classes_and_none_twice():
  _, label = clusters()
  rows = episodes.draw(label, ways=4, each=9, episodes=20, seed=0)
  assert rows.shape == (20, 4, 9)
  for episode in rows:
    classes = label[episode]
    assert (classes == classes[:, :1]).all() and len(np.unique(classes[:, 0])) == 4
    assert len(np.unique(episode)) == 36
  np.testing.assert_array_equal(rows, episodes.draw(label, ways=4, each=9, episodes=20, seed=0))
  assert (rows != episodes.draw(label, ways=4, each=9, episodes=20, seed=1)).any()


def by_numpy(x, rows, shots, classify):
  x = (x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True)
  right = []
  for episode in rows:
    query, truth = x[episode[:, 5:]].reshape(-1, x.shape[1]), np.repeat(np.arange(len(episode)), rows.shape[2] - 5)
    right.append((classify(x[episode[:, :shots]].mean(1), query) == truth).mean())
  return np.mean(right)


def nearest(prototypes, query):
  return np.square(prototypes[:, None] - query).sum(-1).argmin(0)


def logistic(prototypes, query):
  return LogisticRegression(C=1.0, max_iter=1000).fit(prototypes, np.arange(len(prototypes))).predict(query)


@pytest.mark.parametrize('shots', episodes.SHOTS)
@pytest.mark.parametrize(('name', 'classify'), [('prototypes', nearest), ('logistic', logistic)])
def test_accuracies_are_those_of_explicit_episodes(shots, name, classify):
  x, label = clusters()
  rows = episodes.draw(label, ways=5, each=15, episodes=12, seed=0)
  found = episodes.accuracy(jnp.asarray(x), rows, shots=shots, classifier=name, transport=False)
  assert abs(float(found) - by_numpy(np.float64(x), rows, shots, classify)) < 0.003


def test_transport_helps_where_one_known_row_is_far_from_the_middle_of_its_class():
  found = episodes.make(episodes=100).run(closure(*clusters(spread=1.6)))
  assert set(found) == set(episodes.GLOSSARY)
  assert found['episodes/1_shot_opta'] > found['episodes/1_shot'] + 0.03
  assert found['episodes/5_shot'] > found['episodes/1_shot']


def test_rows_split_over_eight_devices_score_the_same(rows_sharding):
  x, label = clusters(320)
  alone = episodes.make(episodes=30).run(closure(x, label))
  shared = episodes.make(episodes=30).run(closure(jax.device_put(x, rows_sharding), label))
  for name, value in alone.items():
    assert abs(shared[name] - value) < 0.002


def test_too_few_rows_and_bad_options_are_refused():
  x, label = clusters(60)
  with pytest.raises(Refusal, match='episodes need 5 classes of at least 20 test rows'):
    episodes.make().run(closure(x, label))
  with pytest.raises(Refusal, match="did you mean 'prototypes'"):
    episodes.make(classifier='prototype')
  with pytest.raises(Refusal, match='ways must be at least 2'):
    episodes.make(ways=1)
