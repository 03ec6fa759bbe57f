"""Losses, their gradients and their state equal those of the official code of their papers, on stored inputs."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_close
from compiling import jit

from contrastive_jax import losses

PEERS = json.loads(pathlib.Path(__file__).with_name('peers_official.json').read_text())
VIEWS, STEPS = (np.asarray(PEERS['inputs'][name], np.float32) for name in ('views', 'steps'))
EXPECTED = {k: {kind: np.asarray(v) for kind, v in each.items()} for k, each in PEERS['expected'].items()}
INSTANCES = VIEWS.shape[1]


def of_views(name, *, lift=None, **options):
  loss = functools.partial(getattr(losses, name), **options)
  loss = loss if lift is None else lift(loss)
  return lambda h: loss(losses.unit(h)).mean()


def momentum(h, **options):
  """Keys are those of the first view."""
  z = losses.unit(h)
  return losses.cacr_momentum(z[1:], z[0], temperature=0.4, **options).mean()


AVERAGE = functools.partial(losses.leave_one_out, normalize=True)  # the mean of views is scaled to unit norm
ATTRACTION = dict(alpha=0.9, beta=1.1, t_pos=1.2, t_neg=2.0)
# Ours, in the options in which both agree.
OURS = {
  # The released denominator has the views of an anchor's own side, the published formula has not.
  'mv_info_nce': of_views('mv_info_nce', temperature=0.3, include_same_view=True),
  'mv_dhel': of_views('mv_dhel', temperature=0.3),
  'mv_dhel of pairs': of_views('mv_dhel', lift=losses.pairwise, temperature=0.3),
  'mv_dhel of averages': of_views('mv_dhel', lift=AVERAGE, temperature=0.3),
  'nt_xent of pairs': of_views('nt_xent', lift=losses.pairwise, temperature=0.3),
  'nt_xent of averages': of_views('nt_xent', lift=losses.leave_one_out, temperature=0.3),
  'nt_xent of all positives': of_views('nt_xent', temperature=0.3),
  'poly_view': of_views('poly_view', temperature=0.3, aggregate='geometric'),
  'cacr': of_views('cacr', **ATTRACTION),
  'cacr debiased': of_views('cacr', tau_plus=0.1, **ATTRACTION),
  'cacr_momentum rbf': momentum,
  # The official code takes the mean over the batch of the first cost and the sum of this one.
  'cacr_momentum euclidean': lambda h: INSTANCES * momentum(h, cost='euclidean'),
}


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', OURS)
def test_values_and_gradients_equal_those_of_the_official_code(name):
  want = EXPECTED[name]
  assert_close(jit(jax.value_and_grad(OURS[name]))(VIEWS), (want['value'], want['gradient']))


# --- losses with state: two epochs of one step ---


def two_steps(loss, state):
  """Means, their gradients and the states after both steps; the second has what the first has left."""

  def mean(h, state, epoch):
    values, state = loss(losses.unit(h), state, epoch)
    return values.mean(), state

  step, found = jax.value_and_grad(mean, has_aux=True), []
  for epoch, h in enumerate(STEPS):
    (value, state), gradient = step(h, state, epoch)
    found.append((value, gradient, state))
  return [np.stack(each) for each in zip(*((v, g) for v, g, _ in found), strict=True)], [s for *_, s in found]


def assert_state(states, want, **named):
  """Each step's state; names are ours, values functions of the official arrays of a step."""
  for name, of_official in named.items():
    got = [getattr(state, name) for state in states]
    assert_close(np.stack(got), np.stack([of_official(step) for step in range(len(got))]), 2e-5)


def test_isog_clr_has_the_official_gradient_and_state():
  want = EXPECTED['isog_clr']
  options = dict(rho=0.4, gamma=0.8, tau_rate=0.03, tau_beta=0.5)
  (_, gradient), states = two_steps(
    lambda z, state, _: losses.isog_clr(z, state, **options), losses.running(INSTANCES, temperature=0.2)
  )
  # The official loss is a surrogate, linear in the similarities, and the sum over the two views.
  assert_close(2 * gradient, want['gradient'])
  assert_state(
    states,
    want,
    log_denominator=lambda k: np.log(want['s'][k]),
    temperature=lambda k: want['tau'][k],
    momentum=lambda k: want['u'][k],
  )


@pytest.mark.parametrize('name', ['sog_clip', 'isog_clip'])
def test_sog_clip_and_isog_clip_have_the_official_gradients_and_states(name):
  want, individual = EXPECTED[name], name == 'isog_clip'
  side = losses.running(INSTANCES, temperature=0.2 if individual else None)
  # Official denominators begin at 0 and count the pair itself.
  options = dict(gamma=0.8, from_zero=True, diagonal=True)
  options |= dict(rho=1.0, tau_rate=0.03) if individual else dict(temperature=0.2)
  (_, gradient), states = two_steps(
    lambda z, state, _: getattr(losses, name)(z[0], z[1], state, **options), (side, side)
  )
  assert_close(gradient, want['gradient'])
  for k, letter in enumerate('IT'):
    of_side = [state[k] for state in states]
    denominators = np.log(want[f's_{letter}']) + want[f'b_{letter}']
    assert_state(of_side, want, log_denominator=lambda step, found=denominators: found[step])
    if individual:
      tau, u = want[f'tau_{letter}'], want[f'u_{letter}']
      assert_state(of_side, want, temperature=lambda step, t=tau: t[step], momentum=lambda step, u=u: u[step])


@pytest.mark.parametrize('version', ['v1', 'v2', 'v3'])
def test_fast_clip_is_the_released_one(version):
  want, individual = EXPECTED[f'fast_clip {version}'], version == 'v2'
  side = losses.running(INSTANCES, temperature=0.2 if individual else None, square=individual)

  def loss(z, state, epoch):
    options = dict(version=version, rho=6.5, tau_rate=0.02, epoch=epoch, gamma=0.6 if epoch else 1.0)
    return losses.fast_clip(z[0], z[1], state, temperature=0.2, **options)

  (value, gradient), states = two_steps(loss, (side, side))
  assert_close((value, gradient), (want['value'], want['gradient']), 2e-5)
  for k, kind in enumerate(('im', 'tt')):
    of_side = [state[k] for state in states]
    denominators = np.log(want[f'u_{kind}']) + want.get(f'bound_{kind}', 0)
    assert_state(of_side, want, log_denominator=lambda step, found=denominators: found[step])
    if individual:
      assert_state(of_side, want, temperature=lambda step, t=want[f'tau_{kind}']: t[step])


def test_the_fixture_says_which_code_made_it():
  assert all(len(commit) == 40 for commit in PEERS['commits'].values())
  assert jnp.isfinite(jnp.asarray([each['value'].sum() for each in EXPECTED.values()])).all()
