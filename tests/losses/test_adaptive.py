"""AMCL's losses by brute force in float64, and what they imply."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.losses.adaptive import pair_temperature, temperature_penalty
from contrastive_jax.types import Refusal

LOW, HIGH = 1e-5, 2.0


def temperature(r):
  return LOW + (HIGH - LOW) / (1 + np.exp(r))


def penalty(tau, d):
  return d / 2 * np.log(tau) + 1 / tau


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def example(views=2, b=7, seed=0):
  random = np.random.default_rng(seed)
  return unit(random.normal(size=(views, b, 5))), random.normal(size=(views, b, 3))


def by_loops(z, phi, k, beta):
  """Of two views, anchor by anchor."""
  views, b, d = z.shape
  values = np.zeros((views, b))
  for v, i in np.ndindex(views, b):
    tau = temperature(phi[v, i] @ phi[1 - v, i])
    value = -z[v, i] @ z[1 - v, i] / tau + beta * penalty(tau, d)
    others = [(z[v, i] @ z[w, j], temperature(phi[v, i] @ phi[w, j])) for w in range(views) for j in range(b) if j != i]
    hardest = np.array(sorted(others, reverse=True)[:k])
    value += (hardest[:, 0] / hardest[:, 1]).mean()
    values[v, i] = value - beta * (np.log(hardest[:, 1]) + 1 / hardest[:, 1]).sum()
  return values


def nce(z, phi, **options):
  return losses.adaptive_nce(jnp.float32(z), jnp.float32(phi), **options)


@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(4, 5)], ids=['dense', 'chunked'])
@pytest.mark.parametrize('k', [1, 3, 100])
def test_adaptive_nce_equals_its_definition(k, fold):
  z, phi = example()
  np.testing.assert_allclose(nce(z, phi, topk=k, beta=0.01, fold=fold), by_loops(z, phi, k, 0.01), rtol=2e-5)


def test_the_gradient_is_that_of_finite_differences():
  z, phi = example()
  gradient = jax.grad(lambda p: nce(z, p, topk=3, beta=0.01).sum())(jnp.float32(phi))
  for place in ((0, 2, 1), (1, 5, 0)):
    step = np.zeros_like(phi)
    step[place] = 1e-5
    up, down = (by_loops(z, phi + sign * step, 3, 0.01).sum() for sign in (1, -1))
    np.testing.assert_allclose(gradient[place], (up - down) / 2e-5, rtol=1e-3)


@pytest.mark.parametrize('d', [2, 5, 128])
def test_the_cost_of_a_temperature_is_least_at_two_over_the_width(d):
  grid = np.geomspace(1e-3, 10, 40_001)
  found = grid[np.argmin(np.asarray([penalty(t, d) for t in grid]))]
  np.testing.assert_allclose(found, 2 / d, rtol=1e-3)
  np.testing.assert_allclose(jax.grad(lambda t: temperature_penalty(t, d))(2 / d), 0, atol=1e-2)


def test_a_temperature_lies_between_its_bounds_and_falls_with_the_product():
  r = jnp.linspace(-8, 8, 50)
  tau = pair_temperature(r, tau_min=0.1, tau_max=1.5)
  assert (jnp.diff(tau) < 0).all() and tau.min() > 0.1 and tau.max() < 1.5
  np.testing.assert_allclose(pair_temperature(jnp.zeros(()), tau_min=0.1, tau_max=1.5), 0.8, rtol=1e-6)


def test_the_temperature_of_a_positive_is_best_at_its_bound_unless_beta_exceeds_what_the_similarity_weighs():
  r, bounds = jnp.linspace(-6, 12, 20_001), dict(tau_min=1e-3, tau_max=2.0)
  tau = pair_temperature(r, **bounds)

  x, y = (jnp.broadcast_to(jnp.float32(each), (len(r), 8)) for each in ([1] + 7 * [0], [0.6, 0.8] + 6 * [0]))

  def best(beta):  # the similarity, 0.6, weighs a half
    return float(tau[jnp.argmin(losses.adaptive_mse(x, y, r[:, None], jnp.ones((len(r), 1)), beta=beta, **bounds))])

  assert best(1e-4) == best(0.3) == float(tau.min())
  assert best(1.0) == pytest.approx(2 * (1.0 - 0.3) / (1.0 * 8), rel=1e-2)


def test_of_one_constant_temperature_and_one_negative_it_is_the_limit_of_decoupled_contrast():
  z, phi = example()
  tau = 1.0 + LOW / 2  # of r = 0
  hardest = nce(z, np.zeros_like(phi), topk=1, beta=0.0) * tau
  for cold, tolerance in ((0.05, 0.15), (0.001, 3e-3)):
    np.testing.assert_allclose(cold * losses.decoupled(jnp.float32(z), temperature=cold), hardest, atol=tolerance)


def test_equal_similarities_are_all_chosen_and_gradients_stay_finite():
  z = np.broadcast_to(unit(np.ones(5)), (2, 7, 5))
  phi = example()[1]
  value, gradient = jax.value_and_grad(lambda p: nce(z, p, topk=3).sum())(jnp.float32(phi))
  assert jnp.isfinite(value) and jnp.isfinite(gradient).all() and (gradient != 0).any()


def test_half_precision_inputs_give_finite_values_in_float32():
  z, phi = (jnp.bfloat16(x) for x in example())
  values = losses.adaptive_nce(z, 30 * phi)
  assert values.dtype == jnp.float32 and jnp.isfinite(values).all()


@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(4, 5)], ids=['dense', 'chunked'])
@pytest.mark.parametrize('k', [2, 50])
def test_adaptive_queue_nce_equals_its_definition(k, fold):
  random = np.random.default_rng(1)
  x, y, queue = unit(random.normal(size=(6, 5))), unit(random.normal(size=(6, 5))), unit(random.normal(size=(9, 5)))
  phis = [random.normal(size=(n, 3)) for n in (6, 6, 9)]
  want = np.zeros(6)
  for i in range(6):
    tau = temperature(phis[0][i] @ phis[1][i])
    order = np.argsort(-queue @ x[i])[:k]
    taus = temperature(phis[2][order] @ phis[0][i])
    want[i] = -x[i] @ y[i] / tau + 0.01 * penalty(tau, 5) + (queue[order] @ x[i] / taus).mean()
    want[i] -= 0.01 * (np.log(taus) + 1 / taus).sum()
  given = (jnp.float32(each) for each in (x, y, queue, *phis))
  np.testing.assert_allclose(losses.adaptive_queue_nce(*given, topk=k, beta=0.01, fold=fold), want, rtol=2e-5)


def test_adaptive_mse_equals_its_definition():
  random = np.random.default_rng(2)
  x, y, a, b = (random.normal(size=(6, d)) for d in (5, 5, 3, 3))
  tau = temperature((a * b).sum(1))
  want = -(unit(x) * unit(y)).sum(1) / (2 * tau) + 0.01 * penalty(tau, 5)
  got = losses.adaptive_mse(*(jnp.float32(each) for each in (x, y, a, b)), beta=0.01)
  np.testing.assert_allclose(got, want, rtol=2e-5)


def correlations(x, y):
  x, y = ((each - each.mean(0)) / each.std(0, ddof=1) for each in (x, y))
  return x.T @ y / len(x)


def test_adaptive_cross_correlation_equals_its_definition():
  random = np.random.default_rng(3)
  x, y, a, b = random.normal(size=(8, 4)), random.normal(size=(8, 4)), *random.normal(size=(2, 4, 3))
  c, tau = correlations(x, y), temperature(a @ b.T)
  want = 0.0
  for i, j in np.ndindex(4, 4):
    cost = 0.01 * penalty(tau[i, j], 8)
    want += (1 - c[i, j] / tau[i, j]) ** 2 + cost if i == j else 0.3 * c[i, j] ** 2 / tau[i, j] - cost
  given = (jnp.float32(each) for each in (x, y, a, b))
  got = losses.adaptive_cross_correlation(*given, off_diagonal_weight=0.3, beta=0.01)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_identical_views_correlate_by_one_less_than_the_batch_over_the_batch():
  x = np.random.default_rng(4).normal(size=(8, 4))
  np.testing.assert_allclose(np.diag(correlations(x, x)), 7 / 8)
  only = dict(off_diagonal_weight=0.0, beta=0.0)
  got = losses.adaptive_cross_correlation(jnp.float32(x), jnp.float32(x), jnp.zeros((4, 3)), jnp.zeros((4, 3)), **only)
  np.testing.assert_allclose(got, 4 * (1 - 7 / 8 / (1 + LOW / 2)) ** 2, rtol=1e-4)


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    (dict(topk=0), 'topk must be a positive integer'),
    (dict(tau_min=0.0), 'tau_min must be > 0'),
    (dict(tau_min=3.0), 'tau_min must be below tau_max'),
  ],
)
def test_bounds_that_are_none_are_refused(options, said):
  with pytest.raises(Refusal, match=said):
    nce(*example(), **options)


def test_a_phi_of_other_instances_is_refused():
  z, phi = example()
  with pytest.raises(Refusal, match='same views and instances'):
    nce(z, phi[:, :3])
