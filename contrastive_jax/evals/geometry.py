"""Geometry of embeddings: alignment, uniformity, tolerance, rank, and the cosines of positives and negatives.

Rows x_i are the plain images of one split, a_i and b_i two augmented views of them, all scaled to norm 1. Statistics
of all pairs are streamed over tiles or have closed forms in sums over rows, so that nothing of size n x n is made: with
A, B the [n, d] views, the sum of all <a_i, b_j>^2 is <A^T A, B^T B>; the sum of <x_i, x_j> over a class is
``|sum x_i|^2``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int

from contrastive_jax import losses
from contrastive_jax.evals import evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Refusal

GLOSSARY = {
  'geometry/alignment': 'mean squared distance between the projections of two views of an image; 0 is perfect',
  'geometry/uniformity': 'log mean exp(-t |x - y|^2) over pairs of projections; 0 is collapse, lower is more uniform',
  'geometry/wasserstein_uniformity': 'Wasserstein-1 distance of pairwise cosines to those of uniform unit vectors',
  'geometry/tolerance': 'mean over all pairs of projections of cosine if of one class, 0 if not',
  'geometry/class_cosine': 'mean cosine between projections of one class',
  'geometry/effective_rank': 'exp of the entropy of the normalised singular values of the projections',
  'geometry/rank': 'principal directions of the projections with more than rank_tolerance of their mean square',
  'geometry/features_effective_rank': 'exp of the entropy of the normalised singular values of the features',
  'geometry/features_rank': 'principal directions of the features with more than rank_tolerance of their mean square',
  'geometry/positive_mean': 'mean cosine between two views of one image',
  'geometry/positive_std': 'standard deviation of the cosine between two views of one image',
  'geometry/negative_mean': 'mean cosine between views of two images',
  'geometry/negative_std': 'standard deviation of the cosine between views of two images',
}
# Ranks foretell accuracies where no row has a label (Garrido et al., 2023); the others are not best at an end.
MORE_IS_BETTER = ('geometry/effective_rank', 'geometry/features_effective_rank')

# Bins of [-1, 1] for pairwise cosines: half a bin, 2.4e-4, bounds the error of the Wasserstein distance.
BINS = 4096

_uniformity = jax.jit(losses.uniformity, static_argnames='t')

# --- pairs of views -------------------------------------------------------------------------------------------------


@jax.jit
def _view_statistics(a: Float[Array, 'n d'], b: Float[Array, 'n d']) -> dict[str, Float[Array, '']]:
  a, b = a.astype(jnp.float64), b.astype(jnp.float64)
  n = a.shape[0]
  positive = (a * b).sum(1)
  others = n * (n - 1)
  mean = (a.sum(0) @ b.sum(0) - positive.sum()) / others
  square = (((a.T @ a) * (b.T @ b)).sum() - jnp.square(positive).sum()) / others
  return {
    'alignment': jnp.square(a - b).sum(1).mean(),
    'positive_mean': positive.mean(),
    'positive_std': positive.std(),
    'negative_mean': mean,
    'negative_std': jnp.sqrt(jnp.maximum(square - jnp.square(mean), 0)),
  }


def view_statistics(a: Float[Array, 'n d'], b: Float[Array, 'n d']) -> dict[str, float]:
  """Alignment, and mean and standard deviation of the cosines <a_i, b_i> and <a_i, b_j>, i != j, of unit rows.

  Alignment is the mean of ``|a_i - b_i|^2`` (Wang and Isola, 2020, with alpha = 2).
  """
  # Double precision: the squares of cosines that hardly vary would cancel in float32.
  with jax.enable_x64(True):
    return {k: float(v) for k, v in jax.device_get(_view_statistics(a, b)).items()}


# --- pairs of images ------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames='classes')
def _class_sums(x: Float[Array, 'n d'], position: Int[Array, ' n'], *, classes: int) -> Float[Array, '']:
  x = x.astype(jnp.float64)
  # Rows without a class go to one class more, which is dropped.
  sums = jax.ops.segment_sum(x, position, classes + 1)[:-1]
  return jnp.square(sums).sum() - jnp.where(position < classes, jnp.square(x).sum(1), 0).sum()


def tolerance(x: Float[Array, 'n d'], label: Int[np.ndarray, ' n']) -> dict[str, float]:
  r"""Tolerance of unit rows to their class, over pairs i != j of labelled rows (Wang and Liu, 2021).

  `tolerance` is the mean over all pairs of :math:`\langle x_i, x_j \rangle [y_i = y_j]`, which contains the rate of
  pairs of one class; `class_cosine` is the mean over those pairs alone, absent where there are none. Empty where fewer
  than two rows have a label.
  """
  known = label >= 0
  n = int(known.sum())
  if n < 2:
    return {}
  _, found, counts = np.unique(label[known], return_inverse=True, return_counts=True)
  position = np.full(len(label), len(counts), np.int32)
  position[known] = found
  with jax.enable_x64(True):
    total = float(jax.device_get(_class_sums(x, jax.device_put(position), classes=len(counts))))
  same = int((counts * (counts - 1)).sum())
  return {'tolerance': total / (n * (n - 1))} | ({'class_cosine': total / same} if same else {})


@jax.jit
def _cosine_counts(x: Float[Array, 'n d'], chosen: Int[Array, ' s']) -> Int[Array, ' bins']:
  x = x[chosen]
  cosine = jnp.matmul(x, x.T, precision='highest')
  bins = jnp.clip(((cosine + 1) / 2 * BINS).astype(jnp.int32), 0, BINS - 1)
  return jnp.bincount(jnp.where(jnp.eye(len(x), dtype=bool), BINS, bins).ravel(), length=BINS + 1)[:BINS]


def wasserstein_uniformity(x: Float[Array, 'n d'], *, samples: int = 1024, seed: int = 0) -> float:
  r"""Wasserstein-1 distance between pairwise cosines of unit rows and the law of uniform unit vectors.

  .. math:: \int_{-1}^1 |F(s) - G(s)| \, ds, \qquad G'(s) \propto (1 - s^2)^{(d - 3) / 2}

  F counts the pairs i != j of at most `samples` rows (drawn without replacement by `seed`) in `BINS` bins. 0 is
  uniform, 1 is collapse to a point.

  Reference: Koromilas et al., 2024 (Bridging Mini-Batch and Asymptotic Analysis in Contrastive Learning), with the
  limit law exact instead of sampled.
  """
  n, d = x.shape
  chosen = np.sort(np.random.default_rng(seed).permutation(n)[:samples]).astype(np.int32)
  counts = np.asarray(jax.device_get(_cosine_counts(x, jax.device_put(chosen))), np.float64)
  edges = np.linspace(0, 1, BINS + 1)
  empirical = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
  # (1 + s) / 2 has a Beta law; in one dimension, where it is -1 or 1, the limit of narrow Beta laws.
  shape = max((d - 1) / 2, 1e-9)
  limit = scipy.special.betainc(shape, shape, edges)
  return float(2 * np.trapezoid(np.abs(empirical - limit), edges))


# --- singular values ------------------------------------------------------------------------------------------------


@jax.jit
def _second_moment(x: Float[Array, 'n d']) -> tuple[Float[Array, 'd d'], Float[Array, ' d']]:
  x = x.astype(jnp.float64)
  return x.T @ x / x.shape[0], x.mean(0)


def _spectra(x: Float[Array, 'n d']) -> tuple[Float[np.ndarray, ' d'], Float[np.ndarray, ' d']]:
  # The d x d moment squares the condition number: in double precision its roots are still good to 1e-8 of the largest,
  # below the rounding of float32 embeddings.
  with jax.enable_x64(True):
    moment, mean = jax.device_get(_second_moment(x))
  around_mean, around_zero = (np.linalg.eigvalsh(m)[::-1] for m in (moment - np.outer(mean, mean), moment))
  return np.sqrt(np.maximum(around_mean, 0)), np.sqrt(np.maximum(around_zero, 0))


def spectrum(features: Float[Array, 'n d'], *, centre: bool = True) -> Float[np.ndarray, ' d']:
  """Singular values of the [n, d] matrix of embeddings divided by sqrt(n), largest first.

  Centred, they are the standard deviations along the principal directions: their squares are the eigenvalues of the
  covariance. Not centred, they are what `effective_rank` takes.
  """
  return _spectra(features)[0 if centre else 1]


def effective_rank(singular: Float[np.ndarray, ' d']) -> float:
  """exp of the entropy of the normalised singular values; 0 where all of them are 0.

  Reference: Roy and Vetterli, 2007; as a measure of embeddings, not centred, Garrido et al., 2023 (RankMe).
  """
  total = singular.sum()
  return float(np.exp(scipy.special.entr(singular / total).sum())) if total > 0 else 0.0


def _ranks(x: Float[Array, 'n d'], rank_tolerance: float) -> dict[str, float]:
  centred, raw = _spectra(x)
  # Against the mean squared norm of the rows, which is 1 for unit rows: the scale of the features does not matter.
  rank = (np.square(centred) > rank_tolerance * np.square(raw).sum()).sum()
  return {'effective_rank': effective_rank(raw), 'rank': float(rank)}


# --- the evaluator --------------------------------------------------------------------------------------------------


def make(
  *, split: str = 'test', t: float = 2.0, samples: int = 1024, rank_tolerance: float = 1e-5, seed: int = 0
) -> Evaluator:
  """Every metric of `GLOSSARY` on one split; those of classes only where labels are known.

  Args:
    split: 'train' or 'test'.
    t: of the Gaussian kernel in uniformity.
    samples: most rows whose pairwise cosines are compared with the uniform law; `samples^2` floats are needed.
    rank_tolerance: share of the mean squared norm above which the variance along a principal direction counts for rank.
    seed: of the rows drawn for that comparison.

  Raises:
    Refusal: here for options out of range; by `run` for fewer than two rows and for embeddings that are not finite.
  """
  evaluator.check_seed(seed)
  if t <= 0 or rank_tolerance <= 0 or samples < 2:
    raise Refusal(
      f't and rank_tolerance must be positive and samples at least 2, but they are {t}, {rank_tolerance} and {samples}'
    )

  def run(embed) -> dict[str, float]:
    plain, *views = (embed(split, view=view) for view in (None, 0, 1))
    x, a, b = (evaluator.unit(evaluator.rows(e, 'projection', split)) for e in (plain, *views))
    if x.shape[0] < 2:
      raise Refusal(f"the geometry evaluator needs two rows or more, but split '{split}' has {x.shape[0]}")
    metrics = view_statistics(a, b)
    metrics['uniformity'] = float(jax.device_get(_uniformity(x, t=t)))
    metrics['wasserstein_uniformity'] = wasserstein_uniformity(x, samples=samples, seed=seed)
    metrics |= tolerance(x, np.asarray(plain.label)) | _ranks(x, rank_tolerance)
    ranks = _ranks(evaluator.rows(plain, 'features', split), rank_tolerance)
    metrics |= {f'features_{name}': value for name, value in ranks.items()}
    return {f'geometry/{name}': value for name, value in metrics.items()}

  return Evaluator(run)
