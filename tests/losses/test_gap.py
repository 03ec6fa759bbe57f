"""The contrastive gap: its loss against brute force, its limits, and the metrics of the gap."""

import math

import autograd
import autograd.numpy as anp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_close
from compiling import jit

from contrastive_jax import losses
from contrastive_jax.evals import gap


def sides(b=7, d=5, seed=0):
  rows = np.random.default_rng([seed, b, d]).normal(size=(2, b, d))
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def potential(x, y, t, pairs, normaliser):
  return anp.log(sum(anp.exp(-t * anp.sum((x[i] - y[j]) ** 2)) for i, j in pairs) / normaliser)


def reference(x, y, temperature, t, align=1.0, uniform=1.0, cross=1.0, pair_mean=False):
  n = len(x)
  logits = anp.dot(x, y.T) / temperature
  both = anp.log(anp.sum(anp.exp(logits), 1)) + anp.log(anp.sum(anp.exp(logits), 0))
  clip = both / 2 - anp.diag(logits)
  every = [(i, j) for i in range(n) for j in range(n)]
  other = [(i, j) for i, j in every if i != j]
  of_all, of_other = (len(every), len(other)) if pair_mean else (n, n)
  spread = (potential(x, x, t, every, of_all) + potential(y, y, t, every, of_all)) / 2
  across = potential(x, y, t, other, of_other)
  return clip + align * anp.sum((x - y) ** 2, 1) + uniform * spread + cross * across


@pytest.mark.turns(2)
@pytest.mark.parametrize('pair_mean', [False, True])
def test_the_loss_equals_brute_force_in_value_and_in_every_gradient(pair_mean):
  x, y = sides()
  learnable = dict(x=x, y=y, temperature=0.3, t=2.5)
  weights = dict(align=1.5, uniform=0.7, cross=0.4)

  def of_loss(a):
    given = dict(align_weight=1.5, uniform_weight=0.7, cross_weight=0.4, pair_mean=pair_mean)
    values = losses.clip_with_geometry(**a, **given, fold=losses.chunked(3, 4))
    return (values * jnp.arange(1.0, 8.0)).sum(), values

  def of_reference(a):
    return anp.sum(reference(**a, **weights, pair_mean=pair_mean) * np.arange(1.0, 8.0))

  with jax.enable_x64(True):
    arrays = {k: jnp.asarray(v, jnp.float64) for k, v in learnable.items()}
    (_, values), got = jit(jax.value_and_grad(of_loss, has_aux=True))(arrays)
  assert_close(values, reference(**learnable, **weights, pair_mean=pair_mean), 1e-9)
  assert_close(got, autograd.grad(of_reference)(learnable), 1e-9)


def masked(x, y, x_mask, y_mask, pair_mean):
  """The reference of sides of which some rows do not exist."""
  pairs = anp.flatnonzero(x_mask & y_mask)
  logits = anp.dot(x, y.T) / 0.3
  to_y = anp.log(anp.sum(anp.exp(logits) * y_mask, 1))
  to_x = anp.log(anp.sum(anp.exp(logits) * x_mask[:, None], 0))
  clip = (to_y + to_x) / 2 - anp.diag(logits)
  values = clip + 1.5 * anp.sum((x - y) ** 2, 1)
  for side, mask in ((x, x_mask), (y, y_mask)):
    there = anp.flatnonzero(mask)
    of_all = len(there) ** 2 if pair_mean else len(there)
    values = values + 0.35 * potential(side, side, 2.5, [(i, j) for i in there for j in there], of_all)
  other = [(i, j) for i in anp.flatnonzero(x_mask) for j in anp.flatnonzero(y_mask) if i != j]
  values = values + 0.4 * potential(x, y, 2.5, other, len(other) if pair_mean else x_mask.sum())
  return anp.sum(values[pairs] * np.arange(1.0, 8.0)[pairs])


@pytest.mark.turns(2)
@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(3, 4)])
@pytest.mark.parametrize('pair_mean', [False, True])
@pytest.mark.parametrize('equal', [False, True])
def test_with_masks_the_loss_equals_brute_force_of_the_rows_that_exist(equal, pair_mean, fold):
  x, y = sides()
  x_mask = np.array([1, 1, 0, 1, 1, 0, 1], bool)
  y_mask = x_mask if equal else np.array([0, 1, 1, 1, 1, 1, 1], bool)

  def of_loss(xy):
    given = dict(align_weight=1.5, uniform_weight=0.7, cross_weight=0.4, pair_mean=pair_mean, t=2.5, temperature=0.3)
    values = losses.clip_with_geometry(*xy, **given, x_mask=x_mask, y_mask=y_mask, fold=fold)
    return (values * jnp.arange(1.0, 8.0)).sum(), values

  with jax.enable_x64(True):
    arrays = tuple(jnp.asarray(side, jnp.float64) for side in (x, y))
    (value, values), got = jit(jax.value_and_grad(of_loss, has_aux=True))(arrays)
  np.testing.assert_array_equal(values != 0, x_mask & y_mask)
  assert_close(value, masked(x, y, x_mask, y_mask, pair_mean), 1e-9)
  assert_close(got, autograd.grad(lambda xy: masked(*xy, x_mask, y_mask, pair_mean))((x, y)), 1e-9)


def test_rows_that_do_not_exist_are_left_out():
  x, y = (jnp.asarray(side, jnp.float32) for side in sides())
  kept = np.array([0, 2, 3, 6])
  mask = np.isin(np.arange(7), kept)
  far = [side.at[np.array([1, 4, 5])].set(30.0) for side in (x, y)]
  got = losses.clip_with_geometry(*far, temperature=0.2, x_mask=mask, y_mask=mask)
  np.testing.assert_allclose(got[kept], losses.clip_with_geometry(x[kept], y[kept], temperature=0.2), rtol=1e-5)
  np.testing.assert_array_equal(got[~mask], 0)
  np.testing.assert_allclose(losses.uniformity(far[0], x_mask=mask), losses.uniformity(x[kept]), rtol=1e-5)


@pytest.mark.parametrize('count', [0, 1])
def test_without_two_rows_that_exist_there_is_no_uniformity_and_no_gradient_of_it(count):
  x, y = (jnp.asarray(side, jnp.float32) for side in sides())
  mask = np.arange(7) < count
  assert losses.uniformity(x, x_mask=mask) == 0
  assert losses.cross_uniformity(x, y, x_mask=mask, y_mask=mask) == 0
  for pair_mean in (False, True):
    given = dict(temperature=0.2, x_mask=mask, y_mask=mask, pair_mean=pair_mean)
    loss = jit(jax.value_and_grad(lambda x, given=given: losses.clip_with_geometry(x, y, **given).sum()))
    value, gradient = loss(x)
    np.testing.assert_allclose(value, (jnp.square(x - y).sum(-1) * mask).sum(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, 2 * (x - y) * mask[:, None], rtol=1e-5, atol=1e-6)


def test_masks_of_another_shape_or_kind_are_refused():
  x, y = (jnp.asarray(side, jnp.float32) for side in sides())
  for call in (losses.cross_uniformity, losses.clip_with_geometry):
    with pytest.raises(ValueError, match='y_mask must have one entry an instance'):
      call(x, y, y_mask=np.ones(6, bool))
  with pytest.raises(ValueError, match='x_mask must be boolean'):
    losses.uniformity(x, x_mask=np.ones(7))


def test_cross_uniformity_equals_brute_force_and_of_one_side_is_uniformity():
  x, y = (jnp.asarray(side, jnp.float32) for side in sides())
  other = [(i, j) for i in range(7) for j in range(7) if i != j]
  want = potential(*sides(), 2, other, len(other))
  np.testing.assert_allclose(losses.cross_uniformity(x, y), want, rtol=1e-5)
  np.testing.assert_allclose(losses.cross_uniformity(x, x, t=3.0), losses.uniformity(x, t=3.0), rtol=1e-5)


def test_without_weights_the_loss_is_clip():
  x, y = (jnp.asarray(side, jnp.float32) for side in sides())
  got = losses.clip_with_geometry(x, y, temperature=0.2, align_weight=0.0, uniform_weight=0.0, cross_weight=0.0)
  np.testing.assert_array_equal(got, losses.symmetric_info_nce(x, y, temperature=0.2))


def spread(rows, *, pair_mean=False):
  """The uniformity in the loss alone."""
  given = dict(temperature=0.2, align_weight=0.0, cross_weight=0.0, pair_mean=pair_mean)
  each = losses.clip_with_geometry(rows, rows, uniform_weight=1.0, **given)
  return (each - losses.symmetric_info_nce(rows, rows, temperature=0.2)).mean()


@pytest.mark.turns(2)
@pytest.mark.parametrize('n', [5, 32])
def test_equal_rows_have_the_uniformity_log_n_and_none_with_a_mean_over_pairs(n):
  rows = jnp.broadcast_to(jnp.asarray(sides()[0, 0], jnp.float32), (n, 5))
  np.testing.assert_allclose(spread(rows), math.log(n), rtol=1e-5)
  np.testing.assert_allclose(spread(rows, pair_mean=True), 0, atol=1e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize('n', [4, 16])
def test_orthogonal_rows_have_their_closed_uniformity(n):
  np.testing.assert_allclose(spread(jnp.eye(n)), math.log(1 + (n - 1) * math.exp(-4)), rtol=1e-4)


def test_the_normaliser_shifts_values_and_leaves_gradients():
  x, y = (jnp.asarray(side, jnp.float32) for side in sides())

  def both(pair_mean):
    loss = jit(jax.value_and_grad(lambda x: losses.clip_with_geometry(x, y, pair_mean=pair_mean).mean()))
    return loss(x)

  (a, of_a), (b, of_b) = both(False), both(True)
  np.testing.assert_allclose(a - b, math.log(7) + math.log(6), rtol=1e-4)
  np.testing.assert_allclose(of_a, of_b, rtol=1e-5, atol=1e-5)


def test_one_pair_is_refused():
  x = jnp.ones((1, 3))
  for call in (losses.cross_uniformity, losses.clip_with_geometry):
    with pytest.raises(ValueError, match='B >= 2'):
      call(x, x)


# --- metrics ---


def towers(shift, n=200, d=16):
  """Two noisy copies of one cloud, the second moved."""
  random = np.random.default_rng(0)
  cloud = random.normal(size=(n, d))
  noise = 0.5 * random.normal(size=(2, n, d))
  return [jnp.asarray(side, jnp.float32) for side in (cloud + noise[0], cloud + noise[1] + shift * np.eye(d)[0])]


def test_equal_towers_have_no_gap():
  x, _ = towers(0.0)
  found = gap.modality_gap(x, x)
  assert found['gap/separability'] == 0.5
  assert found['gap/centroid_distance'] == 0 and found['gap/alignment'] == 0
  np.testing.assert_allclose(found['gap/uniformity'], found['gap/cross_uniformity'], rtol=1e-4)


def test_a_tower_that_moves_away_becomes_separable_and_its_centroid_distant():
  near, far = gap.modality_gap(*towers(0.0)), gap.modality_gap(*towers(20.0))
  assert 0.3 < near['gap/separability'] < 0.7 and far['gap/separability'] == 1
  assert near['gap/centroid_distance'] < 0.2 and far['gap/centroid_distance'] > 0.8


def test_the_centroid_distance_is_that_of_the_means_of_unit_rows():
  x, y = towers(2.0)
  means = [np.asarray(losses.unit(side), np.float64).mean(0) for side in (x, y)]
  np.testing.assert_allclose(gap.modality_gap(x, y)['gap/centroid_distance'], np.linalg.norm(means[0] - means[1]))


def test_every_metric_is_in_the_glossary():
  assert set(gap.modality_gap(*towers(1.0, n=20))) == set(gap.GLOSSARY)


def test_explained_variance_tells_of_the_directions_that_the_rows_fill():
  random = np.random.default_rng(0)
  flat = random.normal(size=(50, 2)) @ random.normal(size=(2, 6)) + 3
  shares = gap.explained_variance(flat)
  assert shares[0] < 0.99 and shares.shape == (6,)
  np.testing.assert_allclose(shares[1:], 1)
  isotropic = np.concatenate([np.eye(4), -np.eye(4)])
  np.testing.assert_allclose(gap.explained_variance(isotropic), [0.25, 0.5, 0.75, 1])
  np.testing.assert_array_equal(gap.explained_variance(np.ones((3, 2))), [1, 1])


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda x: gap.modality_gap(x, x[:3]), 'must have as many rows'),
    (lambda x: gap.modality_gap(x[:4], x[:4]), '5 or more are needed, but there are 4'),
    (lambda x: gap.modality_gap(x, x, seed=-1), 'seed must be at least 0'),
  ],
)
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(towers(0.0, n=10)[0])
