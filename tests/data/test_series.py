"""Views of series."""

import compiling
import jax
import numpy as np
import pytest

from contrastive_jax.data import views
from contrastive_jax.types import Refusal

NONE = dict(scaling=0.0, shift=0.0, jitter=0.0)
X = np.float32(3 + 2 * np.random.default_rng(0).standard_normal((12, 2)))
PLAIN = (X - [3, 1]) / [2, 4]


def drawn(count=400, **options):
  """Views of one series, `[n, t, f]`."""
  made = views.series(mean=(3.0, 1.0), std=(2.0, 4.0), **NONE | options)
  return np.asarray(
    compiling.jit(jax.vmap(lambda key: made.augment(key, X)))(jax.random.split(jax.random.key(1), count))
  )


def test_without_any_spread_a_view_is_the_normalised_series():
  np.testing.assert_allclose(drawn(3), np.broadcast_to(PLAIN, (3, 12, 2)), rtol=1e-5, atol=1e-6)
  made = views.series(mean=(3.0, 1.0), std=(2.0, 4.0))
  np.testing.assert_allclose(made.plain(X), PLAIN, rtol=1e-5, atol=1e-6)


def test_scaling_is_one_factor_of_a_feature_and_shift_one_offset():
  factor = drawn(scaling=0.5, chance=1.0) / PLAIN
  offset = drawn(shift=0.3, chance=1.0) - PLAIN
  for draws, mean, spread in ((factor, 1.0, 0.5), (offset, 0.0, 0.3)):
    np.testing.assert_allclose(draws, np.broadcast_to(draws[:, :1], draws.shape), atol=2e-4)
    first = draws[:, 0]
    np.testing.assert_allclose(first.mean(0), mean, atol=0.15 * spread)
    np.testing.assert_allclose(first.std(0), spread, rtol=0.15)
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.15


def test_jitter_is_noise_of_every_step():
  noise = drawn(jitter=0.4, chance=1.0) - PLAIN
  np.testing.assert_allclose(noise.std(), 0.4, rtol=0.05)
  neighbours = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())
  assert abs(neighbours[0, 1]) < 0.05


def test_a_vector_is_a_series_of_one_step():
  of_vector = views.series(mean=(3.0, 1.0), std=(2.0, 4.0), **NONE | dict(jitter=0.4), chance=1.0)
  keys = jax.random.split(jax.random.key(1), 2000)
  noise = compiling.jit(jax.vmap(lambda key: of_vector.augment(key, X[0])))(keys) - PLAIN[0]
  np.testing.assert_allclose(np.std(noise, axis=0), 0.4, rtol=0.1)
  assert abs(np.corrcoef(np.transpose(noise))[0, 1]) < 0.1


def test_each_of_the_three_is_left_out_by_a_chance_of_its_own():
  changed = [(np.abs(drawn(chance=0.3, **{name: 1.0}) - PLAIN) > 1e-4).any((1, 2)) for name in NONE]
  np.testing.assert_allclose(np.mean(changed, axis=1), 0.3, atol=0.08)
  both = np.mean(changed[0] & changed[1])
  assert 0.04 < both < 0.16  # 0.09 where they are independent, 0.3 where they are one draw


def test_impossible_options_are_refused():
  for options in ({'jitter': -0.1}, {'chance': 1.5}):
    with pytest.raises(Refusal, match=next(iter(options))):
      drawn(**options)
  with pytest.raises(Refusal, match='image_size=8 is of images'):
    drawn(image_size=8)
