"""Dilated convolutions over time."""

import jax
import numpy as np
import pytest

from contrastive_jax.models import dilated
from contrastive_jax.types import Refusal

SMALL = dict(width=4, depth=2, features=6)


def made(steps=40, **options):
  encoder = dilated.make(**SMALL | options)
  x = np.float32(np.random.default_rng(0).standard_normal((3, steps, 2)))
  return encoder, *encoder.init(jax.random.key(0), x), x


def test_features_are_the_maximum_over_time_of_the_map_at_any_length():
  encoder, params, stats, x = made()
  for steps in (40, 7, 1):
    features, _ = encoder.apply(params, stats, x[:, :steps])
    every_step, _ = encoder.map(params, stats, x[:, :steps])
    assert every_step.shape == (3, steps, 6)
    np.testing.assert_allclose(features, every_step.max(1), rtol=1e-6)


def test_a_step_sees_as_far_as_its_dilations_reach_and_no_farther():
  encoder, params, stats, x = made()
  slope = jax.grad(lambda x: encoder.map(params, stats, x)[0][0, 20].sum())(x)
  seen = np.flatnonzero(np.abs(slope[0]).sum(-1))
  reach = 2 * (1 + 2 + 4)  # two convolutions in each of three blocks
  np.testing.assert_array_equal(seen, np.arange(20 - reach, 20 + reach + 1))
  assert not slope[1:].any()


def test_what_is_no_series_and_no_size_is_refused():
  encoder, params, stats, x = made()
  with pytest.raises(Refusal, match=r'series \[b, t, f\]'):
    encoder.apply(params, stats, x[..., 0])
  with pytest.raises(Refusal, match='depth'):
    dilated.make(depth=0)
