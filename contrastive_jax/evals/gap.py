"""Modality gap: how far apart the embeddings of two modalities, or of the two towers of one, have come to lie."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from contrastive_jax import losses
from contrastive_jax.evals import captions, evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Refusal, nearest

GLOSSARY = {
  'gap/centroid_distance': 'distance between the mean embeddings of the two modalities; 0 is no gap',
  'gap/separability': 'held-out accuracy of a linear classifier that tells the modalities apart; 0.5 is overlap',
  'gap/alignment': 'mean squared distance between the embeddings of a pair; 0 is perfect',
  'gap/uniformity': 'log mean exp(-2 |x - y|^2) over rows of one modality, mean of both; lower is more uniform',
  'gap/cross_uniformity': 'log mean exp(-2 |x - y|^2) over rows of the two modalities that are no pair',
}
# None: towers that do not overlap may retrieve better.
MORE_IS_BETTER = ()

_STATISTICS: dict[str, Callable] = {
  'alignment': jax.jit(losses.alignment),
  'uniformity': jax.jit(lambda x, y: (losses.uniformity(x) + losses.uniformity(y)) / 2),
  'cross_uniformity': jax.jit(losses.cross_uniformity),
}


_taken = jax.jit(lambda x, rows: x[rows])


def separability(x: Float[np.ndarray, 'n d'], y: Float[np.ndarray, 'n d'], *, seed: int = 0) -> float:
  """Accuracy of telling rows of x from rows of y, by a linear classifier on the fifth of the pairs that is held out.

  Logistic regression on standardised features (C = 100), fitted on 80% of the pairs. A pair is held out as a whole, so
  equal towers have exactly 0.5: nothing can be learnt of a row from its partner.
  """
  from sklearn.linear_model import LogisticRegression  # slow to import, and only needed here
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  order = np.random.default_rng(seed).permutation(len(x))
  held = max(1, len(x) // 5)
  split = [np.concatenate([side[rows] for side in (x, y)]) for rows in (order[held:], order[:held])]
  of_y = [np.repeat([0, 1], len(rows) // 2) for rows in split]
  classifier = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=1000))
  return float(classifier.fit(split[0], of_y[0]).score(split[1], of_y[1]))


def explained_variance(x: Float[Array, 'n d']) -> Float[np.ndarray, ' d']:
  """Share of the variance of the rows in their first 1, 2, ... principal directions; 1 throughout where there is none.

  Ascending, at most min(n, d) of them; the last is 1.
  """
  rows = np.asarray(x, np.float64)
  variance = np.square(np.linalg.svd(rows - rows.mean(0), compute_uv=False))
  total = variance.sum()
  return np.cumsum(variance) / total if total > 0 else np.ones_like(variance)


def modality_gap(x: Float[Array, 'n d'], y: Float[Array, 'n d'], *, seed: int = 0) -> dict[str, float]:
  """Metrics of the gap between two modalities whose rows are pairs; `GLOSSARY` says what each is.

  Args:
    x: embeddings `[n, d]` of one modality, n >= 5; scaled to unit norm here.
    y: of the other; y[i] is the partner of x[i].
    seed: of the split of the classifier that tells them apart.

  Raises:
    Refusal: shapes that differ, fewer than 5 pairs, a negative seed.

  Source: Fahim et al., 2024, "It's Not a Modality Gap".
  """
  jax.eval_shape(losses.alignment, x, y)  # refuses what does not fit
  if len(x) < 5:
    raise Refusal(f'a fifth of the pairs is held out, so 5 or more are needed, but there are {len(x)}')
  evaluator.check_seed(seed)
  x, y = evaluator.unit(x), evaluator.unit(y)
  found = {name: float(jax.device_get(statistic(x, y))) for name, statistic in _STATISTICS.items()}
  rows = [np.asarray(captions.fetch(side), np.float64) for side in (x, y)]
  found['centroid_distance'] = float(np.linalg.norm(rows[0].mean(0) - rows[1].mean(0)))
  found['separability'] = separability(*rows, seed=seed)
  return {f'gap/{name}': value for name, value in found.items()}


def make(*, split: str = 'test', slot: str | None = None, seed: int = 0) -> Evaluator:
  """`modality_gap` between the images of a split and their captions.

  Args:
    split: 'train' or 'test'.
    slot: whose captions, a language say; None: the first caption that an image has.
    seed: of the split of the classifier that tells them apart.

  Raises:
    Refusal: here for a negative seed; by `run` for a split without captions or with fewer than 5, an unknown slot, and
      for embeddings that are not finite.
  """
  evaluator.check_seed(seed)

  def run(embed) -> dict[str, float]:
    embedded = embed(split)
    x, texts = evaluator.rows(embedded, 'projection', split), captions.texts_of(embedded, split, 'gap')
    if slot is not None and slot not in texts.slots:
      raise Refusal(f"split '{split}' has no captions in '{slot}'{nearest(slot, texts.slots)}")
    t, rows = captions.first_of(texts, None if slot is None else texts.slots.index(slot))
    return modality_gap(_taken(x, jax.device_put(rows.astype(np.int32))), t, seed=seed)

  return Evaluator(run)
