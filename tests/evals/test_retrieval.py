"""Retrieval: ranks against explicit matrices, ties, slots, concepts and normalised scores."""

import jax
import numpy as np
import pytest
from captioned import Fixed, split, unit

from contrastive_jax.evals import captions, hubness, retrieval
from contrastive_jax.types import Refusal, Texts


def ranks(scores, candidates):
  """Rank of entry i among the candidates of row i, other candidates that are not lower before it."""
  own = np.diag(scores)[:, None]
  ahead = (scores >= own - captions.TIE) & candidates[None] & ~np.eye(len(scores), dtype=bool)
  return 1 + ahead.sum(1)


def brute_force(embedded, k, keep=None):
  """Ranks of both directions of a slot, 0 where there is no query."""
  x, t = embedded.projection.astype(float), embedded.texts.projection[:, k].astype(float)
  images = np.ones(len(x), bool) if keep is None else keep
  there = embedded.texts.mask[:, k] & images
  cosine = x @ t.T
  return {'t2i': np.where(there, ranks(cosine.T, images), 0), 'i2t': np.where(there, ranks(cosine, there), 0)}


def run(embedded, **options):
  return retrieval.make(**options).run(Fixed(test=embedded, train=split(n=55, seed=9)))


@pytest.mark.parametrize('missing', [0.0, 0.3])
def test_every_figure_equals_that_of_explicit_ranks(missing):
  embedded = split(missing=missing)
  found = run(embedded)
  by_slot = [brute_force(embedded, k) for k in range(3)]
  for direction in ('t2i', 'i2t'):
    each = {}
    for name, of_slot in zip(embedded.texts.slots, by_slot, strict=True):
      rank = of_slot[direction][of_slot[direction] > 0]
      want = {f'r{k}': (rank <= k).mean() for k in (1, 5, 10)} | {
        'map': (1 / rank).mean(),
        'median_rank': np.median(rank),
        'mean_rank': rank.mean(),
      }
      for figure, value in want.items():
        np.testing.assert_allclose(found[f'retrieval/{name}/{direction}_{figure}'], value, err_msg=figure)
        each.setdefault(figure, []).append(value)
    for figure, values in each.items():
      np.testing.assert_allclose(found[f'retrieval/{direction}_{figure}'], np.mean(values))
  assert 0.2 < found['retrieval/t2i_r1'] < 0.9 and found['retrieval/en/t2i_r1'] > found['retrieval/ja/t2i_r1']


def test_tiles_of_many_rows_give_the_ranks_of_one_matrix():
  embedded = split(n=1100, k=1, d=16)
  x, t = embedded.projection, embedded.texts.projection[:, 0]
  every = np.ones(len(x), bool)
  got = retrieval.match(x, t, every, every)
  for direction, rank in brute_force(embedded, 0).items():
    np.testing.assert_array_equal(got[direction].rank, rank)
  scores = {'t2i': t @ x.T, 'i2t': x @ t.T}
  for direction, matrix in scores.items():
    found = np.take_along_axis(matrix, got[direction].nearest, 1)
    np.testing.assert_allclose(found, -np.sort(-matrix, 1)[:, :10], atol=1e-6)


def test_equal_scores_are_lost():
  x = unit(np.ones((5, 3)))
  every = np.ones(5, bool)
  got = retrieval.match(x, x, every, every)
  assert got['t2i'].rank.tolist() == got['i2t'].rank.tolist() == [5] * 5
  y = unit(np.eye(6)[:5])
  y[1] = y[0]
  got = retrieval.match(y, y, every, every)
  assert got['t2i'].rank.tolist() == [2, 2, 1, 1, 1]


def test_a_difference_within_rounding_is_a_tie_and_a_larger_one_is_none():
  for step, rank in ((1e-7, 2), (1e-4, 1)):
    x = unit(np.eye(3))
    x[1] = unit(
      x[0] + step * np.array([-0.5, 0, 1])
    )  # its cosine with the first is lower by half the square of the step
    x[1] = x[0] * (1 - step)  # not of unit norm: the score is lower by the step
    got = retrieval.match(x, unit(np.eye(3)), *[np.ones(3, bool)] * 2)
    assert got['t2i'].rank[0] == rank


def test_captions_that_are_missing_neither_look_nor_are_found():
  embedded = split(missing=0.4)
  found = run(embedded)
  garbage = np.where(embedded.texts.mask[:, :, None], embedded.texts.projection, embedded.projection[:, None])
  assert run(embedded._replace(texts=embedded.texts._replace(projection=garbage))) == found


def test_one_picture_for_each_concept_is_the_first():
  embedded = split(n=60, concepts=15, missing=0.2)
  keep = np.array([c not in embedded.concept[:i] for i, c in enumerate(embedded.concept)])
  assert keep.sum() < 16
  np.testing.assert_array_equal(retrieval.first_of_concepts(embedded.concept), keep)
  found = run(embedded, per_concept=True)
  for k, name in enumerate(embedded.texts.slots):
    for direction, rank in brute_force(embedded, k, keep).items():
      want = np.mean(rank[rank > 0] <= 1)
      np.testing.assert_allclose(found[f'retrieval/{name}/one_per_concept/{direction}_r1'], want)
  assert {k: v for k, v in found.items() if 'concept' not in k} == run(embedded)


def test_rows_of_no_concept_are_all_kept():
  np.testing.assert_array_equal(retrieval.first_of_concepts(np.array([-1, 3, -1, 3])), [True, True, True, False])


# --- slots ---


def test_the_spread_of_ranks_is_the_published_one():
  rank = np.array([[1, 5, 3], [2, 2, 2], [7, 1, 1]])
  np.testing.assert_allclose(retrieval.rank_spread(rank), rank.std(1).mean())
  np.testing.assert_allclose(retrieval.rank_spread(rank - 1), rank.std(1).mean())


def test_the_spread_is_zero_only_if_all_slots_rank_equally_and_differs_at_equal_recall():
  assert retrieval.rank_spread(np.array([[3, 3], [1, 1]])) == 0
  steady, wild = np.array([[1, 1], [3, 3]]), np.array([[1, 1], [2, 40]])
  assert (steady == 1).mean() == (wild == 1).mean()
  assert retrieval.rank_spread(wild) > retrieval.rank_spread(steady)
  assert np.isnan(retrieval.rank_spread(np.ones((3, 1))))


def test_the_spread_counts_the_slots_that_an_example_has():
  embedded = split(missing=0.4)
  rank = np.stack([brute_force(embedded, k)['t2i'] for k in range(3)], 1)
  each = [row[row > 0].std() for row in rank if (row > 0).sum() > 1]
  np.testing.assert_allclose(run(embedded)['retrieval/t2i_rank_spread'], np.mean(each))


def test_slots_that_are_equal_have_no_spread_and_one_slot_has_none_to_tell():
  embedded = split(k=1)
  assert 'retrieval/t2i_rank_spread' not in run(embedded)
  t = embedded.texts
  twice = Texts(np.repeat(t.projection, 2, 1), np.repeat(t.mask, 2, 1), ('a', 'b'))
  assert run(embedded._replace(texts=twice))['retrieval/i2t_rank_spread'] == 0


def test_a_slot_without_captions_is_left_out_of_the_means():
  embedded = split()
  mask = embedded.texts.mask.copy()
  mask[:, 1] = False
  found = run(embedded._replace(texts=embedded.texts._replace(mask=mask)))
  assert not any('/de/' in name for name in found)
  np.testing.assert_allclose(found['retrieval/t2i_r1'], np.mean([found[f'retrieval/{s}/t2i_r1'] for s in ('en', 'ja')]))
  assert run(embedded, per_slot=False).items() <= run(embedded).items()


# --- hubs and normalised scores ---


def test_hubness_is_the_skewness_of_how_often_candidates_are_found():
  embedded = split(n=50, k=1)
  scores = embedded.texts.projection[:, 0] @ embedded.projection.T
  counts = np.bincount(np.argsort(-scores, 1)[:, :10].ravel(), minlength=50)
  found = run(embedded)
  np.testing.assert_allclose(found['retrieval/t2i_hubness'], hubness.skewness(counts), rtol=1e-6)
  np.testing.assert_allclose(found['retrieval/t2i_retrieved_hubness'], hubness.skewness(counts[counts > 0]), rtol=1e-6)
  np.testing.assert_allclose(found['retrieval/t2i_largest_hub'], counts.max() / 50)


@pytest.mark.parametrize('normalise', hubness.NORMALISATIONS[1:])
def test_normalised_ranks_are_those_of_normalised_matrices(normalise):
  embedded, train = split(k=2, missing=0.2), split(n=55, k=2, seed=9, missing=0.2)
  evaluator = retrieval.make(normalise=normalise, beta=7.0, gallery_beta=2.0, neighbours=2)
  found = evaluator.run(Fixed(test=embedded, train=train))
  for k, name in enumerate(embedded.texts.slots):
    there, known = embedded.texts.mask[:, k], train.texts.mask[:, k]
    x, t = embedded.projection, embedded.texts.projection[:, k]
    bank_x, bank_t = train.projection, train.texts.projection[:, k][known]
    sides = {'t2i': (t[there], x, bank_t, bank_x), 'i2t': (x[there], t[there], bank_x, bank_t)}
    for direction, (queries, gallery, a, c) in sides.items():
      scores, of_a, of_c = (np.asarray(z @ gallery.T) for z in (queries, a, c))
      function = getattr(hubness, normalise)
      banks = (of_a, of_c) if 'dual' in normalise else (of_a,)
      options = {} if normalise == 'csls' else dict(beta=7.0)
      options |= dict(gallery_beta=2.0) if 'dual' in normalise else {}
      options |= dict(k=2) if 'dynamic' in normalise or normalise == 'csls' else {}
      made = np.asarray(function(scores, *banks, **options))
      own = np.flatnonzero(there) if direction == 't2i' else np.arange(there.sum())
      rank = 1 + (made > made[np.arange(len(made)), own][:, None]).sum(1)
      np.testing.assert_allclose(found[f'retrieval/{name}/normalised/{direction}_mean_rank'], rank.mean(), atol=1e-6)
  assert found['retrieval/normalised/t2i_mean_rank'] != found['retrieval/t2i_mean_rank']


# --- as an evaluator ---


def test_every_metric_is_a_finite_float_with_a_line_in_the_glossary():
  embedded = split(concepts=20)
  found = run(embedded, per_concept=True, normalise='dual_inverted_softmax')
  glossary = retrieval.glossary(embedded.texts.slots)
  assert set(found) == set(glossary) >= set(retrieval.GLOSSARY) >= set(retrieval.MORE_IS_BETTER)
  assert all(type(v) is float and np.isfinite(v) for v in found.values())
  assert all('\n' not in line for line in glossary.values())


def test_a_transfer_guard_changes_nothing():
  embed = Fixed(test=split(concepts=20), train=split(n=55, seed=9))
  evaluator = retrieval.make(per_concept=True, normalise='dynamic_dual_inverted_softmax')
  with jax.transfer_guard('disallow'):
    guarded = evaluator.run(embed)
  assert guarded == evaluator.run(embed)


@pytest.mark.parametrize('n', [40, 1032])
def test_rows_over_devices_give_the_ranks_of_one(rows_sharding, n):
  embedded, train = split(n=n, missing=0.2), split(n=56, seed=9)
  evaluator = retrieval.make(normalise='dual_inverted_softmax')
  want = evaluator.run(Fixed(test=embedded, train=train))
  placed = [e._replace(projection=jax.device_put(e.projection, rows_sharding)) for e in (embedded, train)]
  got = evaluator.run(Fixed(test=placed[0], train=placed[1]))
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=2e-3 if 'hubness' in name else 1e-9, err_msg=name)


def test_no_matrix_of_all_pairs_is_made():
  n = 8192
  x, mask = jax.ShapeDtypeStruct((n, 64), np.float32), {'mask': jax.ShapeDtypeStruct((n,), bool)}
  lowered = retrieval._match.lower(x, x, mask, mask, rule=hubness.Rule(), k=10)
  assert lowered.compile().memory_analysis().temp_size_in_bytes < 64 * 2**20  # the matrix is 256 MiB


def test_what_cannot_be_retrieved_is_refused():
  good = split()
  for options, message in (
    (dict(normalise='softmax'), "unknown normalisation 'softmax'.*inverted_softmax"),
    (dict(beta=0.0), 'beta, gallery_beta and neighbours must be positive'),
  ):
    with pytest.raises(Refusal, match=message):
      retrieval.make(**options)
  nothing = good.texts._replace(mask=np.zeros_like(good.texts.mask))
  for texts in (None, nothing):
    with pytest.raises(Refusal, match="retrieval evaluator needs captions, but split 'test' has none"):
      run(good._replace(texts=texts))
  infinite = good.texts._replace(projection=good.texts.projection * np.inf)
  with np.errstate(invalid='ignore'), pytest.raises(Refusal, match='not finite'):
    run(good._replace(texts=infinite))
  with pytest.raises(Refusal, match='one picture for each concept need concepts'):
    run(good._replace(concept=None), per_concept=True)
  with pytest.raises(Refusal, match="split 'train' has captions in"):
    run(split(k=2), normalise='csls')
