"""The loss of similarity queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.types import Refusal


def three(seed=0, scale=1.0):
  return np.float32(scale * np.random.default_rng(seed).standard_normal((3, 6, 4)))


def by_loops(p, q, odd, margin):
  values = []
  for a, b, n in zip(*(np.float64(x) for x in (p, q, odd)), strict=True):
    near = sum((a - b) ** 2)
    values.append(max(near - sum((a - n) ** 2) + margin, 0) + max(near - sum((b - n) ** 2) + margin, 0))
  return values


@pytest.mark.parametrize('margin', [0.0, 0.5, 3.0])
def test_a_query_is_two_triplets_as_its_equation_says(margin):
  x = three()
  np.testing.assert_allclose(losses.similarity_query(*x, margin=margin), by_loops(*x, margin), rtol=1e-5)


def test_the_two_that_are_alike_may_change_places():
  p, q, odd = three(1)
  np.testing.assert_array_equal(losses.similarity_query(p, q, odd), losses.similarity_query(q, p, odd))


def test_the_loss_and_its_gradient_vanish_where_both_gaps_exceed_the_margin():
  p, q, _ = three(2, scale=0.1)
  far = p + 10
  value, slope = jax.value_and_grad(lambda x: losses.similarity_query(x, q, far).sum())(p)
  assert value == 0
  assert not slope.any()


@pytest.mark.parametrize('margin', [0.2, 1.0])
def test_the_loss_is_twice_the_margin_at_collapse(margin):
  x = jnp.ones((5, 3))
  np.testing.assert_allclose(losses.similarity_query(x, x, x, margin=margin), np.full(5, 2 * margin), rtol=1e-6)


def test_half_precision_is_computed_in_float32():
  x = jnp.asarray(three(3), jnp.bfloat16)
  np.testing.assert_allclose(losses.similarity_query(*x), by_loops(*np.float32(x), 1.0), rtol=1e-5)


def test_what_does_not_fit_is_refused():
  p, q, odd = three()
  with pytest.raises(Refusal, match='margin must be at least 0'):
    losses.similarity_query(p, q, odd, margin=-1.0)
  with pytest.raises(Refusal, match='margin must be a scalar'):
    losses.similarity_query(p, q, odd, margin=np.ones(6))
  with pytest.raises(Refusal, match='odd'):
    losses.similarity_query(p, q, odd[:5])
