import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from contrastive_jax.evals import linear
from contrastive_jax.types import Embedded, Refusal


def embedded(x, label):
  x = np.asarray(x, np.float32)
  return Embedded(x, x, np.asarray(label, np.int32), np.arange(len(x), dtype=np.int32))


def closure(train, test):
  return lambda split, view=None: {'train': train, 'test': test}[split]


def random_features(seed=0, d=32):
  """Digits seen by one random layer, standardised, in random order."""
  rng = np.random.default_rng(seed)
  pixels, label = load_digits(return_X_y=True)
  x = np.maximum((pixels / 16 - 0.5) @ rng.standard_normal((64, d)), 0)
  order = rng.permutation(len(x))
  x, label = x[order], label[order].astype(np.int32)
  return ((x - x.mean(0)) / x.std(0)).astype(np.float32), label


def fit(x, label, l2, weight=None):
  start = np.zeros((x.shape[1] + 1, label.max() + 1), np.float32)
  weight = np.full(len(x), 1 / len(x), np.float32) if weight is None else weight
  probe, value = linear.solve(x, label, weight, np.float32(l2), start, np.float32(1e-4), max_iterations=1000)
  return np.asarray(probe, np.float64), float(value)


@pytest.mark.parametrize('l2', [1.0, 1e-2, 1e-4])
def test_probe_reaches_the_objective_and_the_predictions_of_scikit_learn(l2):
  x, label = random_features()
  train, test = slice(0, 1200), slice(1200, None)
  reference = LogisticRegression(C=1 / (l2 * 1200), tol=1e-8, max_iter=5000)
  reference.fit(x[train].astype(np.float64), label[train])
  minimum = log_loss(label[train], reference.predict_proba(x[train])) + l2 / 2 * np.square(reference.coef_).sum()
  probe, value = fit(x[train], label[train], l2)
  assert abs(value - minimum) < 1e-4
  predicted = (x[test] @ probe[:-1] + probe[-1]).argmax(1)
  assert abs((predicted == label[test]).mean() - reference.score(x[test], label[test])) < 0.003


def test_evaluator_reports_the_accuracies_of_scikit_learn_at_the_strength_it_chose():
  x, label = random_features()
  train, test = slice(0, 1200), slice(1200, None)
  scaled = x * np.linspace(0.01, 30, x.shape[1]) + 5  # the evaluator standardises by itself
  run = linear.make(strengths=(1.0, 1e-2, 1e-4)).run
  metrics = run(closure(embedded(scaled[train], label[train]), embedded(scaled[test], label[test])))
  assert set(metrics) == set(linear.GLOSSARY)
  mean, std = x[train].mean(0), x[train].std(0)
  reference = LogisticRegression(C=1 / (metrics['linear/l2'] * 1200), tol=1e-6, max_iter=2000)
  reference.fit((x[train] - mean) / std, label[train])
  assert abs(metrics['linear/accuracy'] - reference.score((x[test] - mean) / std, label[test])) < 0.003
  assert abs(metrics['linear/train_accuracy'] - reference.score((x[train] - mean) / std, label[train])) < 0.003


def test_chosen_strength_is_the_best_of_scikit_learn_on_the_held_out_rows():
  rng = np.random.default_rng(2)
  label = rng.integers(0, 3, 300)
  x = rng.standard_normal((300, 20)).astype(np.float32)
  x[:, :3] += 1.2 * np.eye(3)[label]
  strengths = (10.0, 1e-1, 1e-4)
  hold = linear.held_out(label, 0.2, seed=0)
  scores = {}
  for l2 in strengths:
    reference = LogisticRegression(C=1 / (l2 * (~hold).sum()), tol=1e-6, max_iter=5000).fit(x[~hold], label[~hold])
    scores[l2] = reference.score(x[hold], label[hold]), -log_loss(label[hold], reference.predict_proba(x[hold]))
  best = max(strengths, key=scores.__getitem__)
  split = embedded(x, label)
  chosen = linear.make(strengths=strengths, normalise='none').run(closure(split, split))['linear/l2']
  assert chosen == pytest.approx(best)
  assert best == 0.1


def test_one_strength_is_used_without_a_choice():
  x, label = random_features()
  split = embedded(x[:300], label[:300])
  assert linear.make(strengths=(0.3,)).run(closure(split, split))['linear/l2'] == pytest.approx(0.3)


@pytest.mark.parametrize('share', [0.1, 0.2, 0.37])
def test_every_class_gives_its_share_of_held_out_rows(share):
  rng = np.random.default_rng(2)
  label = rng.choice([-1, 0, 1, 5], 400, p=[0.1, 0.6, 0.2, 0.1])
  hold = linear.held_out(label, share, seed=3)
  assert not hold[label == -1].any()
  for c in (0, 1, 5):
    assert abs(hold[label == c].sum() - share * (label == c).sum()) < 1
  np.testing.assert_array_equal(hold, linear.held_out(label, share, seed=3))
  assert (hold != linear.held_out(label, share, seed=4)).any()


def test_rows_without_a_label_change_nothing():
  x, label = random_features()
  train, test = embedded(x[:260], label[:260]), embedded(x[260:400], label[260:400])
  noise = 100 * np.random.default_rng(0).standard_normal((40, x.shape[1]))

  def with_unknown(e):
    return embedded(np.concatenate([noise, e.features]), np.concatenate([np.full(40, -1), e.label]))

  run = linear.make(strengths=(1e-2,)).run
  assert run(closure(with_unknown(train), with_unknown(test))) == pytest.approx(run(closure(train, test)), abs=1e-6)


def test_class_numbers_may_have_gaps_and_a_class_never_trained_on_is_a_mistake():
  rng = np.random.default_rng(3)
  label = rng.choice([3, 70], 80)
  x = rng.standard_normal((80, 4)) + 10 * (label[:, None] == 3)
  test_label = label.copy()
  test_label[:20] = [5, 99, 0, 4] * 5
  metrics = linear.make().run(closure(embedded(x, label), embedded(x, test_label)))
  assert metrics['linear/train_accuracy'] == 1
  assert metrics['linear/accuracy'] == pytest.approx(0.75)


def test_constant_features_are_harmless():
  x, label = random_features()
  run = linear.make(strengths=(1e-2,)).run
  absent, constant = x[:300].copy(), x[:300].copy()
  absent[:, :4], constant[:, :4] = 0, 0.1
  constant[-1, :4] = np.nextafter(np.float32(0.1), 1)  # rounding, which must not be blown up to unit variance
  split = [closure(embedded(f, label[:300]), embedded(f, label[:300])) for f in (absent, constant)]
  assert run(split[1]) == pytest.approx(run(split[0]), abs=1e-6)


def test_unit_normalisation_ignores_the_length_of_rows():
  x, label = random_features()
  x, label = x[:300], label[:300]
  run = linear.make(strengths=(1e-3,), normalise='unit').run
  long = embedded(x * np.random.default_rng(0).uniform(0.1, 10, (300, 1)), label)
  assert run(closure(long, long)) == pytest.approx(run(closure(embedded(x, label), embedded(x, label))), abs=1e-6)


@pytest.mark.slow
def test_sharded_rows_give_the_numbers_of_one_device(rows_sharding):
  x, label = random_features()
  train, test = embedded(x[:304], label[:304]), embedded(x[304:464], label[304:464])
  run = linear.make(strengths=(1e-1, 1e-3)).run
  split = [e._replace(features=jax.device_put(e.features, rows_sharding)) for e in (train, test)]
  assert run(closure(*split)) == pytest.approx(run(closure(train, test)), abs=1e-6)


def test_what_cannot_be_probed_is_refused():
  x, label = random_features()
  good = embedded(x[:50], label[:50])
  run = linear.make().run
  with pytest.raises(Refusal, match="linear evaluator needs labels, but no row of split 'test'"):
    run(closure(good, embedded(x[:50], np.full(50, -1))))
  with pytest.raises(Refusal, match='two classes or more'):
    run(closure(embedded(x[:50], np.zeros(50)), good))
  with pytest.raises(Refusal, match='leaves one side empty'):
    run(closure(embedded(x[:2], [0, 1]), good))
  with pytest.raises(Refusal, match="features of split 'train' contain values that are not finite"):
    run(closure(embedded(np.where(x[:50] > 1, np.nan, x[:50]), label[:50]), good))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'normalise': 'standart'}, "did you mean 'standard'"),
    ({'representation': 'feature'}, "did you mean 'features'"),
    ({'strengths': (1.0, 0.0)}, 'strengths must be one or more positive numbers'),
    ({'strengths': ()}, 'strengths must be one or more positive numbers'),
    ({'holdout': 1.0}, 'holdout must lie between 0 and 1'),
    ({'max_iterations': 0}, 'must be positive'),
    ({'seed': -1}, 'seed must be at least 0'),
  ],
)
def test_options_out_of_range_are_refused(options, message):
  with pytest.raises(Refusal, match=message):
    linear.make(**options)
