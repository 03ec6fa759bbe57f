"""SogCLR, iSogCLR and FastCLIP of two modalities: the official updates, and the identities of their papers."""

import functools
import math

import autograd
import global_references as references
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses

B, D = 8, 5


def unit_rows(*shape, seed=0):
  rows = np.random.default_rng([seed, *shape]).normal(size=shape)
  return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def pairs(seed=0):
  return unit_rows(B, D, seed=2 * seed), unit_rows(B, D, seed=2 * seed + 1)


def fresh(temperature=None, **options):
  return (losses.running(B, temperature=temperature, **options),) * 2


def visited(seed=0, temperature=None):
  """Rows of two sides, all visited; temperatures of their own where none is given."""
  random = np.random.default_rng(seed)

  def side():
    own = random.uniform(0.1, 0.6, B) if temperature is None else np.full(B, temperature)
    rows = [random.normal(size=B), own, random.normal(size=B) / 10, random.random(B) / 10]
    log_denominator, *others = (jnp.asarray(each, jnp.float32) for each in rows)
    return losses.Running(log_denominator, jnp.ones(B, bool), *others)

  return side(), side()


@functools.cache
def compiled(name: str, **options):
  """(x, y, state, traced keywords) -> value, (values, new state), gradient in x, y and the keywords."""
  loss = functools.partial(getattr(losses, name), **options)

  def mean(x, y, traced, state, mask):
    values, state = loss(x, y, state, mask=mask, **traced)
    return values.mean(), (values, state)

  return jit(jax.value_and_grad(mean, (0, 1, 2), has_aux=True))


def run(name, x, y, state, traced=None, mask=None, **options):
  """Values, the new state, and gradients in x, y and what is traced."""
  (_, (values, state)), gradients = compiled(name, **options)(x, y, traced or {}, state, mask)
  return jax.tree.map(np.asarray, (values, state, gradients))


def close(got, want, tolerance=1e-5):
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.abs(w).max())


# --- SogCLR and iSogCLR: the official update, which carries running maxima ---


class Official:
  """Two sides as the official code keeps them, from zero."""

  def __init__(self, tau, gamma, *, diagonal, rho=None, rate=0.0):
    self.s, self.maximum, self.tau, self.momentum = np.zeros((2, B)), np.zeros((2, B)), np.full((2, B), tau), 0.0
    self.gamma, self.diagonal, self.rho, self.rate = gamma, diagonal, rho, rate

  def of(self, x, y):
    return [
      references.of_side(*sides, self.s[i], self.maximum[i], self.tau[i], self.gamma, diagonal=self.diagonal)
      for i, sides in enumerate(((x, y), (y, x)))
    ]

  def step(self, x, y):
    """The surrogate's gradient in x and y, after which the state is that of the next step."""
    x, y = np.float64(x), np.float64(y)
    gradients = autograd.grad(lambda xy: sum(side[0].mean() for side in self.of(*xy)))((x, y))
    _, s, maximum, of_tau = (np.stack(each) for each in zip(*self.of(x, y), strict=True))
    self.s, self.maximum = s, maximum
    if self.rho is not None:
      self.momentum = 0.1 * self.momentum + 0.9 * np.clip(of_tau + self.rho, -5, 5)
      self.tau = np.clip(self.tau - self.rate * self.momentum, 0.005, 1.0)
    return gradients

  @property
  def log_denominator(self):
    return np.log(self.s) + self.maximum


@pytest.mark.parametrize('diagonal', [False, True])
def test_sog_clip_is_the_official_update_over_three_steps_without_its_maxima(diagonal):
  official, state = Official(0.1, 0.7, diagonal=diagonal), fresh()
  for step in range(3):
    x, y = pairs(step)
    options = dict(temperature=0.1, gamma=0.7, from_zero=True, diagonal=diagonal)
    values, state, gradients = run('sog_clip', x, y, state, **options)
    close(gradients[:2], official.step(x, y))
    close(np.stack([side.log_denominator for side in state]), official.log_denominator)
    close(values, 0.1 * official.log_denominator.sum(0))
  assert (official.maximum > 1).any()


@pytest.mark.parametrize('diagonal', [False, True])
def test_isog_clip_is_the_official_update_over_three_steps(diagonal):
  official = Official(0.2, 0.7, diagonal=diagonal, rho=0.5, rate=0.1)
  state = fresh(0.2)
  for step in range(3):
    x, y = pairs(step)
    options = dict(rho=0.5, gamma=0.7, from_zero=True, diagonal=diagonal, tau_rate=0.1)
    tau = official.tau
    values, state, gradients = run('isog_clip', x, y, state, **options)
    close(gradients[:2], official.step(x, y))
    close(np.stack([side.log_denominator for side in state]), official.log_denominator)
    close(np.stack([side.momentum for side in state]), official.momentum)
    close(np.stack([side.temperature for side in state]), official.tau)
    close(values, (tau * (official.log_denominator + 0.5)).sum(0))
  assert official.tau.std() > 0.01


def test_first_visits_take_the_batch_itself():
  x, y = pairs()
  whole, first = (run('sog_clip', x, y, fresh(), gamma=gamma, temperature=0.1) for gamma in (1.0, 0.2))
  close(first, whole)


@pytest.mark.parametrize('name', ['sog_clip', 'isog_clip'])
def test_a_constant_added_to_all_differences_changes_no_weight(name):
  x, y, state = *pairs(), visited(temperature=0.1)
  apart = jnp.eye(B) * 60**0.5  # lowers the similarity of each pair by 60: e^600 would overflow
  far = np.concatenate([x, -apart], 1), np.concatenate([y, apart], 1)
  shifted = tuple(side._replace(log_denominator=side.log_denominator + 600) for side in state)
  options = dict(temperature=0.1) if name == 'sog_clip' else {}
  values, new, gradients = run(name, x, y, state, **options)
  others, moved, of_far = run(name, *far, shifted, **options)
  close([side[:, :D] for side in of_far[:2]], gradients[:2], 1e-3)
  for after, before in zip(moved, new, strict=True):
    np.testing.assert_allclose(after.log_denominator, before.log_denominator + 600, rtol=1e-5)
  np.testing.assert_allclose(others, values + 2 * 60, rtol=1e-5)


def test_the_gradient_of_a_temperature_keeps_its_shift_with_a_rate_of_one():
  x, y, state = *pairs(), visited(temperature=0.1)
  apart = jnp.eye(B) * 60**0.5
  far = np.concatenate([x, -apart], 1), np.concatenate([y, apart], 1)
  options = dict(gamma=1.0, rho=1.0, tau_beta=1.0, tau_clip=1e9)
  near, there = (run('isog_clip', *sides, state, **options)[1] for sides in ((x, y), far))
  for a, b in zip(near, there, strict=True):
    np.testing.assert_allclose(a.momentum, b.momentum, atol=1e-3)


# --- FastCLIP ---


def cross_modal_decoupled(x, y, tau):
  """DCL in both directions, with negatives of the other modality alone."""
  s = x @ y.T / tau
  others = ~jnp.eye(len(x), dtype=bool)
  both = (jax.nn.logsumexp(s, 1, where=others), jax.nn.logsumexp(s, 0, where=others))
  return both[0] + both[1] - 2 * jnp.diagonal(s)


def test_with_a_rate_of_one_the_estimator_is_two_and_has_the_gradient_of_both_decoupled_losses():
  x, y = pairs()
  options = dict(version='v0', gamma=1.0, eps=0.0, feature_grad_scale=1.0)
  values, _, (of_x, of_y, of_traced) = run('fast_clip', x, y, fresh(), dict(temperature=0.2), **options)
  close(values, np.full(B, 2.0))
  want = jax.grad(lambda x, y, tau: cross_modal_decoupled(x, y, tau).mean(), (0, 1, 2))(x, y, 0.2)
  close((of_x, of_y, of_traced['temperature']), want)
  scaled = run('fast_clip', x, y, fresh(), dict(temperature=0.2), multiply_tau=True, **options)[2]
  close(scaled[:2], [0.2 * each for each in want[:2]])


def reference(x, y, u, tau, gamma, eps):
  """G of both sides, and the new running means."""
  sides = [references.ratio(*sides, u[i], tau, gamma, eps) for i, sides in enumerate(((x, y), (y, x)))]
  return sides[0][0] + sides[1][0], np.stack([side[1] for side in sides])


@pytest.mark.turns(2)
@pytest.mark.parametrize('version', ['v0', 'v1', 'v3'])
@pytest.mark.parametrize('tau_gradient', ['exact', 'released'])
def test_values_and_gradients_are_the_released_ones(version, tau_gradient):
  x, y, state = *pairs(), visited()
  u, tau = np.exp(np.float64([side.log_denominator for side in state])), np.float64(np.float32(0.2))
  rho, eps = 6.5, 0.1
  options = dict(version=version, gamma=0.6, eps=eps, rho=rho, tau_gradient=tau_gradient)
  values, new, (of_x, of_y, of_traced) = run('fast_clip', x, y, state, dict(temperature=0.2), **options)

  estimator, after = reference(np.float64(x), np.float64(y), u, tau, 0.6, eps)
  of_features = autograd.grad(lambda xy: reference(*xy, u, tau, 0.6, eps)[0].mean())((np.float64(x), np.float64(y)))
  of_tau = autograd.grad(lambda t: reference(np.float64(x), np.float64(y), u, t, 0.6, eps)[0].mean())(tau)
  factor = tau if version == 'v3' else 1.0
  second = (rho + np.log(after).mean(0)) * (version == 'v3')
  through = factor * of_tau * (1.0 if tau_gradient == 'released' else 0.5) * (version != 'v1')
  close(values, factor * estimator + tau * second)
  close((of_x, of_y), [factor * each / 2 for each in of_features])
  close(of_traced['temperature'] + 1.0, np.mean(second) + through + 1.0)
  close(np.stack([side.log_denominator for side in new]), np.log(after))


@pytest.mark.parametrize('devices', [1, 4])
def test_the_released_code_halves_the_gradient_at_any_number_of_devices(devices):
  x, y, state = *pairs(), visited()
  _, new, (of_x, of_y, _) = run('fast_clip', x, y, state, version='v1', temperature=0.2, eps=0.0)
  u = np.exp(np.float64([side.log_denominator for side in new]))
  sides, tau = (np.float64(x), np.float64(y)), np.float64(np.float32(0.2))
  close((of_x, of_y), autograd.grad(lambda xy: references.by_devices(*xy, u, tau, devices))(sides))
  whole = run('fast_clip', x, y, state, version='v1', temperature=0.2, eps=0.0, feature_grad_scale=1.0)[2]
  close((2 * of_x, 2 * of_y), whole[:2])


def test_the_exact_gradient_of_the_temperature_is_that_of_half_the_objective():
  with jax.enable_x64(True):
    x, y = (side.astype(np.float64) for side in pairs())

    def half(tau):
      new = run('fast_clip', x, y, fresh(), dict(temperature=tau), gamma=1.0, eps=0.0)[1]
      return sum(tau * side.log_denominator.mean() for side in new) / 2 + 8.0 * tau

    slope = (half(0.2 + 1e-6) - half(0.2 - 1e-6)) / 2e-6
    options = dict(gamma=1.0, eps=0.0, tau_gradient='exact')
    got = run('fast_clip', x, y, fresh(), dict(temperature=0.2), **options)[2][2]['temperature']
    np.testing.assert_allclose(got, slope, rtol=1e-6)


def test_individual_temperatures_get_the_gradient_of_the_robust_objective_over_twice_the_temperature():
  x, y, state = *pairs(), visited(temperature=0.2)
  robust = run('isog_clip', x, y, state)[2]
  released = run('fast_clip', x, y, state, version='v2', eps=0.0)[2]
  close(released[:2], [each / (2 * 0.2) for each in robust[:2]])
  own = visited()
  whole = run('fast_clip', x, y, own, version='v2', eps=0.0, multiply_tau=True, feature_grad_scale=1.0)[2]
  close(whole[:2], run('isog_clip', x, y, own)[2][:2])


@pytest.mark.parametrize('epoch', [0, 2])
def test_individual_temperatures_are_stepped_by_adam_with_the_bias_of_epochs(epoch):
  x, y, state = *pairs(), visited()
  _, new, _ = run('fast_clip', x, y, state, version='v2', gamma=0.6, eps=0.0, rho=0.4, tau_rate=0.05, epoch=epoch)
  for i, (sides, before, after) in enumerate(zip(((x, y), (y, x)), state, new, strict=True)):
    tau, momentum, square = (np.float64(each) for each in before[2:])
    s = np.exp(np.float64(before.log_denominator))
    found = references.of_side(*map(np.float64, sides), s, np.zeros(B), tau, 0.6, diagonal=False)
    gradient = np.clip(found[3] + 0.4, -5, 5)
    assert (np.abs(gradient) < 5).any(), i
    want = references.adam(tau, momentum, square, gradient, 0.05, epoch)
    close((after.temperature, after.momentum, after.square), want, 2e-5)


# --- where it runs ---


@pytest.mark.parametrize('fold', [losses.chunked(3, 5), losses.ring(rows=3, cols=4)], ids=['chunked', 'ring'])
def test_individual_temperatures_are_the_same_in_every_fold_and_on_eight_devices(fold):
  x, y, state = *pairs(), visited()
  want = run('fast_clip', x, y, state, version='v2', fold=losses.dense())
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  split = jax.device_put((x, y, state), NamedSharding(mesh, P('data')))
  close(run('fast_clip', *split, version='v2', fold=fold), want)


def test_a_pair_alone_has_a_value_of_zero_and_leaves_the_state_as_it_was():
  state = tuple(jax.tree.map(lambda row: row[:1], side) for side in visited())
  x, y = (side[:1] for side in pairs())
  for name, options in (('isog_clip', {}), ('fast_clip', {}), ('fast_clip', dict(version='v2'))):
    values, new, gradients = run(name, x, y, state, **options)
    assert not any(np.any(each) for each in jax.tree.leaves((values, gradients)))
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
      np.testing.assert_array_equal(after, before)


KINDS = {
  'sog_clip': dict(temperature=0.1),
  'sog_clip with the pair': dict(temperature=0.1, diagonal=True),
  'isog_clip': {},
  'fast_clip': {},
  'fast_clip v2': dict(version='v2'),
}


@pytest.mark.turns(2)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(3, 5)], ids=['dense', 'chunked'])
def test_pairs_that_are_masked_are_as_if_they_were_not_there(kind, fold):
  x, y, state = *pairs(), visited()
  mask = np.array([True, True, False, True, True, False, True, True])
  name, options = kind.split()[0], KINDS[kind] | dict(fold=fold)
  values, new, gradients = run(name, x, y, state, mask=mask, **options)
  few = [side[mask] for side in (x, y)], jax.tree.map(lambda row: row[mask], state)
  want, after, of_few = run(name, *few[0], few[1], **options)
  close(values[mask], want)
  assert not values[~mask].any()
  # A mean over eight pairs of which two are 0, and over six.
  close([side[mask] * B for side in gradients[:2]], [side * mask.sum() for side in of_few[:2]], 2e-5)
  assert not any(side[~mask].any() for side in gradients[:2])
  for before, got, each in zip(*(jax.tree.leaves(s) for s in (state, new, after)), strict=True):
    np.testing.assert_allclose(got[mask], each, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[~mask], before[~mask])


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda x, y: losses.fast_clip(x, y, fresh(), version='v4'), "unknown version 'v4'; did you mean"),
    (lambda x, y: losses.fast_clip(x, y, fresh(), tau_gradient='whole'), "unknown tau_gradient 'whole'"),
    (lambda x, y: losses.fast_clip(x, y, fresh(0.1), version='v2'), 'this loss needs state.square'),
    (lambda x, y: losses.isog_clip(x, y, fresh()), 'this loss needs state.temperature'),
    (lambda x, y: losses.sog_clip(x, y, losses.running(B)), 'state must be a pair'),
    (lambda x, y: losses.sog_clip(x, y, fresh(), gamma=1.5), r'gamma must lie in \(0, 1\], but it is 1.5'),
    (lambda x, y: losses.sog_clip(x, y[:-1], fresh()), 'must have as many rows as each other'),
    (lambda x, y: losses.sog_clip(x, y, fresh(), temperature=0.0), 'temperature must be > 0'),
    (lambda x, y: losses.fast_clip(x, y, fresh(), mask=x[:, 0]), 'mask must be boolean'),
  ],
)
def test_what_cannot_be_used_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(*map(jnp.asarray, pairs()))


def test_the_shares_of_negatives_at_a_temperature_of_a_hundredth_are_those_of_float64():
  x, y = pairs()
  official = Official(0.01, 1.0, diagonal=False, rho=0.0)
  _, state, gradients = run('isog_clip', x, y, fresh(0.01), rho=0.0, gamma=1.0, tau_rate=0.0)
  close(gradients[:2], official.step(x, y), 1e-4)
  close(np.stack([side.log_denominator for side in state]), official.log_denominator)
  np.testing.assert_allclose(np.stack([side.momentum for side in state]), official.momentum, atol=1e-4)
  assert math.isclose(float(state[0].temperature[0]), 0.01, rel_tol=1e-6)
