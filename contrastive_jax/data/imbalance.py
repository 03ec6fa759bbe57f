"""Long tails: a split thinned until the sizes of its classes fall exponentially."""

import math

import numpy as np

from contrastive_jax.data.source import Source, labels, permutation
from contrastive_jax.types import Refusal

SLACK = 1e-9  # relative, of powers whose exact value is a whole number


def long_tail(source: Source, *, ratio: float, largest: int | None = None, seed: int | None = None) -> Source:
  r"""The source with fewer examples: of the C classes, the one of rank k keeps

  .. math:: n_k = \lfloor n_0 \, r^{-k / (C - 1)} \rfloor, \qquad k = 0, \ldots, C - 1

  A row of the result is its place among the kept rows, which are in the order of the source: 0 to num_examples - 1, so
  state of every example has no gaps. Mean and standard deviation stay those of the whole split. Rows without a label
  are left out. Every row of the source is read once, for its label.

  Args:
    source: a split with labels.
    ratio: r, the size of the most frequent class over that of the rarest; at least 1.
    largest: n_0; None is the largest of which every class has enough.
    seed: of the ranks of the classes, and of which examples stay. None: classes in the order of their numbers, 0 the
      most frequent, as in the long-tailed CIFAR; seed 0 for the examples.

  Raises:
    Refusal: a ratio below 1 or not finite; no labels, or those of one class; a rarest class without examples; more
      examples wanted than a class has; a negative seed.

  Source: Cui et al., 2019, "Class-Balanced Loss Based on Effective Number of Samples".
  """
  if not 1 <= ratio < math.inf:
    raise Refusal(f'imbalance is the size of the most frequent class over that of the rarest, at least 1, not {ratio}')
  if seed is not None and seed < 0:
    raise Refusal(f'imbalance_seed must be at least 0, but it is {seed}')
  label = labels(source)
  classes, counts = np.unique(label[label >= 0], return_counts=True)
  if len(classes) < 2:
    raise Refusal(f"imbalance needs examples of two classes or more, but '{source.name}' has {len(classes)}")
  ranked = np.arange(len(classes)) if seed is None else permutation(seed, 1, len(classes))
  sizes = _sizes(source, classes[ranked], counts[ranked], ratio, largest)
  order = permutation(seed or 0, 0, len(label))
  kept = [order[label[order] == k][:size] for k, size in zip(classes[ranked], sizes, strict=True)]
  rows = np.sort(np.concatenate(kept))

  def read(indices):
    return source.read(rows[indices])

  captions = source.captions
  if captions is not None:
    of_source = captions.texts
    captions = captions._replace(texts=lambda indices: of_source(rows[indices]))
  return source._replace(num_examples=len(rows), read=read, captions=captions)


def _sizes(source: Source, classes: np.ndarray, counts: np.ndarray, ratio: float, largest: int | None) -> np.ndarray:
  """Examples that each class keeps, most frequent class first."""
  share = ratio ** -np.linspace(0, 1, len(classes))
  most = counts / share * (1 + SLACK)  # of the most frequent class, as far as each class has its share
  if largest is not None and largest > most.min():
    short = most.argmin()
    name = source.label_names[classes[short]] if source.label_names else classes[short]
    raise Refusal(
      f"imbalance_largest={largest} needs {math.ceil(largest * share[short])} examples of class '{name}', of which "
      f"'{source.name}' has {counts[short]}"
    )
  head = math.floor(most.min()) if largest is None else largest
  sizes = np.floor(head * share * (1 + SLACK)).astype(int)
  if sizes.min() < 1:
    raise Refusal(
      f"imbalance={ratio:g} leaves no example of the rarest class of '{source.name}', whose most frequent keeps {head}"
    )
  return sizes
