"""Queries about paths: what they hold and who answers them."""

import numpy as np
import pytest

from contrastive_jax.data import paths, sources
from contrastive_jax.types import Refusal


def whole(**options):
  source = sources.paths(**{'queries': 200, 'test_queries': 100, **options})
  return source, source.read(np.arange(source.num_examples))


def seen(batch):
  """Features of the three paths of each query, standardised as the answerer sees them."""
  raw = {name: paths.features(np.float64(batch[name])) for name in ('series', 'partner', 'odd')}
  # The field `target` holds those of the first: an affine map of them, which the other two share.
  slope, shift = zip(*(np.polyfit(raw['series'][:, k], batch['target'][:, k], 1) for k in range(4)), strict=True)
  np.testing.assert_allclose(raw['series'] * slope + shift, batch['target'], atol=1e-4)
  return [raw[name] * slope + shift for name in raw]


def test_without_noise_the_two_that_are_alike_are_nearest_in_the_true_features():
  _, batch = whole()
  p, q, odd = seen(batch)
  near, *far = (np.linalg.norm(a - b, axis=1) for a, b in ((p, q), (p, odd), (q, odd)))
  assert (near <= np.minimum(*far) + 1e-4).all()


def test_noise_makes_some_answers_wrong_and_much_of_it_all_pairs_alike():
  share = []
  for noise in (0.3, 1e6):
    p, q, odd = seen(whole(noise=noise)[1])
    near, *far = (np.linalg.norm(a - b, axis=1) for a, b in ((p, q), (p, odd), (q, odd)))
    share.append((near < np.minimum(*far)).mean())
  assert 0.6 < share[0] < 0.97
  assert 0.2 < share[1] < 0.47


def test_paths_lie_in_the_square_and_their_features_are_no_linear_function_of_them():
  _, batch = whole(queries=2000)
  assert np.abs(batch['series']).max() <= 1
  x = np.c_[batch['series'].reshape(2000, -1), np.ones(2000)]
  solution = np.linalg.lstsq(x, batch['target'], rcond=None)[0]
  left = np.square(x @ solution - batch['target']).mean(0) / batch['target'].var(0)
  assert (left > 0.1).all()


def test_features_of_a_straight_path_are_known():
  path = np.stack([np.linspace(-1, 1, 9), np.full(9, -0.4)], axis=1)
  length, near, far, low = paths.features(path)
  np.testing.assert_allclose([length, far, low], [2.0, 0.0, 0.6], atol=1e-12)
  assert near == pytest.approx(np.maximum(0.8 - np.hypot(path[:, 0] - 0.4, 0.7), 0).mean())


def test_a_seed_makes_the_same_queries_and_more_of_them_start_with_the_fewer():
  few, many = whole(queries=50)[1], whole(queries=200)[1]
  for name in ('series', 'partner', 'odd', 'target'):
    np.testing.assert_array_equal(few[name], many[name][:50])
  other, test = whole(seed=1)[1], whole(split='test')[1]
  assert not np.array_equal(other['series'], many['series'])
  assert not np.isin(test['series'][:, 0, 0], many['series'][:, 0, 0]).any()


def test_impossible_options_are_refused():
  for options in ({'queries': 0}, {'points': 1}, {'noise': -1.0}, {'seed': -1}, {'split': 'half'}):
    with pytest.raises(Refusal, match=str(next(iter(options)))):
      sources.paths(**options)
