import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from contrastive_jax.evals import knn
from contrastive_jax.types import Embedded, Refusal


def embedded(x, label):
  x = np.asarray(x, np.float32)
  return Embedded(x, -x, np.asarray(label, np.int32), np.arange(len(x), dtype=np.int32))


def closure(train, test):
  return lambda split, view=None: {'train': train, 'test': test}[split]


def clusters(n, classes=5, d=6, seed=0, spread=1.5):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes, n)
  centres = np.random.default_rng(99).standard_normal((classes, d))
  return (centres[label] + spread * rng.standard_normal((n, d))).astype(np.float32), label.astype(np.int32)


def brute_force(x, y, label, k, temperature):
  """Explicit votes: stable order of neighbours, sums by class, ties to the class of the nearest."""
  x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (np.asarray(x, np.float64), np.asarray(y, np.float64)))
  known = np.flatnonzero(label >= 0)
  out = []
  for cosine in x @ y[known].T:
    nearest = np.argsort(-cosine, kind='stable')[:k]
    votes = {}
    for j in nearest:
      votes[label[known[j]]] = votes.get(label[known[j]], 0) + np.exp((cosine[j] - cosine[nearest[0]]) / temperature)
    out.append(max(votes, key=votes.get))  # a dict keeps the order of insertion: the nearest comes first
  return np.asarray(out)


def predict(x, y, label, k, temperature):
  cosine, found = knn.neighbours(x, y, label, k=k)
  return np.asarray(knn.vote(cosine, found, np.float32(temperature)))


@pytest.mark.parametrize('n, m', [(37, 53), (1, 21), (130, 1)])
@pytest.mark.parametrize('k, temperature', [(1, 0.07), (7, 0.07), (20, 0.5), (20, 0.005)])
def test_predictions_equal_explicit_votes_for_ragged_sizes(n, m, k, temperature):
  (x, _), (y, label) = clusters(n, seed=1), clusters(m, seed=2)
  label[::6] = -1 if m > 1 else label[0]
  k = min(k, m)
  np.testing.assert_array_equal(predict(x, y, label, k, temperature), brute_force(x, y, label, k, temperature))


def test_ties_go_to_the_first_rows_and_then_to_the_class_of_the_nearest():
  # Axis-aligned rows: cosines are exactly -1, 0 or 1, so that nearly everything ties.
  rng = np.random.default_rng(4)
  x, y = (np.eye(3, dtype=np.float32)[rng.integers(0, 3, n)] * rng.choice([-1, 1], (n, 1)) for n in (40, 60))
  x, y, label = x.astype(np.float32), y.astype(np.float32), rng.integers(0, 4, 60).astype(np.int32)
  for k in (1, 2, 5, 30):
    np.testing.assert_array_equal(predict(x, y, label, k, 0.07), brute_force(x, y, label, k, 0.07))


def test_streamed_predictions_equal_explicit_votes_and_scikit_learn():
  # More than a million pairs: tiles, not one matrix.
  (x, truth), (y, label) = clusters(1001, seed=5), clusters(1103, seed=6)
  reference = KNeighborsClassifier(20, metric='cosine', algorithm='brute', weights=lambda d: np.exp((1 - d) / 0.07))
  expected = reference.fit(y, label).score(x, truth)
  np.testing.assert_array_equal(predict(x, y, label, 20, 0.07), brute_force(x, y, label, 20, 0.07))
  accuracy = knn.make().run(closure(embedded(y, label), embedded(x, truth)))['knn/accuracy']
  assert accuracy == pytest.approx(expected, abs=1e-6)
  assert 0.4 < accuracy < 0.6  # five classes


def test_accuracy_counts_labelled_test_rows_only():
  (x, truth), (y, label) = clusters(60, seed=7), clusters(90, seed=8)
  run = knn.make(k=5).run
  plain = run(closure(embedded(y, label), embedded(x[:40], truth[:40])))
  unknown = np.where(np.arange(60) < 40, truth, -1)
  assert run(closure(embedded(y, label), embedded(x, unknown))) == pytest.approx(plain)


def test_all_labelled_rows_vote_where_there_are_fewer_than_k():
  y = np.asarray([[1, 0], [1, 0.1], [0, 1], [1, 0]], np.float32)
  label = np.asarray([4, 4, 9, -1], np.int32)
  run = knn.make(k=50, temperature=100.0).run
  assert run(closure(embedded(y, label), embedded([[0, 1], [1, 0]], [4, 4])))['knn/accuracy'] == 1


def test_projection_is_read_when_asked_for():
  (x, truth), (y, label) = clusters(50, seed=9), clusters(80, seed=10)
  train = embedded(y, label)._replace(projection=np.zeros_like(y))
  features, projection = (knn.make(representation=r).run for r in ('features', 'projection'))
  split = closure(train, embedded(x, truth))
  assert features(split)['knn/accuracy'] > projection(split)['knn/accuracy']


@pytest.mark.slow
def test_sharded_rows_give_the_numbers_of_one_device(rows_sharding):
  (x, truth), (y, label) = clusters(1032, seed=11), clusters(1024, seed=12)
  train, test = embedded(y, label), embedded(x, truth)
  split = [e._replace(features=jax.device_put(e.features, rows_sharding)) for e in (train, test)]
  run = knn.make().run
  expected = run(closure(train, test))
  assert run(closure(*split)) == expected
  with jax.set_mesh(rows_sharding.mesh):  # a current mesh, with rows on it or on the host
    assert run(closure(*split)) == run(closure(train, test)) == expected


def test_no_matrix_of_all_pairs_is_made():
  n = 8192
  x, label = jax.ShapeDtypeStruct((n, 64), np.float32), jax.ShapeDtypeStruct((n,), np.int32)
  used = knn.neighbours.lower(x, x, label, k=20).compile().memory_analysis().temp_size_in_bytes
  assert used < 64 * 2**20  # the matrix is 256 MiB


def test_what_cannot_be_classified_is_refused():
  x, label = clusters(20)
  good, bad = embedded(x, label), embedded(x, np.full(20, -1))
  for split, name in ((closure(bad, good), 'train'), (closure(good, bad), 'test')):
    with pytest.raises(Refusal, match=f"knn evaluator needs labels, but no row of split '{name}'"):
      knn.make().run(split)
  with pytest.raises(Refusal, match='not finite'):
    knn.make().run(closure(embedded(x * np.inf, label), good))
  with pytest.raises(Refusal, match='k and temperature must be positive'):
    knn.make(k=0)
  with pytest.raises(Refusal, match="did you mean 'projection'"):
    knn.make(representation='projections')
