"""Prediction by the Fréchet mean: what it must return in cases that are known, and what it can never lose."""

import numpy as np
import pytest

from contrastive_jax.evals import loki
from contrastive_jax.types import Refusal


def posteriors(n, k, seed=0):
  return np.random.default_rng(seed).dirichlet(np.full(k, 0.5), n).astype(np.float32)


def predict(p, distances, **options):
  return np.asarray(loki.frechet(np.asarray(p, np.float32), np.asarray(distances, np.float32), **options))


def path(m):
  """A path of nodes 0 ... m - 1 as a tree."""
  return loki.tree_distances(tuple(range(-1, m - 1)))


@pytest.mark.parametrize('power', [1.0, 2.0])
def test_the_metric_of_equality_reproduces_the_likeliest_label(power):
  p = posteriors(50, 6)
  np.testing.assert_array_equal(predict(p, 1 - np.eye(6), power=power), p.argmax(1))


@pytest.mark.parametrize('distances', [path(5), 1 - np.eye(5)])
def test_a_certain_label_is_returned(distances):
  np.testing.assert_array_equal(predict(np.eye(5), distances), np.arange(5))


@pytest.mark.parametrize('edges', [2, 4, 6])
def test_half_the_mass_at_each_end_of_a_path_returns_the_unobserved_middle(edges):
  ends = path(edges + 1)[[0, edges]]
  assert predict([[0.5, 0.5]], ends).tolist() == [edges // 2]


def test_the_label_nearest_to_the_mean_position_is_returned():
  random = np.random.default_rng(2)
  observed, every = random.standard_normal((5, 3)), random.standard_normal((12, 3))
  p = posteriors(40, 5)
  distances = np.linalg.norm(observed[:, None] - every[None], axis=-1)
  want = np.linalg.norm((p @ observed)[:, None] - every[None], axis=-1).argmin(1)
  np.testing.assert_array_equal(predict(p, distances), want)
  assert len(set(want)) > 3


def test_under_the_true_posteriors_the_expected_squared_distance_is_never_above_that_of_the_likeliest():
  random = np.random.default_rng(3)
  distances = np.linalg.norm((z := random.standard_normal((7, 2)))[:, None] - z[None], axis=-1)
  p = posteriors(200, 7)
  risk = p @ distances**2
  mean, likeliest = (
    np.take_along_axis(risk, np.asarray(at)[:, None], 1) for at in (predict(p, distances), p.argmax(1))
  )
  assert (mean <= likeliest + 1e-6).all() and (mean < likeliest - 1e-3).any()


def test_with_half_of_the_labels_observed_the_squared_distance_falls():
  distances, random = path(9), np.random.default_rng(4)
  label = random.integers(0, 9, 400)
  observed = np.arange(0, 9, 2)
  p = np.exp(-2.0 * np.abs(label[:, None] + random.normal(0, 0.3, (400, 1)) - observed))
  p /= p.sum(1, keepdims=True)
  mean, likeliest = predict(p, distances[observed]), observed[p.argmax(1)]
  assert set(mean) - set(observed)
  squared = [loki.mean_squared_distance(each, label, distances) for each in (mean, likeliest)]
  assert squared[0] < 0.8 * squared[1]


def test_distances_of_a_tree_count_edges():
  parent = (-1, 0, 0, 1, 1, 2)
  want = [
    [0, 1, 1, 2, 2, 2],
    [1, 0, 2, 1, 1, 3],
    [1, 2, 0, 3, 3, 1],
    [2, 1, 3, 0, 2, 4],
    [2, 1, 3, 2, 0, 4],
    [2, 3, 1, 4, 4, 0],
  ]
  np.testing.assert_array_equal(loki.tree_distances(parent), want)
  assert np.isinf(loki.tree_distances((-1, -1))[0, 1])


def test_unknown_labels_do_not_count_in_the_squared_distance():
  assert loki.mean_squared_distance(np.array([0, 2, 1]), np.array([1, 0, -1]), path(3)) == 2.5


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (
      lambda: loki.frechet(np.ones((2, 3)), np.ones((2, 3))),
      r'\[n, k\] and \[k, m\] are needed.*\(2, 3\) and \(2, 3\)',
    ),
    (lambda: loki.tree_distances((1, 0)), 'node 0 is its own ancestor'),
    (lambda: loki.tree_distances((-1, 5)), 'must be one of the 2 nodes, or -1'),
  ],
)
def test_what_is_no_tree_and_does_not_fit_is_refused(call, message):
  with pytest.raises(Refusal, match=message):
    call()
