"""CACR in both forms against brute force, and the limits that its weights imply."""

import itertools

import autograd
import autograd.numpy as anp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import TILES, assert_close, weighted
from autograd.tracer import getval
from compiling import jit

from contrastive_jax import losses


def views(v, b=7, seed=0):
  rows = np.random.default_rng([seed, v, b]).normal(size=(v, b, 5))
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


# --- brute force in float64 ---


def square(a, b):
  return anp.sum((a - b) ** 2)


def weighted_mean(costs, sharpness, constant):
  """Mean of the costs under weights exp(sharpness * cost)."""
  fixed = [getval(each) for each in costs] if constant else costs
  weights = [anp.exp(getval(sharpness) * each if constant else sharpness * each) for each in fixed]
  return sum(w * each for w, each in zip(weights, costs, strict=True)) / sum(weights)


def cacr(z, t_pos, t_neg, alpha, beta, tau_plus=None, stop_weights=False):
  names, values = range(len(z)), []
  pairs = list(itertools.combinations(names, 2))
  for i in range(z.shape[1]):
    attraction = sum(
      weighted_mean([square(z[v, i], z[w, i]) for w in names if w != v], t_pos, stop_weights) for v in names
    )
    repulsion = 0.0
    for v, w in pairs:
      costs = [square(z[v, i], z[w, j]) for j in range(z.shape[1]) if j != i]
      near = -beta * weighted_mean(costs, -t_neg, stop_weights)
      if tau_plus is not None:
        near = (near - tau_plus * square(z[v, i], z[w, i])) / (1 - tau_plus)
      repulsion = repulsion + near
    values.append(alpha * attraction / len(z) + repulsion / len(pairs))
  return anp.stack(values)


def cacr_momentum(z, y, temperature, cost='rbf', queue=()):
  values, keys = [], getval(y)
  tau = getval(temperature)
  for i in range(z.shape[1]):
    weights = [np.exp(np.sum((getval(z[v, i]) - keys[i]) ** 2) / tau) for v in range(len(z))]
    value = 0.0
    for v in range(len(z)):
      share = weights[v] / sum(weights)
      negatives = [keys[j] for j in range(len(keys)) if j != i] + list(queue)
      if cost == 'rbf':
        logits = [anp.dot(z[v, i], k) / temperature for k in [keys[i], *negatives]]
        value = value + share * 2 * temperature * (anp.log(sum(anp.exp(each) for each in logits)) - logits[0])
      else:
        costs = [1 - anp.dot(z[v, i], k) for k in negatives]
        value = value + share * (1 - anp.dot(z[v, i], keys[i]) - weighted_mean(costs, -1 / tau, True))
    values.append(value)
  return anp.stack(values)


def check(loss, reference, learnable, tolerance=1e-9):
  with jax.enable_x64(True):
    got_values, got = jit(
      lambda a: (loss(**a), jax.grad(lambda a: weighted(loss(**a), jnp))(a)),
    )({k: jnp.asarray(v, jnp.float64) for k, v in learnable.items()})
  assert_close(got_values, reference(**learnable), tolerance)
  want = autograd.grad(lambda a: weighted(reference(**a), anp))(learnable)
  assert_close(got, want, tolerance)


@pytest.mark.turns(3)
@pytest.mark.parametrize('stop_weights', [False, True])
@pytest.mark.parametrize('tau_plus', [None, 0.1])
@pytest.mark.parametrize('v', [2, 4])
def test_cacr_equals_brute_force_in_value_and_in_every_gradient(v, tau_plus, stop_weights):
  given = dict(tau_plus=tau_plus, stop_weights=stop_weights)
  check(
    lambda **a: losses.cacr(**a, **given, fold=losses.chunked(3, 4)),
    lambda **a: cacr(**a, **given),
    dict(z=views(v), t_pos=1.3, t_neg=0.9, alpha=1.5, beta=0.7),
  )


@pytest.mark.turns(2)
@pytest.mark.parametrize('cost', ['rbf', 'euclidean'])
@pytest.mark.parametrize('queued', [False, True])
def test_the_momentum_form_equals_brute_force_in_value_and_in_every_gradient(cost, queued):
  queue = views(1, 9, seed=2)[0] if queued else None
  learnable = dict(z=views(3), y=views(1, seed=1)[0], temperature=0.4)
  check(
    lambda **a: losses.cacr_momentum(**a, cost=cost, queue=None if queue is None else jnp.asarray(queue)),
    lambda **a: cacr_momentum(**a, cost=cost, queue=() if queue is None else queue),
    learnable,
  )


@pytest.mark.parametrize('v', [2, 4])
def test_float32_in_every_fold_is_as_near_to_brute_force_as_rounding_allows(v):
  learnable = dict(z=views(v), t_pos=1.0, t_neg=2.0, alpha=1.0, beta=1.0)
  want = cacr(**learnable)
  for fold in ('dense', 'chunked'):
    got = jit(lambda a, fold=fold: losses.cacr(**a, fold=TILES[fold]))(
      {k: jnp.asarray(x, jnp.float32) for k, x in learnable.items()}
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


# --- limits ---


def parts(z, **options):
  """Attraction and repulsion alone."""
  z = jnp.asarray(z, jnp.float32)
  loss = jit(lambda z, t_pos, t_neg, alpha, beta: losses.cacr(z, t_pos=t_pos, t_neg=t_neg, alpha=alpha, beta=beta))
  sharp = dict(t_pos=1.0, t_neg=1.0) | options
  return loss(z, **sharp, alpha=1.0, beta=0.0), loss(z, **sharp, alpha=0.0, beta=1.0)


def distances(z):
  """[V, W, B, B] squared distances between view V of an instance and view W of another."""
  return np.square(z[:, None, :, None] - z[None, :, None, :]).sum(-1)


def test_uniform_weights_give_mean_distances():
  z = views(4)
  apart, b = distances(z), 7
  attraction, repulsion = parts(z, t_pos=0.0, t_neg=0.0)
  pairs = list(itertools.combinations(range(4), 2))
  own = np.einsum('vwii->vwi', apart)
  np.testing.assert_allclose(attraction, own.sum((0, 1)) / 12, rtol=1e-5)
  others = [(apart[v, w].sum(1) - own[v, w]) / (b - 1) for v, w in pairs]
  np.testing.assert_allclose(repulsion, -np.mean(others, 0), rtol=1e-5)


def test_sharp_weights_give_the_farthest_positive_and_the_nearest_negative():
  z = views(4)
  apart = distances(z)
  attraction, repulsion = parts(z, t_pos=300.0, t_neg=300.0)
  own = np.einsum('vwii->vwi', apart)
  np.testing.assert_allclose(attraction, own.max(1).mean(0), rtol=1e-2)
  hidden = apart + 10 * np.eye(7)
  nearest = [hidden[v, w].min(1) for v, w in itertools.combinations(range(4), 2)]
  np.testing.assert_allclose(repulsion, -np.mean(nearest, 0), rtol=1e-2)


def test_two_views_attract_alike_whatever_the_sharpness():
  z = views(2)
  want = np.square(z[0] - z[1]).sum(-1)
  for t_pos in (0.0, 1.0, 50.0):
    np.testing.assert_allclose(parts(z, t_pos=t_pos)[0], want, rtol=1e-5)


def test_sharper_weights_raise_attraction_and_repulsion():
  each = [parts(views(4), t_pos=t, t_neg=t) for t in (0.0, 0.5, 2.0, 8.0)]
  for low, high in itertools.pairwise(each):
    for a, b in zip(low, high, strict=True):
      assert (b > a + 1e-4).all()


def test_values_stay_between_their_bounds():
  z = views(3, 20)
  opposite = np.stack([z[0], -z[0], z[0]])
  for rows in (z, opposite, np.broadcast_to(z[:1, :1], z.shape)):
    attraction, repulsion = parts(rows)
    assert (attraction > -1e-5).all() and (attraction < 4 + 1e-5).all()
    assert (repulsion > -4 - 1e-5).all() and (repulsion < 1e-5).all()
  np.testing.assert_allclose(parts(opposite, t_pos=100.0)[0], np.full(20, 4), rtol=1e-5)


@pytest.mark.slow
def test_the_correction_of_no_false_negatives_changes_nothing():
  z = jnp.asarray(views(3), jnp.float32)
  np.testing.assert_allclose(losses.cacr(z, tau_plus=0.0), losses.cacr(z), rtol=1e-6)


def test_constant_weights_change_gradients_and_not_values():
  z = jnp.asarray(views(3), jnp.float32)

  def both(stop_weights):
    return jit(jax.value_and_grad(lambda z: losses.cacr(z, stop_weights=stop_weights).mean()))(z)

  (a, of_a), (b, of_b) = both(False), both(True)
  np.testing.assert_allclose(a, b, rtol=1e-6)
  assert np.abs(of_a - of_b).max() > 1e-3


@pytest.mark.parametrize('t_neg', [0.0, 1e-3])
def test_constant_weights_of_hardly_any_sharpness_are_exact(t_neg):
  z = jnp.asarray(views(3), jnp.float32)

  def loss(z, t):
    return losses.cacr(z, t_neg=t, stop_weights=True).mean()

  value, gradient = jit(jax.value_and_grad(loss))(z, t_neg)
  np.testing.assert_allclose(value, cacr(views(3), 1.0, t_neg, 1.0, 1.0).mean(), atol=1e-6)
  want = autograd.grad(lambda z: anp.mean(cacr(z, 1.0, t_neg, 1.0, 1.0, stop_weights=True)))(views(3))
  np.testing.assert_allclose(gradient, want, atol=1e-6)


LOSSES = {
  'weights with gradient': lambda z: losses.cacr(z),
  'constant weights': lambda z: losses.cacr(z, stop_weights=True),
  'rbf': lambda z: losses.cacr_momentum(z, z[0], cost='rbf'),
  'euclidean': lambda z: losses.cacr_momentum(z, z[0], cost='euclidean'),
}


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', LOSSES)
def test_coinciding_rows_and_one_instance_have_finite_gradients(name):
  same = jnp.broadcast_to(jnp.asarray(views(1)[0, 0], jnp.float32), (3, 4, 5))
  for z in (same, jnp.asarray(views(3, 1), jnp.float32)):
    got = jit(jax.value_and_grad(lambda z: LOSSES[name](z).sum()))(z)
    assert all(np.isfinite(x).all() for x in got)


# --- the momentum form ---


def test_one_query_view_of_the_rbf_form_is_info_nce_times_twice_the_temperature():
  x, y = jnp.asarray(views(2), jnp.float32)
  want = 2 * 0.4 * losses.info_nce(x, y, temperature=0.4)
  np.testing.assert_allclose(losses.cacr_momentum(x[None], y, temperature=0.4), want, rtol=1e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize('cost', ['rbf', 'euclidean'])
def test_keys_and_queue_have_no_gradient(cost):
  z, (y, queue) = jnp.asarray(views(2), jnp.float32), jnp.asarray(views(2, seed=3), jnp.float32)
  gradient = jax.grad(lambda y, queue: losses.cacr_momentum(z, y, cost=cost, queue=queue).sum(), (0, 1))(y, queue)
  assert not any(np.any(g) for g in gradient)


@pytest.mark.turns(2)
@pytest.mark.parametrize('cost', ['rbf', 'euclidean'])
def test_the_weights_of_the_query_views_favour_the_farthest_and_have_no_gradient(cost):
  z, y = jnp.asarray(views(3), jnp.float32), jnp.asarray(views(1, seed=1)[0], jnp.float32)
  each = np.stack([losses.cacr_momentum(z[v : v + 1], y, temperature=0.5, cost=cost) for v in range(3)])
  weights = jax.nn.softmax(jnp.square(z - y).sum(-1) / 0.5, axis=0)
  np.testing.assert_allclose(
    losses.cacr_momentum(z, y, temperature=0.5, cost=cost), (weights * each).sum(0), rtol=1e-4, atol=1e-5
  )
  assert (weights.argmax(0) == np.square(z - y).sum(-1).argmax(0)).all()


@pytest.mark.turns(2)
@pytest.mark.parametrize('cost', ['rbf', 'euclidean'])
def test_a_queue_of_the_batchs_own_negatives_in_two_parts_equals_the_whole(cost):
  z, y = jnp.asarray(views(2), jnp.float32), jnp.asarray(views(1, seed=1)[0], jnp.float32)
  whole = losses.cacr_momentum(z, y, cost=cost)
  part = losses.cacr_momentum(z[:, :3], y[:3], cost=cost, queue=y[3:])
  np.testing.assert_allclose(part, whole[:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda z: losses.cacr(z[:1]), 'V >= 2 views are needed'),
    (lambda z: losses.cacr(z, t_neg=-1.0), 't_neg must be >= 0, but it is -1.0'),
    (lambda z: losses.cacr(z, tau_plus=1.0), r'tau_plus must lie in \[0, 1\), but it is 1.0'),
    (lambda z: losses.cacr_momentum(z, z[0, :3]), 'must have as many rows'),
    (lambda z: losses.cacr_momentum(z, z[0], cost='rfb'), "unknown cost 'rfb'; did you mean 'rbf'"),
    (lambda z: losses.cacr_momentum(z, z[0], temperature=0.0), 'temperature must be > 0'),
  ],
)
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.asarray(views(2), jnp.float32))
