import jax
import numpy as np
import pytest
from captioned import Fixed, split

from contrastive_jax.evals import pooled_retrieval, retrieval
from contrastive_jax.types import Refusal, Texts


def by_hand(embedded):
  """Ranks from the whole matrix of images and captions in float64."""
  x, t = np.asarray(embedded.projection, np.float64), np.asarray(embedded.texts.projection, np.float64)
  mask, found = embedded.texts.mask, {'t2i': [], 'i2t': []}
  dots = np.einsum('nd,mkd->nmk', x, t)
  there = mask.any(1)
  for i in np.flatnonzero(there):
    best = dots[i, i][mask[i]].max()
    others = np.arange(len(x)) != i
    found['i2t'].append(1 + (dots[i][others][mask[others]] >= best).sum())
    for k in np.flatnonzero(mask[i]):
      found['t2i'].append(1 + (dots[others & there, i, k] >= dots[i, i, k]).sum())
  return {direction: np.array(ranks) for direction, ranks in found.items()}


@pytest.mark.parametrize('missing', [0.0, 0.4])
def test_ranks_are_those_of_the_whole_matrix(missing):
  embedded = split(n=40, k=5, missing=missing)
  got = pooled_retrieval.make().run(Fixed(test=embedded))
  for direction, ranks in by_hand(embedded).items():
    for k in (1, 5, 10):
      assert got[f'pooled_retrieval/{direction}_r{k}'] == pytest.approx((ranks <= k).mean(), abs=1e-12)
    assert got[f'pooled_retrieval/{direction}_median_rank'] == np.median(ranks)


def test_of_one_caption_it_is_retrieval():
  embed = Fixed(test=split(n=30, k=1))
  pooled, each = pooled_retrieval.make().run(embed), retrieval.make().run(embed)
  for name, value in pooled.items():
    assert value == pytest.approx(each[name.removeprefix('pooled_')], abs=1e-12)


def test_an_own_caption_is_no_rival_of_another():
  x = np.eye(3, dtype=np.float32)
  texts = Texts(np.repeat(x[:, None], 4, axis=1), np.ones((3, 4), bool), ('a', 'b', 'c', 'd'))
  got = pooled_retrieval.make().run(Fixed(test=split(n=3)._replace(projection=x, texts=texts)))
  assert got['pooled_retrieval/i2t_r1'] == got['pooled_retrieval/t2i_r1'] == 1


def test_equal_embeddings_find_nothing():
  x = np.tile(np.float32([[1, 0]]), (12, 1))
  texts = Texts(np.repeat(x[:, None], 2, axis=1), np.ones((12, 2), bool), ('a', 'b'))
  got = pooled_retrieval.make().run(Fixed(test=split(n=12)._replace(projection=x, texts=texts)))
  assert got['pooled_retrieval/i2t_r10'] == got['pooled_retrieval/t2i_r10'] == 0


def test_a_transfer_guard_changes_nothing():
  embed, evaluator = Fixed(test=split()), pooled_retrieval.make()
  with jax.transfer_guard('disallow'):
    guarded = evaluator.run(embed)
  assert guarded == evaluator.run(embed)


def test_a_split_without_captions_is_refused():
  with pytest.raises(Refusal, match='pooled_retrieval evaluator needs captions'):
    pooled_retrieval.make().run(Fixed(test=split()._replace(texts=None)))
