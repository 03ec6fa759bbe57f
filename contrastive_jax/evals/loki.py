"""Prediction by the Fréchet mean: of all labels the one at the least expected squared distance, not the likeliest.

.. math:: \\hat y = \\arg\\min_y \\sum_k p_k \\, d(\\lambda_k, y)^2

The labels y may be more than the observed ones, which have probabilities: those never seen can be predicted.

Reference: Roberts et al., 2023, "Geometry-Aware Adaptation for Pretrained Models" (Loki).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from contrastive_jax.types import Refusal


def frechet(
  probabilities: Float[Array, 'n k'], distances: Float[Array, 'k m'], *, power: float = 2.0
) -> Int[Array, ' n']:
  """The label of the least expected `power` of the distance; among equals the first.

  Args:
    probabilities: of the k observed labels; rows need not sum to 1.
    distances: from each observed label to each of all m.
    power: 2 for the Fréchet mean, 1 for the median.

  Raises:
    Refusal: shapes that do not fit.
  """
  if probabilities.ndim != 2 or distances.ndim != 2 or probabilities.shape[1] != distances.shape[0]:
    raise Refusal(f'[n, k] and [k, m] are needed, but they are {probabilities.shape} and {distances.shape}')
  return jnp.matmul(probabilities, distances**power, precision='highest').argmin(1)


def tree_distances(parent: tuple[int, ...] | Int[np.ndarray, ' m']) -> Float[np.ndarray, 'm m']:
  """Number of edges between the nodes of a tree, or of several, between which it is infinite.

  Args:
    parent: of each node; -1 of a root.

  Raises:
    Refusal: a parent that is no node, or nodes that are their own ancestors.
  """
  parents = np.asarray(parent)
  m = len(parents)
  if ((parents < -1) | (parents >= m)).any():
    raise Refusal(f'the parent of a node must be one of the {m} nodes, or -1, but they are {tuple(parents.tolist())}')
  depth = np.full((m, m), np.inf)  # edges from a node up to each of its ancestors
  for node in range(m):
    at, edges = node, 0
    while at >= 0:
      if edges >= m:
        raise Refusal(f'node {node} is its own ancestor')
      depth[node, at], at, edges = edges, parents[at], edges + 1
  return np.stack([(row + depth).min(1) for row in depth])


def mean_squared_distance(
  predicted: Int[np.ndarray, ' n'], label: Int[np.ndarray, ' n'], distances: Float[np.ndarray, 'm m']
) -> float:
  """Mean squared distance between predicted and true labels; labels of -1 do not count."""
  known = label >= 0
  return float(np.square(np.asarray(distances, np.float64)[label[known], predicted[known]]).mean())
