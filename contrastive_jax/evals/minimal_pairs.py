"""Minimal pairs: does an image prefer its caption to that of a variant, which differs in one attribute?

Rows of one concept are variants of one thing. Each image chooses between its own caption and that of each variant; it
is right if its own is the more similar. Ties are mistakes and are counted besides: a text tower that does not see what
differs, the order of words say, has nothing but ties.

Reference: Yuksekgonul et al., 2023, "When and why vision-language models behave like bags-of-words" (ARO).
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax.evals import captions, evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Embedded, Refusal, nearest

_FIGURES = {
  'accuracy': "share of choices between the own caption and a variant's that fall on the own one; chance is 0.5",
  'macro_accuracy': 'the same, as the mean over groups (concepts) of the share in each',
  'ties': 'share of these choices in which the two are equally similar, which are mistakes',
}


def glossary(slots: tuple[str, ...] = ()) -> dict[str, str]:
  """One-line meanings of the metrics: means over the slots, and those of these slots."""
  found = {f'minimal_pairs/{name}': meaning for name, meaning in _FIGURES.items()}
  return found | {
    f'minimal_pairs/{slot}/{name}': f'{slot}: {meaning}' for slot in slots for name, meaning in _FIGURES.items()
  }


GLOSSARY = glossary()
MORE_IS_BETTER = ('minimal_pairs/accuracy', 'minimal_pairs/macro_accuracy')

GROUPS = ('concept', 'label')
CHUNK = 2**14  # choices that are computed at a time


class Choice(NamedTuple):
  """The outcome of choices between several candidates."""

  won: Bool[np.ndarray, ' n']  # the right one has the largest score, and no other has it too
  tied: Bool[np.ndarray, ' n']  # the right one has the largest score, and so has another


def choose(scores: Float[np.ndarray, 'n c'], correct: Int[np.ndarray, ' n'] | int = 0) -> Choice:
  """Whether the right candidate of each row is chosen; scores within rounding, `captions.TIE`, are equal.

  A rule that takes the first of equal candidates, as the released code of ARO does, is right in `won | tied` where the
  right one comes first (COCO-Order), and in `won` alone where it comes last (VG-Relation, VG-Attribution).
  """
  scores = np.asarray(scores)
  index = np.broadcast_to(np.asarray(correct), len(scores))[:, None]
  own = np.take_along_axis(scores, index, 1)[:, 0]
  others = scores.astype(np.float64, copy=True)
  np.put_along_axis(others, index, -np.inf, 1)
  margin = own - others.max(1)
  return Choice(margin > captions.TIE, np.abs(margin) <= captions.TIE)


def macro(values: np.ndarray, group: Int[np.ndarray, ' n']) -> float:
  """Mean over groups of the mean of the values in each."""
  _, at, counts = np.unique(group, return_inverse=True, return_counts=True)
  return float((np.bincount(at, weights=np.asarray(values, np.float64)) / counts).mean())


def variants(concept: Int[np.ndarray, ' n'], there: Bool[np.ndarray, ' n']) -> Int[np.ndarray, 'p 2']:
  """Ordered pairs of different rows of one concept, of those that are there; -1 is no concept."""
  rows = np.flatnonzero(there & (np.asarray(concept) >= 0))
  rows = rows[np.argsort(concept[rows], kind='stable')]
  _, starts = np.unique(concept[rows], return_index=True)
  pairs = [np.empty((0, 2), np.int64)]
  for of_one in np.split(rows, starts[1:]):
    first, second = np.meshgrid(of_one, of_one, indexing='ij')
    different = first != second
    pairs.append(np.stack([first[different], second[different]], axis=1))
  return np.concatenate(pairs)


@jax.jit
def _scores(x: Float[Array, 'n p'], t: Float[Array, 'n p'], pairs: Int[Array, 'c 2']) -> Float[Array, 'c 2']:
  of_images = x[pairs[:, :1]]
  return (of_images * t[pairs]).sum(-1)


def scores(x: Float[Array, 'n p'], t: Float[Array, 'n p'], pairs: Int[np.ndarray, 'c 2']) -> Float[np.ndarray, 'c 2']:
  """Similarities of the first row's image to its own caption and to that of the second row, a chunk at a time."""
  size = min(CHUNK, len(pairs))
  padded = np.concatenate([pairs, np.zeros((-len(pairs) % size, 2), np.int64)]).astype(np.int32)
  parts = [captions.fetch(_scores(x, t, jax.device_put(each))) for each in padded.reshape(-1, size, 2)]
  return np.concatenate(parts)[: len(pairs)]


def _group(embedded: Embedded, groups: str) -> Int[np.ndarray, ' n']:
  return np.asarray(embedded.concept if groups == 'concept' else embedded.label)


def make(*, split: str = 'test', groups: str = 'concept', per_slot: bool = True) -> Evaluator:
  """Every metric of `glossary`: means over the slots in which variants have captions, and those of each slot.

  Args:
    split: 'train' or 'test'.
    groups: over which the macro accuracy is a mean: 'concept' or 'label' (of the image that chooses).
    per_slot: figures of each slot too, 'minimal_pairs/en/accuracy'.

  Raises:
    Refusal: here for an unknown group; by `run` for a split without captions, without concepts or without two captioned
      rows of one concept, and for embeddings that are not finite.
  """
  if groups not in GROUPS:
    raise Refusal(f"unknown groups '{groups}'{nearest(str(groups), GROUPS)}")

  def run(embed) -> dict[str, float]:
    embedded = embed(split)
    x = evaluator.unit(evaluator.rows(embedded, 'projection', split))
    texts = captions.texts_of(embedded, split, 'minimal_pairs')
    if embedded.concept is None:
      raise Refusal(f"the minimal_pairs evaluator needs concepts, but split '{split}' has none")
    group, found = _group(embedded, groups), {}
    for s, slot in enumerate(texts.slots):
      pairs = variants(np.asarray(embedded.concept), texts.mask[:, s])
      if not len(pairs):
        continue
      choice = choose(scores(x, captions.slot_of(texts, s), pairs))
      accuracy, ties = float(choice.won.mean()), float(choice.tied.mean())
      found[slot] = {'accuracy': accuracy, 'macro_accuracy': macro(choice.won, group[pairs[:, 0]]), 'ties': ties}
    if not found:
      raise Refusal(f"the minimal_pairs evaluator needs two captioned rows of a concept, but split '{split}' has none")
    metrics = {f'minimal_pairs/{name}': float(np.mean([each[name] for each in found.values()])) for name in _FIGURES}
    of_slots = {f'minimal_pairs/{slot}/{name}': v for slot, each in found.items() for name, v in each.items()}
    return metrics | (of_slots if per_slot else {})

  return Evaluator(run)
