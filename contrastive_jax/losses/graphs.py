"""Losses of the nodes of a graph: neighbours attract, and all other nodes, or sums of clusters of them, repel.

Positives are given as a list of neighbours of each node and cost what there are edges. Here the scale multiplies
cosines: it is the inverse of a temperature. Embeddings may be of any norm. All are of global arrays.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax.losses import inputs
from contrastive_jax.losses.margins import check_above_zero
from contrastive_jax.similarity import Fold, logsumexp
from contrastive_jax.types import Refusal

__all__ = [
  'cluster_divergence',
  'meta_node_negatives',
  'neighbour_nce',
  'pam_c',
  'sparse_positives',
  'student_t_assignment',
  'target_distribution',
]


def _check_neighbours(z, neighbour, weight):
  inputs.check_floats(z=z, weight=weight)
  inputs.check_integers(neighbour=neighbour)
  if z.ndim != 2:
    raise Refusal(f'z must be [N, D], but it is {list(z.shape)}')
  if neighbour.ndim != 2 or neighbour.shape[0] != z.shape[0] or weight.shape != neighbour.shape:
    raise Refusal(
      f'neighbour and weight must be [{z.shape[0]}, R], but they are {list(neighbour.shape)} and {list(weight.shape)}'
    )


def _present(neighbour: Int[Array, 'n r'], weight: Float[Array, 'n r']) -> Bool[Array, 'n r']:
  return (neighbour >= 0) & (weight > 0)


def sparse_positives(
  z: Float[Array, 'n d'],
  neighbour: Int[Array, 'n r'],
  weight: Float[Array, 'n r'],
  *,
  scale: float | Float[Array, ''] = 1.0,
) -> Float[Array, ' n']:
  r"""What attracts a node: :math:`-\log \sum_{j \in N(i)} \gamma_{ij} e^{s \cos(z_i, z_j)}`.

  The cosine of a node that is its own neighbour counts as 0, a constant.

  Args:
    z: nodes `[N, D]`, of any norm.
    neighbour: `[N, R]`, rows of z; -1 where a node has fewer.
    weight: gamma `[N, R]`; what is not above 0 is no neighbour.
    scale: s, multiplies cosines.

  Returns:
    One value per node, `[N]`; 0 for nodes without neighbours.

  Raises:
    ValueError: shapes or types that do not fit, scale <= 0.

  Source: Kulatilleke et al., 2022, equation 5; its code adds 1e-10 to the sum, which matters without neighbours alone.
  """
  _check_neighbours(z, neighbour, weight)
  check_above_zero(scale=scale)
  unit, there = inputs.unit(inputs.wide(z)), _present(neighbour, weight)
  cosine = jnp.einsum('nd,nrd->nr', unit, unit[jnp.maximum(neighbour, 0)], precision='highest')
  cosine = jnp.where(neighbour == jnp.arange(len(z))[:, None], 0, cosine)
  some = there.any(1)
  # Where there is no neighbour at all, the logarithm is of 1, with no gradient but 0.
  weighed = jnp.where(there, weight, jnp.where(some, 0, 1)[:, None])
  return jnp.where(some, -jax.nn.logsumexp(jnp.where(there, scale * cosine, 0), axis=1, b=weighed), 0)


def meta_node_negatives(
  z: Float[Array, 'n d'],
  assignment: Int[Array, ' n'],
  *,
  clusters: int,
  scale: float | Float[Array, ''] = 1.0,
) -> Float[Array, ' k']:
  r"""What repels clusters: :math:`\log \sum_l e^{s \cos(c_k, c_l)}` of the sums :math:`c_k = \sum_{i: k(i) = k} z_i`.

  A cluster's cosine with itself counts as 0, a constant. Clusters without nodes repel nothing. The sums alone are
  exchanged between devices, K x D numbers, and no pair of nodes is compared.

  Args:
    z: nodes `[N, D]`, of any norm; long ones weigh more in the sum of their cluster.
    assignment: k(i) `[N]`, from 0 to K - 1.
    clusters: K.
    scale: s, multiplies cosines.

  Returns:
    One value per cluster, `[K]`, at least 0; 0 for clusters without nodes.

  Raises:
    ValueError: shapes or types that do not fit, clusters < 1, scale <= 0.

  Source: Kulatilleke et al., 2022, equations 6 and 7, with hard assignments as in its code.
  """
  inputs.check_floats(z=z)
  inputs.check_entries(z.shape[0], assignment=assignment)
  check_above_zero(scale=scale)
  if clusters < 1:
    raise Refusal(f'clusters must be at least 1, but it is {clusters}')
  inputs.check_whole('meta_node_negatives')
  centres = inputs.unit(jax.ops.segment_sum(inputs.wide(z), assignment, clusters))
  there = _inhabited(assignment, clusters)
  logits = scale * jnp.matmul(centres, centres.T, precision='highest')
  logits = jnp.where(jnp.eye(clusters, dtype=bool), 0, jnp.where(there, logits, -jnp.inf))
  return jnp.where(there, jax.nn.logsumexp(logits, axis=1), 0)


def _inhabited(assignment: Int[Array, ' n'], clusters: int) -> Bool[Array, ' k']:
  return jax.ops.segment_sum(jnp.ones_like(assignment), assignment, clusters) > 0


def pam_c(
  z: Float[Array, 'n d'],
  neighbour: Int[Array, 'n r'],
  weight: Float[Array, 'n r'],
  assignment: Int[Array, ' n'],
  *,
  clusters: int,
  scale: float | Float[Array, ''] = 1.0,
) -> Float[Array, ' n']:
  r"""PamC: the contrast of nodes with sums of clusters in place of all nodes, K^2 pairs in place of N^2.

  .. math:: \ell_i = -\log \sum_{j \in N(i)} \gamma_{ij} e^{s \cos(z_i, z_j)}
            + \frac{1}{K} \sum_k \log \sum_l e^{s \cos(c_k, c_l)}

  the mean over clusters with nodes; self cosines count as 0. Arguments are those of `sparse_positives` and
  `meta_node_negatives`.

  Nodes of one cluster do not repel each other, and clusters count alike whatever their size. The second part is within
  s of the logarithm of the number K of clusters with nodes, where the full contrast has that of the number of nodes:
  compare values of the same clusters only.

  Returns:
    One value per node, `[N]`, whose second part is the same for all.

  Raises:
    ValueError: as its parts.

  Source: Kulatilleke et al., 2022, "Efficient block contrastive learning via parameter-free meta-node approximation".
  """
  positives = sparse_positives(z, neighbour, weight, scale=scale)
  negatives = meta_node_negatives(z, assignment, clusters=clusters, scale=scale)
  return positives + inputs.mean(negatives, _inhabited(assignment, clusters))


def neighbour_nce(
  z: Float[Array, 'n d'],
  neighbour: Int[Array, 'n r'],
  weight: Float[Array, 'n r'],
  *,
  scale: float | Float[Array, ''] = 1.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' n']:
  r"""The contrast that PamC approximates: neighbours against all other nodes.

  .. math:: \ell_i = -\log \frac{\sum_{j \in N(i)} \gamma_{ij} e^{s \cos(z_i, z_j)}}
            {\sum_{j \ne i} e^{s \cos(z_i, z_j)}}

  Its time grows with N^2, its memory does not.

  Args:
    z: as in `sparse_positives`.
    neighbour: as in `sparse_positives`.
    weight: as in `sparse_positives`.
    scale: as in `sparse_positives`.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per node, `[N]`; nodes without neighbours are repelled alone.

  Raises:
    ValueError: as `sparse_positives`; an unknown fold or precision.

  Source: Dong et al., 2021, "Graph-MLP", equation 7; Kulatilleke et al., 2022, equation 2.
  """
  positives = sparse_positives(z, neighbour, weight, scale=scale)
  op, logit = inputs.symmetric(inputs.unit(inputs.wide(z)), 1 / jnp.asarray(scale), {}, fold, precision)
  (everyone,), _ = op.reduce([logsumexp(logit, inputs.other_instance(1))])
  return positives + everyone


def student_t_assignment(
  z: Float[Array, 'n d'], centroids: Float[Array, 'k d'], *, degrees: float = 1.0
) -> Float[Array, 'n k']:
  r"""Soft assignments :math:`q_{ik} \propto (1 + \lVert z_i - \mu_k \rVert^2 / v)^{-(v + 1) / 2}`, rows of sum 1.

  Raises:
    ValueError: widths or types that do not fit, degrees v <= 0.

  Source: Xie et al., 2016, "Unsupervised Deep Embedding for Clustering Analysis", equation 1.
  """
  inputs.check_sides(z, centroids, names=('z', 'centroids'))
  check_above_zero(degrees=degrees)
  z, centroids = inputs.wide(z), inputs.wide(centroids)
  squares = jnp.square(z[:, None] - centroids).sum(-1)
  return jax.nn.softmax(-(degrees + 1) / 2 * jnp.log1p(squares / degrees), axis=1)


def target_distribution(q: Float[Array, 'n k']) -> Float[Array, 'n k']:
  r"""Sharper assignments :math:`p_{ik} \propto q_{ik}^2 / \sum_i q_{ik}`, rows of sum 1; large clusters count less.

  Source: Xie et al., 2016, equation 3.
  """
  inputs.check_whole('target_distribution')
  squares = jnp.square(q) / jnp.maximum(q.sum(0), jnp.finfo(q.dtype).tiny)
  return squares / squares.sum(1, keepdims=True)


def cluster_divergence(p: Float[Array, 'n k'], q: Float[Array, 'n k']) -> Float[Array, ' n']:
  r"""Kullback-Leibler divergence of assignments, :math:`\sum_k p_{ik} \log (p_{ik} / q_{ik})`; 0 where they agree.

  Returns:
    One value per node, `[N]`.
  """
  inputs.check_sides(p, q, equal=True, names=('p', 'q'))
  least = jnp.finfo(q.dtype).tiny
  return (p * (jnp.log(jnp.maximum(p, least)) - jnp.log(jnp.maximum(q, least)))).sum(1)
