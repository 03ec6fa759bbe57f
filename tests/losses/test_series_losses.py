"""Losses of time series and of learned augmentations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.types import Refusal


def normal(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).standard_normal(shape))


def mmd_by_loops(x, y):
  both = np.float64(np.concatenate([x, y]))
  squares = np.square(both[:, None] - both).sum(-1)
  width = squares[~np.eye(len(both), dtype=bool)].mean()
  kernel = sum(np.exp(-squares / (width * 2.0**power)) for power in range(-2, 3))
  b = len(x)
  return (kernel[:b, :b] + kernel[b:, b:] - kernel[:b, b:] - kernel[b:, :b]).mean()


def local_by_loops(h, start, segments):
  h = np.float64(h) / np.linalg.norm(np.float64(h), axis=2, keepdims=True)
  size, values = h.shape[1] // segments, np.zeros((len(h), segments))
  for b, series in enumerate(h):
    pooled = [series[start + s * size : start + (s + 1) * size].max(0) for s in range(segments)]
    for s in range(segments):
      out = {s - 1, s, s + 1} | ({2} if s == 0 else set()) | ({segments - 3} if s == segments - 1 else set())
      positive = np.exp(pooled[s] @ pooled[s + 1 if s < segments - 1 else s - 1])
      negatives = [np.exp(pooled[s] @ pooled[t]) for t in range(segments) if t not in out]
      assert len(negatives) == segments - 3
      values[b, s] = -np.log(positive / (positive + sum(negatives)))
  return values


def test_mmd_equals_its_definition_and_is_zero_of_a_batch_and_itself():
  x, y = normal(7, 4), normal(7, 4, seed=1) + 0.5
  np.testing.assert_allclose(losses.mmd_rbf(x, y), mmd_by_loops(x, y), rtol=1e-4)
  np.testing.assert_allclose(losses.mmd_rbf(x, x), 0, atol=1e-6)
  np.testing.assert_allclose(losses.mmd_rbf(x, x[::-1]), 0, atol=1e-6)
  assert np.isfinite(jax.grad(lambda x: losses.mmd_rbf(x, x * 0))(x * 0)).all()


def test_no_backend_may_round_the_products_of_mmd():
  text = jax.jit(losses.mmd_rbf).lower(normal(7, 4), normal(7, 4, seed=1)).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line]
  assert products and all('precision = [HIGHEST, HIGHEST]' in line for line in products)


def test_masks_lie_between_zero_and_one_with_mass_at_both_ends():
  logits = jnp.zeros(20_000)
  mask = losses.hard_concrete(logits, jax.random.key(0), stretch=0.2)
  assert mask.min() == 0 and mask.max() == 1
  # logit(epsilon) is logistic: soft * 1.4 - 0.2 < 0 where epsilon < 1 / 7.
  np.testing.assert_allclose([(mask == 0).mean(), (mask == 1).mean()], [1 / 7, 1 / 7], atol=0.01)
  assert ((losses.hard_concrete(logits, jax.random.key(0), stretch=0.0) % 1) > 0).all()


def test_rounded_masks_are_binary_with_the_gradient_of_those_that_are_not():
  logits, key = jnp.asarray(normal(50)), jax.random.key(1)
  hard, soft = (losses.hard_concrete(logits, key, rounded=rounded) for rounded in (True, False))
  np.testing.assert_array_equal(hard, jnp.round(soft))
  slopes = [jax.grad(lambda h, r=r: losses.hard_concrete(h, key, rounded=r).sum())(logits) for r in (True, False)]
  np.testing.assert_allclose(*slopes, rtol=1e-5)
  assert slopes[0].any()


@pytest.mark.parametrize(('steps', 'start', 'segments'), [(32, 0, 16), (37, 5, 16), (9, 1, 4)])
def test_local_loss_equals_its_definition(steps, start, segments):
  h = normal(3, steps, 6)
  found = losses.local_info_nce(h, start, segments=segments)
  np.testing.assert_allclose(found, local_by_loops(h, start, segments), rtol=1e-5)


def test_local_loss_of_constant_features_is_the_logarithm_of_fourteen():
  found = losses.local_info_nce(jnp.ones((2, 64, 5)))
  np.testing.assert_allclose(found, np.full((2, 16), np.log(14)), rtol=1e-5)


def test_roughness_pulls_neighbours_together_and_distant_steps_apart():
  h = np.abs(normal(2, 10, 3)) % 1
  near, far = np.array([2, 5, 8]), np.array([7, 1, 9])
  pairs = list(zip(near, far, strict=True))
  smooth = [abs(h[:, t] - h[:, t - 1]) + abs(h[:, t] - h[:, t + 1]) for t, _ in pairs]
  aim = [1 - abs(h[:, t] - h[:, s]) for t, s in pairs]
  released = [abs(h[:, t] - h[:, s]) if s > t + 1 else 1 - abs(h[:, t] - h[:, s]) for t, s in pairs]
  for flag, last in ((False, aim), (True, released)):
    want = np.mean([a + b for a, b in zip(smooth, last, strict=True)], axis=(0, 2))
    np.testing.assert_allclose(losses.mask_roughness(h, near, far, as_released=flag), want, rtol=1e-5)


def test_what_does_not_fit_is_refused():
  with pytest.raises(Refusal, match='segments must be from 4'):
    losses.local_info_nce(normal(2, 10, 3))
  with pytest.raises(Refusal, match='bias in'):
    losses.hard_concrete(normal(3), jax.random.key(0), bias=0.5)
  with pytest.raises(Refusal, match='as many rows'):
    losses.mmd_rbf(normal(3, 2), normal(4, 2))
  with pytest.raises(Refusal, match=r'h must be \[B, T, F\]'):
    losses.mask_roughness(normal(3, 2), np.array([1]), np.array([1]))
