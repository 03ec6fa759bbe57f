"""Retrieval between images and their captions, in both directions and in every slot of captions, a language say.

Each caption looks for its image among all images of the split, and each image for its caption among those of one slot.
The rank of what is looked for is 1 plus the number of other candidates whose score is not lower: ties count as lost,
so that equal embeddings find nothing. Cosines that differ by no more than `captions.TIE`, the rounding of their
products, are equal, so that ranks do not depend on how the work is cut.

Ranks are counted over tiles, both directions in one pass: no n x n matrix is made.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax import similarity as sim
from contrastive_jax.evals import captions, evaluator, hubness
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.evals.hubness import Bank, Rule
from contrastive_jax.types import Refusal, Texts, nearest

NEAREST = 10  # whose items' occurrences hubness counts

_DIRECTIONS = {'t2i': ('captions', 'image'), 'i2t': ('images', 'caption')}
_FIGURES = {
  'r1': 'share of {0} whose {1} is found first',
  'r5': 'share of {0} whose {1} is among the first 5',
  'r10': 'share of {0} whose {1} is among the first 10',
  'map': 'mean of 1 / rank of the {1} that {0} look for, which is the average precision of one relevant item',
  'median_rank': 'median rank of the {1} that {0} look for; 1 is best',
  'mean_rank': 'mean rank of the {1} that {0} look for; 1 is best',
  'hubness': 'skewness of how often a candidate is among the 10 nearest of {0}; large: few are close to all',
  'retrieved_hubness': 'the same over the candidates that are among the 10 nearest of any',
  'largest_hub': 'share of {0} that have the most frequent candidate among their 10 nearest',
}
_SPREAD = 'mean over examples of the standard deviation of the rank of the {1} over slots (published as MRV); 0 is best'
_VARIANTS = {'': '', 'one_per_concept/': 'one picture for each concept: ', 'normalised/': 'normalised scores: '}


def glossary(slots: tuple[str, ...] = ()) -> dict[str, str]:
  """One-line meanings of the metrics: means over the slots, and those of these slots."""
  found = {}
  for variant, prefix in _VARIANTS.items():
    for direction, names in _DIRECTIONS.items():
      for figure, meaning in _FIGURES.items():
        for slot in ('', *slots):
          of_slot = f'{slot}: ' if slot else ''
          where = f'retrieval/{slot}/' if slot else 'retrieval/'
          found[f'{where}{variant}{direction}_{figure}'] = of_slot + prefix + meaning.format(*names)
      found[f'retrieval/{variant}{direction}_rank_spread'] = prefix + _SPREAD.format(*names)
  return found


GLOSSARY = glossary()
MORE_IS_BETTER = tuple(f'retrieval/{d}_{figure}' for d in _DIRECTIONS for figure in ('r1', 'r5', 'r10', 'map'))


class Found(NamedTuple):
  """What queries found, one direction of one slot; rows are examples."""

  rank: Int[np.ndarray, ' n']  # of the own candidate, from 1; 0 where there is no query
  nearest: Int[np.ndarray, 'n k']  # rows of the k nearest candidates, -1 where there are fewer


@functools.partial(jax.jit, static_argnames=('rule', 'k'))
def _match(x, t, of_images, of_texts, *, rule: Rule, k: int):
  """Both directions of pairs: how many candidates are not behind the own one, and the k nearest."""
  cosine = (x * t).sum(-1)

  def ahead(pair):
    other = pair.anchor['position'] != pair.other['position']
    return (
      sim.valid(pair)
      & other
      & (hubness.score(pair.dot + captions.TIE, pair.anchor, pair.other, rule) >= pair.anchor['own'])
    )

  terms = [sim.size(ahead), sim.top(k, lambda pair: hubness.score(pair.dot, pair.anchor, pair.other, rule))]
  own = [hubness.score(cosine, *pair, rule) for pair in ((of_images, of_texts), (of_texts, of_images))]
  sides = [dict(entries, z=z, own=o) for entries, z, o in zip((of_images, of_texts), (x, t), own, strict=True)]
  return [(count, top[1]) for count, top in sim.Similarity(*sides).reduce(terms, terms)]


def match(
  x: Float[Array, 'n d'],
  t: Float[Array, 'n d'],
  images: Bool[np.ndarray, ' n'],
  texts: Bool[np.ndarray, ' n'],
  *,
  rule: Rule = Rule(),  # noqa: B008
  of_images: dict | None = None,
  of_texts: dict | None = None,
) -> dict[str, Found]:
  """Ranks and nearest candidates of pairs (x_i, t_i) of unit rows, by direction: 't2i' and 'i2t'.

  Args:
    x: images.
    t: captions; t[i] is that of x[i].
    images: which images exist, as candidates.
    texts: which captions exist; only images that have one look for it.
    rule: of the scores.
    of_images: entries that the rule reads of the images; see `hubness.of_gallery`.
    of_texts: the same of the captions.
  """
  k = min(NEAREST, len(x))
  masks = [jax.device_put(np.asarray(mask)) for mask in (images, texts)]
  entries = [{'mask': mask, **(more or {})} for mask, more in zip(masks, (of_images, of_texts), strict=True)]
  of_x, of_t = captions.fetch(_match(x, t, *entries, rule=rule, k=k))
  ask = np.asarray(images & texts)
  return {
    direction: Found(np.where(ask, 1 + np.asarray(count, np.int64), 0), np.where(ask[:, None], top, -1))
    for direction, (count, top) in (('t2i', of_t), ('i2t', of_x))
  }


def figures(found: Found, candidates: Bool[np.ndarray, ' n']) -> dict[str, float]:
  """The figures of one direction of one slot; `candidates` says which rows can be found."""
  rank = found.rank[found.rank > 0]
  occurrences = hubness.k_occurrence(found.nearest, len(candidates))[candidates]
  values = {f'r{k}': (rank <= k).mean() for k in (1, 5, 10)}
  values |= {'map': (1 / rank).mean(), 'median_rank': np.median(rank), 'mean_rank': rank.mean()}
  values['hubness'] = hubness.skewness(occurrences)
  values['retrieved_hubness'] = hubness.skewness(occurrences[occurrences > 0])
  values['largest_hub'] = occurrences.max() / len(rank)
  return {name: float(value) for name, value in values.items()}


def rank_spread(ranks: Int[np.ndarray, 'n k'], mask: Bool[np.ndarray, 'n k'] | None = None) -> float:
  r"""Mean over rows of the population standard deviation of a row's ranks, of those kept by `mask`.

  .. math:: \frac1N \sum_j \sqrt{\frac1K \sum_k (r_{jk} - \bar r_j)^2}

  Rows with fewer than two ranks do not count; nan where all are such. Published as mean rank variance, MRV.

  Reference: Nie et al., 2024, "Improving the Consistency in Cross-Lingual Cross-Modal Retrieval", and its code.
  """
  mask = np.ones(ranks.shape, bool) if mask is None else mask
  several = mask.sum(1) > 1
  if not several.any():
    return float('nan')
  kept = np.ma.masked_array(np.asarray(ranks, np.float64), ~mask)[several]
  return float(kept.std(1).mean())


def first_of_concepts(concept: Int[np.ndarray, ' n']) -> Bool[np.ndarray, ' n']:
  """The first row of each concept, and all rows of none (-1)."""
  keep = np.asarray(concept) < 0
  keep[np.unique(concept, return_index=True)[1]] = True
  return keep


class _Banks(NamedTuple):
  """What normalisation takes of the split it has its banks from."""

  rule: Rule
  x: Float[Array, 'm d']
  texts: Texts


def _normalised(banks: _Banks, x, t, images, texts, slot: int, raw: dict[str, Found]) -> dict[str, Found]:
  """`match` by the rule of the banks; hubs are met by those whose nearest candidate in `raw` is one."""
  rule = banks.rule
  mask = np.asarray(banks.texts.mask[:, slot])
  bank_t = Bank(captions.slot_of(banks.texts, slot), jax.device_put(mask))
  bank_x = Bank(banks.x, jax.device_put(np.ones(len(mask), bool)))
  sides = {
    't2i': hubness.of_gallery(x, jax.device_put(images), bank_t, bank_x, rule),
    'i2t': hubness.of_gallery(t, jax.device_put(texts), bank_x, bank_t, rule),
  }
  # Who is looked for in one direction looks in the other.
  entries = {'of_images': dict(sides['t2i'][0]), 'of_texts': dict(sides['i2t'][0])}
  for direction, queries in (('t2i', 'of_texts'), ('i2t', 'of_images')):
    first = raw[direction].nearest[:, 0]
    for name, hubs in sides[direction][1].items():
      met = np.asarray(captions.fetch(hubs))[np.maximum(first, 0)] & (first >= 0)
      entries[queries][f'hub_{name}'] = jax.device_put(met)
  return match(x, t, images, texts, rule=rule, **entries)


def _of_slots(x, texts: Texts, kept: dict[str, Bool[np.ndarray, ' n']], banks: _Banks | None):
  """What is found by slot, variant and direction, and the candidates there were; `kept` are the images of a variant."""
  of_slots: dict[str, dict[str, dict[str, Found]]] = {}
  masks: dict[tuple[str, str, str], Bool[np.ndarray, ' n']] = {}
  for s, slot in enumerate(texts.slots):
    there = {variant: (images, images & texts.mask[:, s]) for variant, images in kept.items()}
    there = {variant: pair for variant, pair in there.items() if pair[1].any()}
    if not there:
      continue
    t = captions.slot_of(texts, s)
    found = {variant: match(x, t, *pair) for variant, pair in there.items()}
    if banks is not None:
      there['normalised/'] = there['']
      found['normalised/'] = _normalised(banks, x, t, *there[''], s, found[''])
    of_slots[slot] = found
    masks |= {(slot, v, d): pair[d == 'i2t'] for v, pair in there.items() for d in _DIRECTIONS}
  return of_slots, masks


def _scores(of_slots: dict[str, dict[str, dict[str, Found]]], masks, per_slot: bool) -> dict[str, float]:
  """Metrics of what was found by slot, variant and direction; `masks` are the candidates by the same keys."""
  metrics: dict[str, float] = {}
  by_figure: dict[str, list[float]] = {}
  ranks: dict[str, list[Int[np.ndarray, ' n']]] = {}
  for slot, variants in of_slots.items():
    for variant, both in variants.items():
      for direction, found in both.items():
        ranks.setdefault(f'{variant}{direction}', []).append(found.rank)
        for name, value in figures(found, masks[slot, variant, direction]).items():
          by_figure.setdefault(f'{variant}{direction}_{name}', []).append(value)
          if per_slot:
            metrics[f'retrieval/{slot}/{variant}{direction}_{name}'] = value
  metrics |= {f'retrieval/{name}': float(np.mean(values)) for name, values in by_figure.items()}
  for name, each in ranks.items():
    together = np.stack(each, axis=1)
    if (np.sum(together > 0, axis=1) > 1).any():
      metrics[f'retrieval/{name}_rank_spread'] = rank_spread(together, together > 0)
  return metrics


def _check(normalise: str, beta: float, gallery_beta: float, neighbours: int):
  if normalise not in hubness.NORMALISATIONS:
    raise Refusal(f"unknown normalisation '{normalise}'{nearest(str(normalise), hubness.NORMALISATIONS)}")
  if beta <= 0 or gallery_beta <= 0 or neighbours < 1:
    raise Refusal(
      f'beta, gallery_beta and neighbours must be positive, but they are {beta}, {gallery_beta} and {neighbours}'
    )


def make(
  *,
  split: str = 'test',
  per_slot: bool = True,
  per_concept: bool = False,
  normalise: str = 'none',
  beta: float = 20.0,
  gallery_beta: float = 3.0,
  neighbours: int = 1,
  bank: str = 'train',
) -> Evaluator:
  """Every metric of `glossary`: means over the slots that have captions, and those of each slot.

  Args:
    split: 'train' or 'test'.
    per_slot: figures of each slot too, 'retrieval/en/t2i_r10'.
    per_concept: figures of one picture for each concept too, the first, 'retrieval/one_per_concept/t2i_r10': pictures
      of one concept that look and are called alike cannot be told apart.
    normalise: figures of scores that punish hubs too, 'retrieval/normalised/t2i_r10': 'inverted_softmax',
      'dual_inverted_softmax', the same with `dynamic_` before, or 'csls'. See `hubness`.
    beta: of the bank of queries (Bogolin et al., 2022).
    gallery_beta: of the bank of items, in dual forms (Wang et al., 2023).
    neighbours: whose nearest items of each row of a bank are hubs in dynamic forms; of an item's in CSLS, which has 10.
    bank: split that the banks are of.

  Raises:
    Refusal: here for options out of range; by `run` for a split without captions and for embeddings that are not
      finite, and for banks of other slots.
  """
  _check(normalise, beta, gallery_beta, neighbours)
  rule = Rule(normalise, beta, gallery_beta, neighbours)

  def banks_of(embed, slots) -> _Banks | None:
    if normalise == 'none':
      return None
    embedded = embed(bank)
    texts = captions.texts_of(embedded, bank, 'retrieval')
    if texts.slots != slots:
      raise Refusal(f"split '{bank}' has captions in {texts.slots}, but split '{split}' has them in {slots}")
    return _Banks(rule, evaluator.unit(evaluator.rows(embedded, 'projection', bank)), texts)

  def run(embed) -> dict[str, float]:
    embedded = embed(split)
    x, texts = (
      evaluator.unit(evaluator.rows(embedded, 'projection', split)),
      captions.texts_of(embedded, split, 'retrieval'),
    )
    kept = {'': np.ones(x.shape[0], bool)}
    if per_concept and embedded.concept is None:
      raise Refusal(f"figures of one picture for each concept need concepts, but split '{split}' has none")
    if per_concept:
      kept['one_per_concept/'] = first_of_concepts(embedded.concept)
    banks = banks_of(embed, texts.slots)
    of_slots, masks = _of_slots(x, texts, kept, banks)
    return _scores(of_slots, masks, per_slot)

  return Evaluator(run)
