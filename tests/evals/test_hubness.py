"""Scores that punish hubs: the identities of the inverted softmax, its limits, and what hubs are."""

import jax
import numpy as np
import pytest
import scipy.stats
from captioned import unit

from contrastive_jax.evals import hubness
from contrastive_jax.evals.hubness import Bank, Rule

Q, G, M, L, BETA, OTHER = 9, 7, 11, 8, 5.0, 2.0


def matrices(seed=0):
  random = np.random.default_rng(seed)
  return [random.uniform(-1, 1, (rows, G)).astype(np.float32) for rows in (Q, M, L)]


S, A, C = matrices()


def order(scores):
  return np.argsort(-np.asarray(scores), axis=1, kind='stable')


def all_forms(s, a, c):
  """Every form by name, of one or of both banks."""
  given = dict(beta=BETA, gallery_beta=OTHER)
  return {
    'inverted': hubness.inverted_softmax(s, a, beta=BETA),
    'dual': hubness.dual_inverted_softmax(s, a, c, **given),
    'dynamic': hubness.dynamic_inverted_softmax(s, a, beta=BETA),
    'dynamic dual': hubness.dynamic_dual_inverted_softmax(s, a, c, **given),
    'csls': hubness.csls(s, a, k=3),
  }


def test_dual_is_the_product_of_ratios_of_its_equation():
  e = np.exp(BETA * S.astype(float)) / np.exp(BETA * A.astype(float)).sum(0)
  f = np.exp(OTHER * S.astype(float)) / np.exp(OTHER * C.astype(float)).sum(0)
  np.testing.assert_allclose(hubness.inverted_softmax(S, A, beta=BETA), np.log(e), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(all_forms(S, A, C)['dual'], np.log(e * f), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('form', ['inverted', 'dual', 'csls'])
def test_a_constant_added_to_a_row_of_a_query_does_not_change_its_ranking(form):
  moved = S + np.linspace(-1, 1, Q, dtype=np.float32)[:, None]
  np.testing.assert_array_equal(order(all_forms(moved, A, C)[form]), order(all_forms(S, A, C)[form]))


@pytest.mark.parametrize('form', ['inverted', 'dual'])
def test_a_constant_added_to_an_item_in_scores_and_banks_cancels(form):
  bias = np.random.default_rng(3).uniform(-2, 2, G).astype(np.float32)
  moved, plain = all_forms(S + bias, A + bias, C + bias)[form], all_forms(S, A, C)[form]
  np.testing.assert_allclose(moved, plain, rtol=1e-4, atol=1e-4)
  assert (order(S + bias) != order(S)).any()


def test_a_small_beta_ranks_by_the_excess_over_the_mean_and_a_large_one_over_the_maximum():
  for beta, bias in ((1e-3, A.mean(0)), (1e3, A.max(0))):
    with jax.enable_x64(True):
      got = order(hubness.inverted_softmax(S.astype(np.float64), A.astype(np.float64), beta=beta))
    np.testing.assert_array_equal(got, order(S - bias))
  assert (order(S - A.mean(0)) != order(S - A.max(0))).any()


def test_a_bank_of_equal_columns_returns_the_raw_ranking():
  equal = np.sort(A[:, :1], 0) + np.zeros((1, G), np.float32)
  shuffled = np.random.default_rng(0).permuted(equal, axis=0)  # equal sums of exponentials
  for form in ('inverted', 'dynamic', 'dual', 'dynamic dual'):
    np.testing.assert_array_equal(order(all_forms(S, shuffled, shuffled)[form]), order(S))


def test_only_queries_whose_nearest_item_is_a_hub_are_normalised():
  hubs = set(A.argmax(1))
  assert 0 < len(hubs) < G
  mask = np.asarray(hubness.dynamic_mask(S, A))
  np.testing.assert_array_equal(mask, [row.argmax() in hubs for row in S])
  assert mask.any() and not mask.all()
  got, full = all_forms(S, A, C)['dynamic'], all_forms(S, A, C)['inverted']
  np.testing.assert_allclose(got[mask], full[mask], rtol=1e-5)
  np.testing.assert_array_equal(order(got)[~mask], order(S)[~mask])
  assert hubness.dynamic_mask(S, A, k=G).all()


def test_where_all_items_are_hubs_the_dynamic_forms_are_the_plain_ones():
  a, c = np.eye(G, dtype=np.float32), np.eye(G, dtype=np.float32)[::-1].copy()
  forms = all_forms(S, a, c)
  np.testing.assert_array_equal(forms['dynamic'], forms['inverted'])
  np.testing.assert_array_equal(forms['dynamic dual'], forms['dual'])


def test_csls_takes_twice_the_score_less_the_mean_of_the_items_neighbourhood():
  want = 2 * S - np.sort(A, 0)[-3:].mean(0)
  np.testing.assert_allclose(hubness.csls(S, A, k=3), want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(hubness.csls(S, A, k=99), 2 * S - A.mean(0), rtol=1e-5, atol=1e-6)


def test_occurrences_count_queries_and_their_skewness_is_scipys():
  nearest = np.array([[0, 1], [0, 2], [0, -1]])
  np.testing.assert_array_equal(hubness.k_occurrence(nearest, 5), [3, 1, 1, 0, 0])
  counts = np.random.default_rng(0).poisson(2, 50)
  np.testing.assert_allclose(hubness.skewness(counts), scipy.stats.skew(counts), rtol=1e-9)
  assert hubness.skewness(np.full(4, 2)) == 0


def test_an_injected_hub_costs_recall_and_the_dual_form_restores_it_and_lowers_skewness():
  random = np.random.default_rng(1)
  x = unit(random.standard_normal((60, 64)))
  queries, others = unit(x + 0.25 * random.standard_normal(x.shape)), unit(random.standard_normal((200, 64)))
  # What has nothing but the direction that all share is the nearest of many.
  common = 2 * np.eye(64)[:1]
  clean, queries, a, c = (unit(z + common) for z in (x, queries, others[:100], others[100:]))
  gallery = clean.copy()
  gallery[7] = unit(common)[0]

  def figures(scores):
    best = order(scores)
    return (best[:, 0] == np.arange(60)).mean(), hubness.skewness(hubness.k_occurrence(best[:, :5], 60))

  without, raw = figures(queries @ clean.T), figures(queries @ gallery.T)
  dual = hubness.dual_inverted_softmax(queries @ gallery.T, a @ gallery.T, c @ gallery.T, beta=20.0, gallery_beta=1.0)
  assert raw[0] < without[0] - 0.3 and raw[1] > 2 * without[1]
  assert figures(dual)[0] > without[0] - 0.02 and figures(dual)[1] < raw[1] / 10


# --- streamed ---


@pytest.mark.parametrize('normalise', hubness.NORMALISATIONS)
def test_streamed_scores_equal_those_of_matrices(normalise):
  random = np.random.default_rng(5)
  q, g, a, c = (unit(random.standard_normal((n, 6))) for n in (Q, G, M, L))
  keep = random.random(M) < 0.7
  scores, of_a, of_c = q @ g.T, (a @ g.T)[keep], c @ g.T
  rule = Rule(normalise, BETA, OTHER, 2)
  given = dict(beta=BETA, gallery_beta=OTHER)
  want = {
    'none': lambda: scores,
    'inverted_softmax': lambda: hubness.inverted_softmax(scores, of_a, beta=BETA),
    'dual_inverted_softmax': lambda: hubness.dual_inverted_softmax(scores, of_a, of_c, **given),
    'dynamic_inverted_softmax': lambda: hubness.dynamic_inverted_softmax(scores, of_a, beta=BETA, k=2),
    'dynamic_dual_inverted_softmax': lambda: hubness.dynamic_dual_inverted_softmax(scores, of_a, of_c, **given, k=2),
    'csls': lambda: hubness.csls(scores, of_a, k=2),
  }[normalise]()
  banks = Bank(a, keep), Bank(c, np.ones(L, bool))
  entries, hubs = ({}, {}) if normalise == 'none' else hubness.of_gallery(g, np.ones(G, bool), *banks, rule)
  met = {f'hub_{k}': np.asarray(v)[scores.argmax(1)][:, None] for k, v in hubs.items()}
  got = hubness.score(scores, met, {k: np.asarray(v)[None] for k, v in entries.items()}, rule)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
