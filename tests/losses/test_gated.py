"""Hydra's loss by brute force with all of its gated embeddings, in float64, and what it implies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.types import Refusal


def similarities(x, g, renormalize):
  """All [B, N, D] gated embeddings of anchors and candidates."""
  a, n = (g * x)[:, None], g[:, None] * x[None]
  s = (a * n).sum(-1)
  return s / (np.linalg.norm(a, axis=-1) * np.linalg.norm(n, axis=-1)) if renormalize else s


def by_loops(x, g, y, other, temperature, renormalize):
  logits = similarities(x, g, renormalize) / temperature
  sums, pairs = np.zeros(len(x)), 0
  for i in range(len(x)):
    negatives = [np.exp(logits[i, n]) for n in range(len(x)) if y[n] not in (y[i], other[i])]
    for p in np.flatnonzero(y == other[i]):
      sums[i] += np.log(np.exp(logits[i, p]) + sum(negatives)) - logits[i, p]
      pairs += 1
  return sums * len(x) / pairs


def example(b=14, d=6, classes=4, seed=0):
  random = np.random.default_rng(seed)
  x = random.normal(size=(b, d))
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  y = random.integers(0, classes, b)
  return x, random.uniform(0.05, 0.95, (b, d)), y, random.permutation(y)


def loss(x, g, y, other, **options):
  return losses.gated_pair_nce(jnp.float32(x), jnp.float32(g), jnp.int32(y), jnp.int32(other), **options)


@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(4, 5)], ids=['dense', 'chunked'])
@pytest.mark.parametrize('renormalize', [False, True])
def test_gated_pair_nce_equals_its_definition(renormalize, fold):
  given = example()
  got = loss(*given, temperature=0.2, renormalize=renormalize, fold=fold)
  np.testing.assert_allclose(got, by_loops(*given, 0.2, renormalize), rtol=2e-5, atol=1e-6)


def test_open_gates_and_identical_partners_give_a_supervised_loss_whose_positives_do_not_compete():
  x, _, y, _ = example()
  logits = x @ x.T / 0.1
  same = y[:, None] == y[None]
  apart = np.where(same, 0, np.exp(logits)).sum(1)
  terms = np.where(same, np.log(np.exp(logits) + apart[:, None]) - logits, 0)
  got = loss(x, np.ones_like(x), y, y, temperature=0.1)
  np.testing.assert_allclose(got.mean(), terms.sum() / same.sum(), rtol=1e-5)
  np.testing.assert_allclose(got, loss(x, np.ones_like(x), y, y, temperature=0.1, renormalize=True), rtol=1e-5)


@pytest.mark.parametrize('renormalize', [False, True])
def test_where_all_similarities_are_equal_a_positive_costs_the_logarithm_of_its_negatives_and_one(renormalize):
  _, _, y, other = example()
  x, g = np.tile([0.6, 0.8], (14, 1)), np.full((14, 2), 0.5)
  negatives = np.array([((y != a) & (y != b)).sum() for a, b in zip(y, other, strict=True)])
  positives = np.array([(y == b).sum() for b in other])
  want = positives * np.log1p(negatives) * 14 / positives.sum()
  np.testing.assert_allclose(loss(x, g, y, other, renormalize=renormalize), want, rtol=1e-5)


def test_a_row_whose_partner_is_not_in_the_batch_costs_nothing_and_keeps_gradients_finite():
  x, g, y, other = example()
  other = other.copy()
  other[3], other[5] = 9, -1
  got = loss(x, g, y, other)
  assert got[3] == got[5] == 0
  gradient = jax.grad(lambda x, g: loss(x, g, y, np.full(14, 9)).sum(), (0, 1))(jnp.float32(x), jnp.float32(g))
  assert all((each == 0).all() for each in gradient)


def test_rows_of_no_class_are_nobodys_candidates():
  x, g, y, other = example()
  more = [np.concatenate([each, each[:3]]) for each in (x, g)]
  none = np.full(3, -1)
  got = loss(*more, np.concatenate([y, none]), np.concatenate([other, none]))
  np.testing.assert_allclose(got[:14] / 17, loss(x, g, y, other) / 14, rtol=1e-5)


def test_without_negatives_there_is_nothing_to_learn():
  x, g, _, _ = example()
  y, other = np.arange(14) % 2, 1 - np.arange(14) % 2
  np.testing.assert_allclose(loss(x, g, y, other), np.zeros(14), atol=1e-7)


def test_a_closed_gate_makes_logits_small_unless_they_are_normalised():
  x, g, y, other = example()
  quiet, loud = (loss(x, scale * g, y, other) for scale in (1e-3, 1.0))
  assert np.abs(quiet - loud).max() > 0.1
  quiet, loud = (loss(x, scale * g, y, other, renormalize=True) for scale in (1e-3, 1.0))
  np.testing.assert_allclose(quiet, loud, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda x, g, y, o: (x, g[:, :3], y, o), 'x must be .* and gates'),
    (lambda x, g, y, o: (x, g, y[:3], o), 'labels must have one entry'),
    (lambda x, g, y, o: (x, g, y, o[:3]), 'partners must have one entry'),
  ],
)
def test_arrays_that_do_not_fit_are_refused(change, said):
  with pytest.raises(Refusal, match=said):
    loss(*change(*example()))
