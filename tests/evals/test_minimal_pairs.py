"""Minimal pairs: explicit choices, ties of a text tower that sees no order, and means over groups."""

import jax
import numpy as np
import pytest
from captioned import Fixed, split, unit

from contrastive_jax.evals import minimal_pairs
from contrastive_jax.types import Refusal


def run(embedded, **options):
  return minimal_pairs.make(**options).run(Fixed(test=embedded))


def expected(embedded, k, group):
  """Every choice of an image between its caption and a variant's, in order; and the chooser's group."""
  x, t, there = embedded.projection, embedded.texts.projection[:, k], embedded.texts.mask[:, k]
  won, groups = [], []
  for i in range(len(x)):
    for j in range(len(x)):
      if i != j and embedded.concept[i] == embedded.concept[j] >= 0 and there[i] and there[j]:
        won.append(x[i] @ t[i] > x[i] @ t[j])
        groups.append(group[i])
  return np.array(won), np.array(groups)


@pytest.mark.parametrize('groups', ['concept', 'label'])
def test_accuracies_equal_explicit_choices(groups):
  embedded = split(n=60, concepts=20, missing=0.2, noise=1.5)
  group = getattr(embedded, groups)
  found = run(embedded, groups=groups)
  accuracies = []
  for k, slot in enumerate(embedded.texts.slots):
    won, of = expected(embedded, k, group)
    np.testing.assert_allclose(found[f'minimal_pairs/{slot}/accuracy'], won.mean())
    macro = np.mean([won[of == each].mean() for each in np.unique(of)])
    np.testing.assert_allclose(found[f'minimal_pairs/{slot}/macro_accuracy'], macro)
    accuracies.append(won.mean())
  np.testing.assert_allclose(found['minimal_pairs/accuracy'], np.mean(accuracies))
  assert found['minimal_pairs/ties'] == 0 and 0.5 < found['minimal_pairs/accuracy'] < 1


def test_choices_are_made_in_chunks(monkeypatch):
  embedded = split(n=60, concepts=6)
  want = run(embedded)
  monkeypatch.setattr(minimal_pairs, 'CHUNK', 17)
  assert run(embedded) == want


def test_rows_without_a_concept_or_a_variant_choose_nothing():
  concept = np.array([3, 3, -1, -1, 5, 3])
  there = np.array([True, True, True, True, True, False])
  assert minimal_pairs.variants(concept, there).tolist() == [[0, 1], [1, 0]]


def bags(n=12, words=5, d=16, seed=0):
  """Captions of pairs whose words are the same in another order, by a tower that averages their embeddings."""
  random = np.random.default_rng(seed)
  table = random.standard_normal((40, d)).astype(np.float32)
  texts = random.integers(0, 40, (n, words))
  both = np.stack([texts, random.permuted(texts, axis=1)], 1).reshape(2 * n, words)
  t = np.zeros((2 * n, d), np.float32)
  for word in both.T:  # one after another: the sums differ in rounding
    t += table[word]
  return unit(t)


def test_a_bag_of_words_has_nothing_but_ties():
  t = bags()
  embedded = split(n=24, k=1, d=16)
  x = unit(t + 0.3 * np.random.default_rng(1).standard_normal(t.shape))
  embedded = embedded._replace(
    projection=x, concept=np.arange(24) // 2, texts=embedded.texts._replace(projection=t[:, None])
  )
  assert (t[::2] != t[1::2]).any()
  found = run(embedded, per_slot=False)
  assert found == {'minimal_pairs/accuracy': 0, 'minimal_pairs/macro_accuracy': 0, 'minimal_pairs/ties': 1}


def test_of_ties_the_rule_of_the_first_is_right_where_the_true_caption_is_first_and_wrong_where_it_is_last():
  t = bags(n=12)
  x = unit(np.random.default_rng(1).standard_normal((12, 16)))
  scores = np.stack([(x * t[::2]).sum(1), *[(x * t[1::2]).sum(1)] * 4], 1)
  choice = minimal_pairs.choose(scores, 0)
  assert (choice.won | choice.tied).mean() == 1.0  # Order: the true caption comes first
  assert choice.won.mean() == 0.0  # Relation and Attribution: it comes last
  assert minimal_pairs.choose(scores, 4).tied.all()


def test_a_choice_is_won_by_the_only_largest_score():
  scores = np.array([[3.0, 1, 2], [2, 2, 1], [1, 2, 2], [0, 0, 5]])
  choice = minimal_pairs.choose(scores, np.array([0, 0, 0, 2]))
  assert choice.won.tolist() == [True, False, False, True]
  assert choice.tied.tolist() == [False, True, False, False]


def test_each_group_counts_the_same_in_the_macro_mean():
  assert minimal_pairs.macro(np.array([1, 1, 1, 0]), np.array([7, 7, 7, 2])) == 0.5


def test_slots_without_variants_are_left_out_and_every_metric_has_a_line():
  embedded = split(n=40, concepts=10)
  mask = embedded.texts.mask.copy()
  mask[1:, 1] = False
  found = run(embedded._replace(texts=embedded.texts._replace(mask=mask)))
  assert set(found) == set(minimal_pairs.glossary(('en', 'ja'))) > set(minimal_pairs.GLOSSARY)
  assert all(type(value) is float for value in found.values())


def test_rows_over_devices_choose_as_on_one(rows_sharding):
  embedded = split(n=64, concepts=20)
  placed = embedded._replace(projection=jax.device_put(embedded.projection, rows_sharding))
  assert run(placed) == pytest.approx(run(embedded))


def test_a_transfer_guard_changes_nothing():
  with jax.transfer_guard('disallow'):
    guarded = run(split(concepts=10))
  assert guarded == run(split(concepts=10))


def test_what_has_no_variants_is_refused():
  good = split(n=40, concepts=10)
  with pytest.raises(Refusal, match="unknown groups 'labels'; did you mean 'label'"):
    minimal_pairs.make(groups='labels')
  with pytest.raises(Refusal, match='needs concepts'):
    run(good._replace(concept=None))
  with pytest.raises(Refusal, match='needs two captioned rows of a concept'):
    run(good._replace(concept=np.arange(40)))
  with pytest.raises(Refusal, match='minimal_pairs evaluator needs captions'):
    run(good._replace(texts=None))
