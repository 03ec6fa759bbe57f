"""Regression of targets and preferences of rewards."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from contrastive_jax.evals import preferences, targets
from contrastive_jax.types import Embedded, Refusal


def embed_of(train, test):
  """`embed` of (features, target) pairs."""

  def embed(split, view=None):
    x, y = (np.float32(each) for each in {'train': train, 'test': test}[split])
    return Embedded(x, x, np.full(len(x), -1, np.int32), np.arange(len(x), dtype=np.int32), target=y)

  return embed


def linear(seed, n, noise=0.1):
  rng, truth = np.random.default_rng(seed), np.random.default_rng(0).standard_normal((6, 3))
  x = rng.standard_normal((n, 6)) * np.array([100, 1, 1, 1, 1, 0.01]) + 5
  return x, (x - 5) / [100, 1, 1, 1, 1, 0.01] @ truth + noise * rng.standard_normal((n, 3))


def test_regression_equals_that_of_scikit_learn():
  train, test = linear(1, 300, noise=1.0), linear(2, 200, noise=1.0)
  scores = targets.make(strengths=(0.1,)).run(embed_of(train, test))
  mean, std = train[0].mean(0), train[0].std(0)
  ridge = Ridge(alpha=0.1 * 300).fit((train[0] - mean) / std, train[1])
  apart = ridge.predict((test[0] - mean) / std) - test[1]
  assert set(scores) == set(targets.GLOSSARY)
  assert scores['targets/mse'] == pytest.approx(np.square(apart).mean(), rel=1e-3)
  assert scores['targets/mae'] == pytest.approx(np.abs(apart).mean(), rel=1e-3)
  assert scores['targets/error'] == pytest.approx((np.square(apart).mean(0) / test[1].var(0)).mean(), rel=1e-3)


def test_halves_do_not_look_at_the_training_split():
  test = linear(2, 200)
  runs = [targets.make(fitted_on='halves').run(embed_of(linear(seed, 30), test)) for seed in (1, 3)]
  assert runs[0] == runs[1]
  assert runs[0]['targets/r2'] > 0.98


def test_noise_and_constant_features_tell_nothing():
  (x, y), rng = linear(1, 400), np.random.default_rng(5)
  nothing = rng.standard_normal((400, 50))
  nothing[:, 0] = 7.0
  scores = targets.make(fitted_on='halves').run(embed_of((x, y), (nothing, y)))
  assert -0.3 < scores['targets/r2'] < 0.1
  scores = targets.make(fitted_on='halves').run(embed_of((x, y), (np.full((400, 3), 2.5), y)))
  assert scores['targets/error'] == pytest.approx(1.0, abs=0.05)


def test_the_strength_is_chosen_by_held_out_rows():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((40, 30))
  y, new = x[:, :1] + 2 * rng.standard_normal((40, 1)), rng.standard_normal((500, 30))
  error = {
    each: targets.make(strengths=each).run(embed_of((x, y), (new, new[:, :1])))['targets/error']
    for each in ((1e-4,), (1.0,), (1e-4, 1.0))
  }
  assert error[1e-4, 1.0] == error[1.0,] < error[1e-4,]


def test_no_backend_may_round_the_products_of_the_regression():
  x, y = (np.float32(each) for each in linear(1, 30))
  text = targets.predict.lower(x, y, np.ones(30, bool), x, 0.1).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line]
  assert len(products) >= 6 and all('precision = [HIGHEST, HIGHEST]' in line for line in products)


def test_no_row_is_compared_with_itself():
  y = np.random.default_rng(0).standard_normal((4, 3))  # two rows to predict
  scores = preferences.make(rewards=200).run(embed_of((y, y), (np.ones((4, 2)), y)))
  assert abs(scores['preferences/accuracy@100'] - 0.5) < 0.05  # what never changes tells nothing


def test_preferences_are_told_by_the_features_and_not_by_noise():
  _, y = linear(2, 400)
  rng = np.random.default_rng(3)
  run = preferences.make().run
  told, guessed = run(embed_of((y, y), (y, y))), run(embed_of((y, y), (rng.standard_normal((400, 8)), y)))
  assert set(told) == set(preferences.GLOSSARY)
  assert 0.7 < told['preferences/accuracy@10'] < told['preferences/accuracy@100']
  assert told['preferences/accuracy@100'] > 0.93
  assert abs(guessed['preferences/accuracy@100'] - 0.5) < 0.05


def test_the_fit_of_preferences_equals_that_of_scikit_learn():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 50, 4))
  preferred = np.einsum('rnd,d->rn', x, [1.0, -2, 0.5, 0]) + rng.standard_normal((2, 50)) > 0
  found = preferences.fit(x, preferred, 0.7)
  for each, of_one, wanted in zip(found, x, preferred, strict=True):
    reference = LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-10, max_iter=1000).fit(of_one, wanted)
    np.testing.assert_allclose(each, reference.coef_[0], rtol=1e-4)


def test_data_without_targets_and_impossible_options_are_refused():
  x = np.ones((8, 2), np.float32)
  bare = Embedded(x, x, np.zeros(8, np.int32), np.arange(8))
  for evaluator in (targets, preferences):
    with pytest.raises(Refusal, match="no field 'target'"):
      evaluator.make().run(lambda split: bare)
  with pytest.raises(Refusal, match='halves'):
    targets.make(fitted_on='half')
  with pytest.raises(Refusal, match='strengths'):
    targets.make(strengths=())
  with pytest.raises(Refusal, match='must be positive'):
    preferences.make(numbers=(0,))
