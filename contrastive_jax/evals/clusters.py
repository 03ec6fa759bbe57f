"""Clusters: how well k-means finds the classes in embeddings, which no label has touched.

Centroids are those of split 'train', by scikit-learn. The labelled rows of split 'test' are scored; each cluster is
called by a class of its own, so that as many rows as can be are right (the Hungarian method; the "accuracy" of the
literature on clustering).
"""

import jax
import numpy as np
from jaxtyping import Int

from contrastive_jax.evals import evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Refusal

GLOSSARY = {
  'clusters/accuracy': 'share of labelled test rows in the cluster that is called by their class',
  'clusters/nmi': 'normalised mutual information of clusters and classes of test rows',
  'clusters/ari': 'Rand index of clusters and classes of test rows, 0 for a random assignment',
}
MORE_IS_BETTER = tuple(GLOSSARY)


def matched(cluster: Int[np.ndarray, ' n'], label: Int[np.ndarray, ' n']) -> float:
  """Share of the rows that are right where each cluster is called by a class of its own, in the best way."""
  from scipy.optimize import linear_sum_assignment

  table = np.zeros((cluster.max() + 1, label.max() + 1), int)
  np.add.at(table, (cluster, label), 1)
  return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(label))


def make(
  *,
  clusters: int | None = None,
  restarts: int = 10,
  representation: str = 'features',
  seed: int = 0,
) -> Evaluator:
  """Scores of the module's docstring.

  Args:
    clusters: how many; None is the number of classes of the labelled test rows.
    restarts: of k-means++; the clusters of least inertia count.
    representation: 'features' or 'projection'.
    seed: of k-means.

  Raises:
    Refusal: here for options out of range; by `run` for data without labels, for fewer rows than clusters and for
      embeddings that are not finite.
  """
  evaluator.check_representation(representation)
  evaluator.check_seed(seed)
  if restarts < 1 or (clusters is not None and clusters < 1):
    raise Refusal(f'clusters and restarts must be at least 1, but they are {clusters} and {restarts}')

  def run(embed) -> dict[str, float]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    train, test = embed('train'), embed('test')
    x, new = (
      np.asarray(jax.device_get(evaluator.rows(each, representation, split)))
      for each, split in ((train, 'train'), (test, 'test'))
    )
    label = evaluator.labels(test, 'test', 'clusters')
    new, label = new[label >= 0], label[label >= 0]
    wanted = len(np.unique(label)) if clusters is None else clusters
    if len(x) < wanted:
      raise Refusal(f'{wanted} clusters need as many rows, but the training split has {len(x)}')
    cluster = KMeans(wanted, n_init=restarts, random_state=seed).fit(x).predict(new)
    return {
      'clusters/accuracy': matched(cluster, label),
      'clusters/nmi': float(normalized_mutual_info_score(label, cluster)),
      'clusters/ari': float(adjusted_rand_score(label, cluster)),
    }

  return Evaluator(run)
