"""Learning rates by step; Lion, by its published iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax.engine import optimiser
from contrastive_jax.types import Refusal


@pytest.mark.parametrize('schedule', [optimiser.constant, optimiser.cosine])
def test_a_warmup_shorter_than_half_a_step_starts_at_the_peak(schedule):
  rate = schedule(10, 256, learning_rate=0.3, warmup=0.04)
  assert float(rate(0)) == pytest.approx(0.3)
  assert float(rate(1)) > 0.25


@pytest.mark.parametrize('schedule', [optimiser.constant, optimiser.cosine])
def test_a_warmup_rises_linearly_to_the_peak(schedule):
  rate = schedule(10, 256, learning_rate=0.3, warmup=0.4)
  assert [float(rate(step)) for step in range(5)] == pytest.approx([0, 0.075, 0.15, 0.225, 0.3])


def test_a_constant_schedule_stays_at_its_peak_after_the_warmup():
  rate = optimiser.constant(10, 512, learning_rate=0.3, warmup=0.2)
  assert [float(rate(step)) for step in (2, 5, 9, 100)] == pytest.approx([0.6] * 4)


# --- Lion ---


PARAMS = {'kernel': np.array([[3.0, -2.0]]), 'bias': np.array([1.0, -1.0])}


def lion(gradients, **options):
  """Parameters after steps with these gradients, at learning rate 0.1."""
  rule = optimiser.lion(optax.constant_schedule(0.1), **options)
  params = jax.tree.map(jnp.asarray, PARAMS)
  state = rule.init(params)
  for each in gradients:
    updates, state = rule.update(jax.tree.map(jnp.asarray, each), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def test_lion_is_the_published_iteration():
  """Chen et al., 2023, algorithm 2, in NumPy; biases are not decayed."""
  rng = np.random.default_rng(0)
  gradients = [{k: rng.normal(size=v.shape) for k, v in PARAMS.items()} for _ in range(4)]
  expected, moments = dict(PARAMS), {k: 0 * v for k, v in PARAMS.items()}
  for each in gradients:
    for name, decay in (('kernel', 0.5), ('bias', 0.0)):
      sign = np.sign(0.9 * moments[name] + (1 - 0.9) * each[name])
      expected[name] = expected[name] - 0.1 * (sign + decay * expected[name])
      moments[name] = 0.99 * moments[name] + (1 - 0.99) * each[name]
  params, _ = lion(gradients, weight_decay=0.5)
  for name in PARAMS:
    np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_lion_moves_by_the_learning_rate_however_large_the_gradient_and_keeps_one_moment():
  gradient = {'kernel': np.array([[1e-6, -1e6]]), 'bias': np.array([1.0, 0.0])}
  params, state = lion([gradient], weight_decay=0.0)
  np.testing.assert_allclose(params['kernel'] - PARAMS['kernel'], [[-0.1, 0.1]], rtol=1e-5)
  np.testing.assert_allclose(params['bias'] - PARAMS['bias'], [-0.1, 0.0], atol=1e-6)
  assert sum(np.size(leaf) > 1 for leaf in jax.tree.leaves(state)) == len(PARAMS)


def test_rates_and_decay_of_lion_go_by_path():
  gradient = {k: np.ones_like(v) for k, v in PARAMS.items()}
  params, _ = lion([gradient], weight_decay=1.0, no_decay='kernel', rates=(('kernel', 0.5),))
  np.testing.assert_allclose(params['kernel'], PARAMS['kernel'] - 0.05, rtol=1e-6)
  np.testing.assert_allclose(params['bias'], PARAMS['bias'] - 0.1 * (1 + PARAMS['bias']), rtol=1e-6)
  frozen, _ = lion([gradient], rates=(('bias', 0.0),))
  np.testing.assert_array_equal(frozen['bias'], PARAMS['bias'])


@pytest.mark.parametrize('option', ['beta1', 'beta2'])
def test_momenta_of_lion_out_of_range_are_refused_by_name(option):
  with pytest.raises(Refusal, match=f'config.optimiser.{option} must be at least 0 and below 1'):
    optimiser.lion(optax.constant_schedule(0.1), **{option: 1.0})


# --- groups that take turns ---


def steps_of(rule, count: int):
  """Parameters after each step with gradients that differ from step to step, and states."""
  params, found, states = jax.tree.map(jnp.asarray, PARAMS), [], []
  state = rule.init(params)
  for step in range(count):
    gradients = jax.tree.map(lambda x, step=step: jnp.asarray(x) + step, PARAMS)
    updates, state = rule.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    found.append(jax.device_get(params))
    states.append(state)
  return found, states


@pytest.mark.parametrize('kind', ['sgd', 'adamw', 'lars', 'lion'])
def test_what_takes_part_in_every_third_step_moves_in_no_other_and_the_rest_as_ever(kind):
  rule, schedule = getattr(optimiser, kind), optax.constant_schedule(0.1)
  taking_turns, _ = steps_of(rule(schedule, every=(('bias', 3),)), 7)
  always, _ = steps_of(rule(schedule), 7)
  before = PARAMS
  for step, (now, plain) in enumerate(zip(taking_turns, always, strict=True)):
    assert (now['bias'] != before['bias']).all() == (step % 3 == 0)
    np.testing.assert_allclose(now['kernel'], plain['kernel'], rtol=1e-6)
    before = now


def test_moments_rest_between_turns_as_if_the_other_steps_were_not_there():
  taking_turns, _ = steps_of(optimiser.adamw(optax.constant_schedule(0.1), every=(('bias', 2),)), 5)
  rule = optimiser.adamw(optax.constant_schedule(0.1))
  params = {'bias': jnp.asarray(PARAMS['bias'])}
  state = rule.init(params)
  for step in (0, 2, 4):
    updates, state = rule.update({'bias': jnp.asarray(PARAMS['bias']) + step}, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(taking_turns[-1]['bias'], params['bias'], rtol=1e-6)


def test_a_group_that_takes_turns_learns_at_the_rate_of_the_step_and_its_own_factor():
  options = dict(momentum=0.0, weight_decay=0.0, rates=(('bias', 0.5),), every=(('bias', 2),))
  found, _ = steps_of(optimiser.sgd(lambda step: 0.1 * (step + 1), **options), 3)
  first = PARAMS['bias'] - 0.5 * 0.1 * PARAMS['bias']
  np.testing.assert_allclose(found[1]['bias'], first, rtol=1e-6)
  np.testing.assert_allclose(found[2]['bias'], first - 0.5 * 0.3 * (PARAMS['bias'] + 2), rtol=1e-6)


def test_turns_that_match_nothing_or_are_no_whole_number_are_refused():
  with pytest.raises(Refusal, match=r"'scale' of config\.optimiser\.every matches no parameter"):
    optimiser.adamw(optax.constant_schedule(0.1), every=(('scale', 2),)).init(PARAMS)
  with pytest.raises(Refusal, match=r"config\.optimiser\.every has 0 for 'bias'"):
    optimiser.adamw(optax.constant_schedule(0.1), every=(('bias', 0),))
