"""Identities and limits of the losses that choose or weigh their negatives, from their papers."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax import losses

V, B = 2, 9
NEGATIVES = V * (B - 1)


@pytest.fixture(scope='module')
def z():
  return losses.unit(jax.random.normal(jax.random.key(3), (V, B, 6)))


def similarities(z):
  """Of each anchor [V, B]: with its positive, and with each of its negatives."""
  z = np.asarray(z, np.float64)
  rows = z.reshape(V * B, -1)
  s = (rows @ rows.T).reshape(V, B, V, B)
  negative = [[s[v, i][:, np.arange(B) != i].ravel() for i in range(B)] for v in range(V)]
  return np.asarray([[s[v, i, 1 - v, i] for i in range(B)] for v in range(V)]), np.asarray(negative)


def test_all_negatives_make_the_hard_loss_nt_xent(z):
  got, want = jit(losses.hard_nce, static_argnames='alpha')(z, alpha=1.0), jit(losses.nt_xent)(z, temperature=0.3)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_larger_share_of_negatives_never_lowers_the_hard_loss(z):
  hard = jit(losses.hard_nce, static_argnames='alpha')
  values = [hard(z, alpha=alpha) for alpha in (0.05, 0.3, 0.6, 1.0)]
  assert all((b >= a - 1e-6).all() and (b > a + 1e-4).any() for a, b in itertools.pairwise(values))


def test_the_loss_over_a_small_temperature_tends_to_the_hinge_of_the_hardest_negative(z):
  tau, (positive, negative) = 2e-3, similarities(z)
  hinge = np.maximum(negative.max(-1) - positive, 0)
  got = tau * jit(losses.hard_nce, static_argnames='alpha')(z, temperature=tau, alpha=0.5)
  np.testing.assert_allclose(got, hinge, atol=tau * math.log(NEGATIVES + 1))


def test_the_loss_over_a_large_temperature_tends_to_the_simple_loss(z):
  with jax.enable_x64(True):
    z, tau = z.astype(jnp.float64), 1e4
    steep = tau * (losses.nt_xent(z, temperature=tau) - math.log(NEGATIVES + 1))
    np.testing.assert_allclose(steep, NEGATIVES / (NEGATIVES + 1) * losses.simple_contrastive(z), atol=1e-4)


def test_the_positive_is_pulled_as_hard_as_all_negatives_are_pushed(z):
  def of_logits(positive, negative):
    return jnp.logaddexp(jax.nn.logsumexp(negative / 0.3), positive / 0.3) - positive / 0.3

  positive, negative = similarities(z)
  of_positive, of_negative = jax.grad(of_logits, (0, 1))(positive[0, 0], jnp.asarray(negative[0, 0]))
  np.testing.assert_allclose(-of_positive, of_negative.sum(), rtol=1e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', ['hard_nce', 'simple_contrastive'])
def test_the_threshold_of_hard_negatives_has_no_gradient_of_its_own(name, z):
  def value(z, step):
    moved = z.at[0, 0].add(step)
    return getattr(losses, name)(moved, alpha=0.3).sum()

  direction = jax.random.normal(jax.random.key(1), (6,))
  with jax.enable_x64(True):
    z, direction = z.astype(jnp.float64), direction.astype(jnp.float64)
    slope = (value(z, 1e-6 * direction) - value(z, -1e-6 * direction)) / 2e-6  # no set changes in so small a step
    np.testing.assert_allclose(jax.grad(value)(z, 0 * direction)[0, 0] @ direction, slope, rtol=1e-5)


def test_without_prior_and_hardness_the_weighted_loss_is_nt_xent(z):
  got = jit(losses.hardness_nce, static_argnames='tau_plus')(z, tau_plus=0.0, beta=0.0)
  np.testing.assert_allclose(got, jit(losses.nt_xent)(z, temperature=0.5), rtol=1e-5)


def test_great_hardness_counts_the_hardest_negative_for_all(z):
  positive, negative = similarities(z)
  got = jit(losses.hardness_nce, static_argnames='tau_plus')(z, tau_plus=0.0, beta=3000.0)
  want = np.log(np.exp(positive / 0.5) + NEGATIVES * np.exp(negative.max(-1) / 0.5)) - positive / 0.5
  np.testing.assert_allclose(got, want, rtol=1e-3)


def test_corrected_negatives_never_fall_below_their_floor():
  z = jnp.broadcast_to(losses.unit(jnp.arange(1.0, 7.0)), (V, B, 6))  # positives as similar as they can be
  got = jit(losses.hardness_nce, static_argnames='tau_plus')(z, tau_plus=0.9, temperature=0.5)
  expected = (math.e**2 - 0.9 * math.e**2) / 0.1  # all logits are 2: the correction leaves them as they are
  np.testing.assert_allclose(got, np.full((V, B), math.log(math.e**2 + NEGATIVES * expected) - 2), rtol=1e-4)
  opposite = jnp.stack([z[:, 0], -z[:, 0]], axis=1)  # two instances, as far apart as they can be
  values = jit(losses.hardness_nce, static_argnames='tau_plus')(opposite, tau_plus=0.9, temperature=0.5)
  np.testing.assert_allclose(values, np.full((V, 2), math.log(math.exp(2) + V * math.exp(-2)) - 2), rtol=1e-4)


def test_a_larger_prior_lowers_the_loss_of_anchors_nearer_to_their_positive_than_to_the_mean(z):
  hardness = jit(losses.hardness_nce, static_argnames='tau_plus')
  positive, negative = similarities(z)
  nearer = np.exp(positive / 0.5) > np.exp(negative / 0.5).mean(-1)
  low, high = (np.asarray(hardness(z, tau_plus=prior, beta=0.0)) for prior in (0.01, 0.05))
  assert nearer.any() and not nearer.all()
  assert (high < low)[nearer].all() and (high > low)[~nearer].all()


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda z: losses.hard_nce(z, alpha=0.0), r'alpha must lie in \(0, 1\], but it is 0.0'),
    (lambda z: losses.simple_contrastive(z, alpha=1.5), r'alpha must lie in \(0, 1\], but it is 1.5'),
    (lambda z: losses.hardness_nce(z, tau_plus=1.0), r'tau_plus must lie in \[0, 1\), but it is 1.0'),
    (lambda z: losses.hardness_nce(z[:1]), 'V >= 2 views are needed'),
    (lambda z: losses.hard_nce(z, temperature=0.0), 'temperature must be > 0'),
  ],
)
def test_options_out_of_range_are_refused(call, message, z):
  with pytest.raises(ValueError, match=message):
    call(z)


@pytest.mark.slow
def test_a_traced_share_gives_what_a_number_gives(z):
  got = jit(lambda z, alpha: losses.hard_nce(z, alpha=alpha))(z, 0.25)
  np.testing.assert_allclose(got, losses.hard_nce(z, alpha=0.25), rtol=1e-5)
  got = jit(lambda z, prior: losses.hardness_nce(z, tau_plus=prior))(z, 0.05)
  np.testing.assert_allclose(got, losses.hardness_nce(z, tau_plus=0.05), rtol=1e-5)
