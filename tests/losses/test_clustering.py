"""Codes and their prediction: the published iteration in NumPy, the optimum that it nears, identities, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.types import Refusal

EPS = 0.05


def cosines(*shape, seed=0):
  """Scores as SwAV has them: of unit vectors with unit prototypes."""
  random = np.random.default_rng([seed, *shape])
  z, c = random.normal(size=(*shape[:-1], 8)), random.normal(size=(shape[-1], 8))
  z, c = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, c))
  return (z @ c.T).astype(np.float32)


def published(scores, eps, iterations):
  """The iteration as it was published: exponentials, rows of prototypes, columns of samples."""
  q = np.exp(np.asarray(scores, np.float64) / eps).T
  prototypes, samples = q.shape
  q /= q.sum()
  for _ in range(iterations):
    q /= q.sum(1, keepdims=True) * prototypes
    q /= q.sum(0, keepdims=True) * samples
  return (q * samples).T


def swapped(scores, codes, temperature):
  """The equation, crop by crop and instance by instance."""
  views, count, _ = scores.shape
  values = np.zeros(count)
  for i in range(count):
    for a in range(len(codes)):
      for v in set(range(views)) - {a}:
        s = scores[v, i].astype(np.float64) / temperature
        values[i] -= (codes[a, i] * (s - s.max() - np.log(np.exp(s - s.max()).sum()))).sum()
  return values / len(codes) / (views - 1)


def sinkhorn(scores, **options):
  return np.asarray(jit(lambda s: losses.sinkhorn(s, **options))(jnp.asarray(scores)))


def case(views=4, crops=2, count=6, prototypes=5):
  scores = cosines(views, count, prototypes)
  return scores, np.stack([published(s, EPS, 3) for s in scores[:crops]])


@pytest.mark.parametrize('shape', [(12, 5), (5, 12), (7, 7), (1, 4)])
@pytest.mark.parametrize(('eps', 'iterations'), [(0.05, 1), (0.05, 3), (0.5, 10)])
def test_codes_are_those_of_the_published_iteration_in_float64(shape, eps, iterations):
  scores = cosines(*shape)
  want = published(scores, eps, iterations)
  np.testing.assert_allclose(sinkhorn(scores, eps=eps, iterations=iterations), want, rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(want.sum(1), 1)


def test_codes_of_an_instance_sum_to_one_and_three_iterations_fill_the_prototypes_nearly():
  codes = sinkhorn(cosines(64, 8))
  np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-5)
  filled = codes.sum(0) / (64 / 8)
  assert 0.01 < np.abs(filled - 1).max() < 0.5


def test_many_iterations_fill_every_prototype_alike_and_reach_the_optimum():
  scores = cosines(24, 6)
  codes = sinkhorn(scores, iterations=2000).astype(np.float64)
  np.testing.assert_allclose(codes.sum(0), 24 / 6, rtol=1e-4)
  # Where no assignment of the same sums is better, log Q - p / eps is a number a row plus a number a column.
  left = np.log(codes) - scores / EPS
  left = left - left.mean(0) - left.mean(1, keepdims=True) + left.mean()
  assert np.abs(left).max() < 1e-3


def test_constant_scores_give_the_uniform_code():
  np.testing.assert_allclose(sinkhorn(np.full((9, 4), 0.7, np.float32)), 1 / 4, rtol=1e-6)


def test_a_number_added_to_the_scores_of_an_instance_leaves_predictions_and_converged_codes():
  scores, codes = case()
  moved = scores + np.linspace(-1, 1, 6, dtype=np.float32)[:, None]
  np.testing.assert_allclose(
    losses.swapped_prediction(moved, codes), losses.swapped_prediction(scores, codes), rtol=1e-5
  )
  few, many = ([sinkhorn(s[0], iterations=n) for s in (scores, moved)] for n in (3, 2000))
  np.testing.assert_allclose(many[1], many[0], atol=1e-4)
  assert np.abs(few[1] - few[0]).max() > 1e-3


def test_no_score_is_too_large_and_sharp_codes_are_one_hot():
  scores = 1e4 * cosines(16, 4)
  codes = sinkhorn(scores)
  assert np.isfinite(codes).all()
  np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-5)
  assert (codes.max(1) > 0.99).mean() > 0.8


def test_instances_that_take_no_part_change_no_code():
  scores = cosines(20, 5)
  where = np.arange(20) % 3 != 0
  codes = sinkhorn(scores, where=where)
  np.testing.assert_allclose(codes[where], sinkhorn(scores[where]), rtol=1e-5)
  others = np.where(where[:, None], scores, 5 * scores)
  np.testing.assert_allclose(sinkhorn(others, where=where)[where], codes[where], rtol=1e-6)
  assert np.abs(sinkhorn(others)[where] - codes[where]).max() > 1e-2


def test_codes_of_a_batch_split_over_eight_devices_are_those_of_one():
  scores = cosines(16, 5)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  split = jax.device_put(scores, NamedSharding(mesh, P('data')))
  np.testing.assert_allclose(sinkhorn(split), sinkhorn(scores), rtol=1e-5)


@pytest.mark.parametrize(('views', 'crops'), [(2, 2), (4, 2), (3, 1), (3, 3)])
def test_every_crop_but_its_own_predicts_a_code(views, crops):
  scores, codes = case(views, crops)
  got = jit(lambda s, q: losses.swapped_prediction(s, q, temperature=0.2))(scores, codes)
  np.testing.assert_allclose(got, swapped(scores, codes, 0.2), rtol=1e-5)


def test_the_gradient_is_that_of_the_equation_and_codes_get_none():
  scores, codes = case()
  of = jit(jax.grad(lambda s, q: losses.swapped_prediction(s, q).mean(), (0, 1)))
  of_scores, of_codes = of(jnp.asarray(scores), jnp.asarray(codes, jnp.float32))
  assert (np.asarray(of_codes) == 0).all()
  direction = np.random.default_rng(1).normal(size=scores.shape)
  step = 1e-5
  up, down = (swapped(scores + sign * step * direction, codes, 0.1).mean() for sign in (1, -1))
  np.testing.assert_allclose((of_scores * direction).sum(), (up - down) / (2 * step), rtol=1e-4)


def test_two_views_make_two_symmetric_terms():
  scores, codes = case(views=2)
  each = [-(codes[a] * jax.nn.log_softmax(scores[1 - a] / 0.1)).sum(-1) for a in range(2)]
  np.testing.assert_allclose(losses.swapped_prediction(scores, codes), (each[0] + each[1]) / 2, rtol=1e-5)
  np.testing.assert_allclose(
    losses.swapped_prediction(scores[::-1], codes[::-1]), losses.swapped_prediction(scores, codes), rtol=1e-6
  )


def test_the_loss_is_no_less_than_the_entropy_of_the_codes_which_it_reaches_where_predictions_are_the_codes():
  scores, codes = case()
  entropy = -(codes * np.log(codes)).sum(-1).mean(0)
  assert (losses.swapped_prediction(scores, codes) > entropy).all()
  own = np.stack([codes[0]] * 3)
  reached = losses.swapped_prediction(0.1 * np.log(own), own[:2], temperature=0.1)
  np.testing.assert_allclose(reached, -(codes[0] * np.log(codes[0])).sum(-1), rtol=1e-5)


def test_uniform_predictions_cost_the_logarithm_of_the_number_of_prototypes():
  _, codes = case()
  np.testing.assert_allclose(losses.swapped_prediction(jnp.ones((4, 6, 5)), codes), np.log(5), rtol=1e-6)


def test_half_precision_is_computed_in_float32():
  scores, codes = case()
  half = scores.astype(jnp.bfloat16)
  got = losses.swapped_prediction(half, codes.astype(jnp.bfloat16))
  assert got.dtype == losses.sinkhorn(half[0]).dtype == jnp.float32
  want = losses.swapped_prediction(half.astype(np.float32), codes.astype(jnp.bfloat16).astype(np.float32))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_codes_of_one_device_are_refused():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  local = jax.shard_map(losses.sinkhorn, mesh=mesh, in_specs=P('data'), out_specs=P('data'))
  with pytest.raises(Refusal, match='sinkhorn inside shard_map or pmap would see the statistics of one device'):
    local(jnp.ones((8, 3)))


SCORES, CODES = jnp.ones((3, 4, 5)), jnp.ones((2, 4, 5))


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: losses.sinkhorn(SCORES), r'scores must be \[B, K\] .*, but they are \(3, 4, 5\)'),
    (lambda: losses.sinkhorn(SCORES[0], eps=0.0), r'eps must be > 0, but it is 0\.0'),
    (lambda: losses.sinkhorn(SCORES[0], iterations=0), 'iterations must be at least 1, but they are 0'),
    (lambda: losses.sinkhorn(SCORES[0].astype(int)), 'scores must be floating-point, but it is int32'),
    (lambda: losses.sinkhorn(SCORES[0], where=jnp.ones(4)), 'mask must be boolean, but it is float32'),
    (lambda: losses.sinkhorn(SCORES[0], where=jnp.ones(3, bool)), r'one entry an instance, \[4\], but it is \(3,\)'),
    (lambda: losses.swapped_prediction(SCORES[:1], CODES[:1]), 'V >= 2 views are needed'),
    (lambda: losses.swapped_prediction(SCORES, CODES[:, :, :4]), r'codes must be \[A, B, K\] of the first A crops'),
    (lambda: losses.swapped_prediction(SCORES[:2], SCORES), r'\(2, 4, 5\), but they are \(3, 4, 5\)'),
    (lambda: losses.swapped_prediction(SCORES, CODES[0]), r'codes must be \[A, B, K\]'),
    (lambda: losses.swapped_prediction(SCORES, CODES, temperature=0), 'temperature must be > 0, but it is 0'),
  ],
)
def test_what_cannot_be_assigned_or_predicted_is_refused(call, message):
  with pytest.raises(Refusal, match=message):
    call()
