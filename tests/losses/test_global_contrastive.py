"""SogCLR and iSogCLR of views: the official updates, and the identities of their papers."""

import functools
import math

import autograd
import global_references as references
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax import losses

V, B, D = 2, 9, 6
NEGATIVES = V * (B - 1)


def unit_rows(*shape, seed=0):
  rows = np.random.default_rng([seed, *shape]).normal(size=shape)
  return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def visited_rows(count=B, seed=0, **rows):
  """Rows of which some were visited, each with a temperature of its own."""
  random = np.random.default_rng(seed)
  state = losses.running(count, temperature=0.2)._replace(
    log_denominator=jnp.asarray(random.normal(size=count), jnp.float32),
    visited=jnp.asarray(random.random(count) < 0.6),
    temperature=jnp.asarray(random.uniform(0.1, 0.6, count), jnp.float32),
    momentum=jnp.asarray(random.normal(size=count) / 10, jnp.float32),
  )
  return state._replace(**rows)


@functools.cache
def compiled(name: str, **options):
  """(z, state) -> values, new state; and the gradient of the values' mean."""
  loss = functools.partial(getattr(losses, name), **options)

  def mean(z, state):
    values, state = loss(z, state)
    return values.mean(), (values, state)

  return jit(jax.value_and_grad(mean, has_aux=True))


def run(name, z, state, **options):
  (_, (values, state)), gradient = compiled(name, **options)(z, state)
  return jax.tree.map(np.asarray, (values, state, gradient))


def close(got, want, tolerance=1e-5):
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def positives(z):
  """Mean cosine of each anchor [V, B] with the other views of its instance."""
  z = np.float64(z)
  return (np.einsum('vbd,wbd->vb', z, z) - (z * z).sum(-1)) / (len(z) - 1)


def gradient_of_temperature(z, state, rho=0.0, gamma=1.0, **options):
  """That which a step of iSogCLR moves along: with a weight of 1 it is the new momentum."""
  return run('isog_clr', z, state, rho=rho, gamma=gamma, tau_beta=1.0, tau_clip=1e9, **options)[1].momentum


# --- the official update ---


@pytest.mark.parametrize('views', [2, 3])
def test_sog_clr_is_the_official_update_over_three_steps(views):
  state, s, visited = losses.running(B), np.zeros(B), np.zeros(B, bool)
  tau = np.full(B, 0.3)
  for step in range(3):
    z = unit_rows(views, B, D, seed=step)
    values, state, gradient = run('sog_clr', z, state, temperature=0.3, gamma=0.7)
    _, of_views, _ = references.of_views(np.float64(z), s, tau, 0.7, visited)
    surrogate = autograd.grad(lambda z, s=s, visited=visited: references.of_views(z, s, tau, 0.7, visited)[0].mean())
    close(gradient, surrogate(np.float64(z)))
    close(values, 0.3 * np.log(of_views) - positives(z))
    s, visited = of_views.mean(0), np.ones(B, bool)
    close(state.log_denominator, np.log(s))


def test_isog_clr_is_the_official_update_over_three_steps():
  state, s, visited = losses.running(B, temperature=0.2), np.zeros(B), np.zeros(B, bool)
  tau, momentum = np.full(B, 0.2), np.zeros(B)
  for step in range(3):
    z = unit_rows(V, B, D, seed=step)
    _, state, gradient = run('isog_clr', z, state, rho=0.4, gamma=0.7, tau_rate=0.1)
    surrogate = autograd.grad(
      lambda z, s=s, tau=tau, visited=visited: references.of_views(z, s, tau, 0.7, visited)[0].mean()
    )
    close(gradient, surrogate(np.float64(z)))
    _, of_views, of_tau = references.of_views(np.float64(z), s, tau, 0.7, visited)
    momentum = 0.5 * momentum + 0.5 * np.clip(of_tau.mean(0) + 0.4, -3, 3)
    tau = np.clip(tau - 0.1 * momentum, 0.05, 1)
    s, visited = of_views.mean(0), np.ones(B, bool)
    close(state.log_denominator, np.log(s))
    close(state.momentum, momentum)
    close(state.temperature, tau)
  assert tau.std() > 0.01


def test_values_are_the_objective_with_running_denominators():
  z, state = unit_rows(V, B, D), visited_rows()
  old = np.where(state.visited, np.exp(np.float64(state.log_denominator)), 0)
  tau = np.float64(state.temperature)
  _, of_views, _ = references.of_views(np.float64(z), old, tau, 0.8, np.asarray(state.visited))
  close(run('isog_clr', z, state, rho=0.4)[0], tau * (np.log(of_views) + 0.4) - positives(z))


def test_a_first_visit_takes_the_batch_itself_unless_it_starts_from_zero():
  z, fresh = unit_rows(V, B, D), losses.running(B)
  _, whole, first = run('sog_clr', z, fresh, gamma=1.0)
  _, state, gradient = run('sog_clr', z, fresh, gamma=0.25)
  close(state.log_denominator, whole.log_denominator)
  close(gradient, first)
  assert state.visited.all() and not fresh.visited.any()
  _, low, _ = run('sog_clr', z, fresh, gamma=0.25, from_zero=True)
  close(low.log_denominator, whole.log_denominator + math.log(0.25))


def test_weights_of_first_visits_from_zero_are_one_over_gamma_times_as_large():
  z, fresh = unit_rows(V, B, D), losses.running(B)
  gradients = [run('sog_clr', z, fresh, gamma=0.25, from_zero=from_zero)[2] for from_zero in (False, True)]
  pull = jax.grad(lambda z: -(z[0] * z[1]).sum(-1).mean())(z)
  close(gradients[1] - pull, (gradients[0] - pull) / 0.25)


# --- identities of the papers ---


@pytest.mark.slow
def test_with_a_rate_of_one_the_loss_is_the_temperature_times_the_decoupled_one():
  z = unit_rows(V, B, D)
  values, _, gradient = run('sog_clr', z, visited_rows(), temperature=0.3, gamma=1.0)
  want = 0.3 * (losses.decoupled(z, temperature=0.3) - math.log(NEGATIVES))
  close(values, want)
  close(gradient, 0.3 * jax.grad(lambda z: losses.decoupled(z, temperature=0.3).mean())(z))


def softmax_of_negatives(z, tau):
  """Of each anchor [V, B, N]: cosines with its negatives, and their shares."""
  z, tau = np.float64(z), np.float64(tau)
  s = np.einsum('vid,wjd->viwj', z, z)
  cosines = np.stack([[s[v, i][:, np.arange(B) != i].ravel() for i in range(B)] for v in range(V)])
  shares = np.exp(cosines / tau[:, None])
  return cosines, shares / shares.sum(-1, keepdims=True)


def divergence(z, tau):
  """Mean over views of the divergence of the softmax over negatives from the uniform distribution."""
  _, p = softmax_of_negatives(z, tau)
  return (p * np.log(p * NEGATIVES)).sum(-1).mean(0)


@pytest.mark.parametrize('rho', [0.0, 0.4])
def test_the_gradient_of_a_temperature_is_rho_less_the_divergence_from_uniform(rho):
  z, state = unit_rows(V, B, D), visited_rows()
  close(gradient_of_temperature(z, state, rho), rho - divergence(z, state.temperature))


def test_the_gradient_of_a_temperature_is_the_slope_of_the_objective():
  with jax.enable_x64(True):
    z = jnp.asarray(unit_rows(V, B, D), jnp.float64)
    state = visited_rows(temperature=jnp.linspace(0.1, 0.6, B))

    def objective(step):
      moved = state._replace(temperature=state.temperature + step)
      return run('isog_clr', z, moved, rho=0.3, gamma=1.0)[0].mean(0)

    slope = (objective(1e-6) - objective(-1e-6)) / 2e-6
    np.testing.assert_allclose(gradient_of_temperature(z, state, 0.3), slope, rtol=1e-6)


def settled(z, rho, steps=800, **options):
  """Temperatures after many steps on the same embeddings."""

  def step(state, _):
    return losses.isog_clr(z, state, rho=rho, gamma=1.0, tau_rate=0.02, tau_min=0.05, tau_max=1.0, **options)[1], None

  start = losses.running(z.shape[1], temperature=0.3)
  return np.asarray(jit(lambda state: jax.lax.scan(step, state, length=steps))(start)[0].temperature)


def test_temperatures_settle_where_the_divergence_is_rho():
  z = unit_rows(V, B, D)
  tau = settled(z, 0.3)
  assert (tau > 0.051).all() and (tau < 0.99).all()
  np.testing.assert_allclose(divergence(z, tau), np.full(B, 0.3), atol=1e-3)


def test_no_divergence_drives_temperatures_up_and_more_than_there_can_be_drives_them_down():
  z = unit_rows(V, B, D)
  np.testing.assert_array_equal(settled(z, 0.0), np.ones(B, np.float32))
  np.testing.assert_array_equal(settled(z, math.log(NEGATIVES) + 0.01), np.full(B, 0.05, np.float32))


def test_instances_of_a_frequent_kind_get_higher_temperatures_than_rare_ones():
  kinds = np.repeat(np.arange(11), [10] + [2] * 10)
  near = unit_rows(11, 16)[kinds] + 0.3 * unit_rows(V, len(kinds), 16, seed=1)
  z = np.asarray(losses.unit(jnp.asarray(near, jnp.float32)))
  tau = settled(z, 0.3)
  assert tau[kinds == 0].mean() > 1.1 * tau[kinds > 0].mean()


# --- extremes ---


def test_statistics_at_the_least_temperature_are_those_of_float64():
  z, tau = unit_rows(V, B, D), 0.005
  state = losses.running(B, temperature=tau)._replace(visited=jnp.ones(B, bool), log_denominator=jnp.full(B, 30.0))
  _, new, gradient = run('isog_clr', z, state, rho=0.0, tau_beta=1.0, tau_clip=1e9, tau_min=0.001)
  taus, old = np.full(B, np.float32(tau), np.float64), np.full(B, np.exp(30.0))
  _, of_views, of_tau = references.of_views(np.float64(z), old, taus, 0.8, np.ones(B, bool))
  close(new.log_denominator, np.log(of_views.mean(0)))
  np.testing.assert_allclose(new.momentum, of_tau.mean(0), atol=3e-4)
  surrogate = autograd.grad(lambda z: references.of_views(z, old, taus, 0.8, np.ones(B, bool))[0].mean())
  close(gradient, surrogate(np.float64(z)), 1e-4)


def test_where_there_is_no_negative_nothing_is_learned_and_nothing_remembered():
  state = visited_rows(1)
  values, new, gradient = run('isog_clr', unit_rows(V, 1, D), state)
  assert not values.any() and not gradient.any()
  for before, after in zip(state[:4], new[:4], strict=True):
    np.testing.assert_array_equal(after, before)


@pytest.mark.slow
def test_the_state_has_no_gradient_and_gets_none():
  z, state = unit_rows(V, B, D), visited_rows()

  def everything(z, tau):
    values, new = losses.isog_clr(z, state._replace(temperature=tau))
    return values.sum(), jax.tree.leaves(new._replace(visited=None))

  assert not jax.grad(lambda tau: everything(z, tau)[0])(state.temperature).any()
  assert not jax.grad(lambda z: sum(each.sum() for each in everything(z, state.temperature)[1]))(z).any()


# --- the rate of running denominators ---


def test_the_inner_rate_falls_from_one_to_the_least_along_half_a_cosine():
  rates = [float(losses.inner_rate(epoch, least=0.2, epochs=4)) for epoch in range(7)]
  np.testing.assert_allclose(rates, [1, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5), 0.2, 0.2, 0.2])
  assert float(losses.inner_rate(jnp.int32(0), least=0.2)) == pytest.approx(0.2)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda z, s: losses.sog_clr(z, s, gamma=0.0), r'gamma must lie in \(0, 1\], but it is 0.0'),
    (lambda z, s: losses.sog_clr(z, losses.running(B + 1)), r'state.log_denominator must have one row .* \[9\]'),
    (lambda z, s: losses.sog_clr(z, (s, s)), 'state must be the rows of losses.running'),
    (lambda z, s: losses.sog_clr(z[:1], s), 'V >= 2 views are needed'),
    (lambda z, s: losses.isog_clr(z, losses.running(B)), 'this loss needs state.temperature: make the state by'),
    (lambda z, s: losses.running(B, temperature=0.0), 'temperature must be > 0, but it is 0.0'),
    (lambda z, s: losses.inner_rate(0, least=0.2, epochs=-1), 'over 0 or more epochs, but they are -1'),
  ],
)
def test_what_cannot_be_used_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.asarray(unit_rows(V, B, D)), losses.running(B, temperature=0.1))
