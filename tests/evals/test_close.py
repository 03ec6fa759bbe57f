"""Captions adapted to images: noise, shifts, and what they bring to a probe that only captions have trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captioned import Fixed, split, unit

from contrastive_jax.evals import close
from contrastive_jax.types import Refusal

KEY = jax.random.key(0)


def rows(n=50, d=16, seed=0):
  return jnp.asarray(unit(np.random.default_rng(seed).standard_normal((n, d))))


def test_without_noise_and_shift_unit_vectors_stay_what_they_are():
  t = rows()
  np.testing.assert_allclose(close.adapt(t, sigma=0.0), t, atol=1e-6)
  np.testing.assert_array_equal(close.adapt(t, train=False), t)


@pytest.mark.parametrize(('sigma', 'cosine'), [(0.04, 0.67), (0.08, 0.41), (0.12, 0.29)])
def test_noise_leaves_the_cosine_that_its_size_and_the_width_say(sigma, cosine):
  t = rows(400, 768)
  moved = close.adapt(t, KEY, sigma=sigma)
  np.testing.assert_allclose(jnp.linalg.norm(moved, axis=1), 1, rtol=1e-5)
  found = (moved * t).sum(1).mean()
  np.testing.assert_allclose(found, 1 / np.sqrt(1 + sigma**2 * 768), atol=0.01)
  np.testing.assert_allclose(found, cosine, atol=0.01)


def test_the_expected_squared_length_of_the_noise_is_its_variance_times_the_width():
  t, sigma, d = jnp.zeros((2000, 64)), 0.3, 64
  raw = sigma * jax.random.normal(KEY, t.shape)
  np.testing.assert_allclose(
    close.adapt(t, KEY, sigma=sigma), raw / jnp.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5
  )
  np.testing.assert_allclose(jnp.square(raw).sum(1).mean(), sigma**2 * d, rtol=0.02)


def test_a_whole_shift_makes_the_means_coincide_before_scaling():
  x, t = rows(), rows(seed=1) + 0.3
  shift = close.mean_shift(x, t)
  moved = close.adapt(t, shift=shift, train=False)
  np.testing.assert_allclose(moved.mean(0), x.mean(0), atol=1e-6)
  np.testing.assert_allclose(
    close.adapt(t, sigma=0.0, shift=shift), moved / jnp.linalg.norm(moved, axis=1, keepdims=True), rtol=1e-5
  )
  np.testing.assert_allclose(close.adapt(t, shift=shift, scale=0.5, train=False), t + shift / 2, rtol=1e-6)


def test_evaluation_has_no_noise_and_training_has_that_of_its_key():
  t, shift = rows(), rows(1, seed=2)[0]
  np.testing.assert_array_equal(
    close.adapt(t, KEY, shift=shift, train=False),
    close.adapt(t, jax.random.key(1), sigma=0.5, shift=shift, train=False),
  )
  a, b = (close.adapt(t, key, sigma=0.2) for key in (KEY, jax.random.key(1)))
  assert jnp.abs(a - b).max() > 0.01
  np.testing.assert_array_equal(a, close.adapt(t, KEY, sigma=0.2))


def transfer(gap, d=16):
  """Classes in a few directions, captions moved along another and with classes along a line of their own."""
  random = np.random.default_rng(0)
  centres = 0.9 * random.standard_normal((4, d))

  def one(n, seed):
    embedded = split(n=n, k=2, d=d, seed=seed)
    label = np.random.default_rng(seed).integers(0, 4, n).astype(np.int32)
    noise = np.random.default_rng([seed, 1]).standard_normal((2, n, d))
    x, t = centres[label] + 0.5 * noise
    # The gap has a part along the classes: it moves a decision until it is undone.
    t = t + gap * (centres[0] - centres[1])
    texts = np.stack([unit(t), unit(t)], 1)
    return embedded._replace(projection=unit(x), label=label, texts=embedded.texts._replace(projection=texts))

  return Fixed(train=one(300, 0), test=one(200, 1))


def test_a_shift_brings_a_probe_of_captions_to_images():
  given = transfer(gap=0.8)
  found = close.make(sigma=0.05).run(given)
  assert set(found) == set(close.GLOSSARY) == set(close.MORE_IS_BETTER)
  assert found['close/shift_accuracy'] > found['close/accuracy'] + 0.03
  assert all(type(v) is float and 0 <= v <= 1 for v in found.values())


def test_transfer_falls_where_the_noise_drowns_the_captions():
  given = transfer(gap=0.3)
  accuracy = {sigma: close.make(sigma=sigma).run(given) for sigma in (0.0, 20.0)}
  assert accuracy[0.0]['close/noise_accuracy'] == accuracy[0.0]['close/accuracy'] == accuracy[20.0]['close/accuracy']
  assert accuracy[20.0]['close/noise_accuracy'] < accuracy[0.0]['close/accuracy'] - 0.2


def test_a_transfer_guard_changes_nothing():
  given, evaluator = transfer(gap=0.3), close.make(strengths=(1e-2,))
  with jax.transfer_guard('disallow'):
    guarded = evaluator.run(given)
  assert guarded == evaluator.run(given)


def test_what_cannot_be_adapted_is_refused():
  with pytest.raises(Refusal, match='sigma must be at least 0'):
    close.adapt(rows(), KEY, sigma=-1.0)
  with pytest.raises(Refusal, match='noise needs a key'):
    close.adapt(rows(), sigma=0.1)
  with pytest.raises(Refusal, match='sigma must be at least 0'):
    close.make(sigma=-0.1)
  given = transfer(gap=0.3)
  with pytest.raises(Refusal, match="close evaluator needs captions, but split 'train' has none"):
    close.make().run(Fixed(train=given('train')._replace(texts=None), test=given('test')))
