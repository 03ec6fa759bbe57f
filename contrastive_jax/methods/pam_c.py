"""`pam_c`: nodes of a graph that attract their neighbours and repel sums of clusters, with clusters that sharpen."""

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory.clusters import kmeans
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Batch, Refusal, nearest

GLOSSARY = {
  'contrast': 'mean over nodes of what attracts neighbours and repels the others, or their clusters',
  'divergence': 'mean divergence of the soft assignments from their sharpened selves; counts after the warm-up',
  'largest_cluster': 'share of the nodes in the largest cluster',
}
CONTRASTS = ('meta_nodes', 'nodes')
_RESTARTS = 20  # of k-means


def _check(info: Info, contrast: str, clusters: int | None, warm_up: float, **weights: float) -> tuple[int, int]:
  """The number of clusters, and the epoch at whose end the warm-up ends."""
  if contrast not in CONTRASTS:
    raise Refusal(f"unknown contrast '{contrast}' in config.method.contrast{nearest(str(contrast), CONTRASTS)}")
  found = info.num_classes if clusters is None else clusters
  if found < 2:
    raise Refusal(f'config.method.clusters must be at least 2, but it is {found}; None is as many as there are classes')
  if not 0 <= warm_up <= 1:
    raise Refusal(f'config.method.warm_up is a share of the epochs, from 0 to 1, but it is {warm_up}')
  for name, value in weights.items():
    if not value >= 0:
      raise Refusal(f'config.method.{name} must be at least 0, but it is {value}')
  return found, max(1, round(warm_up * (info.total_steps // info.steps_per_epoch)))


def _in_batch(batch: Batch, num_examples: int):
  """Neighbours as places in the batch, -1 where they are not in it."""
  if not {'neighbour', 'neighbour_weight'} <= {*batch}:
    raise Refusal("the method learns from a graph, but the data lack 'neighbour', which source 'packages' has")
  index, neighbour = batch['index'], batch['neighbour']
  place = jnp.full(num_examples, -1, jnp.int32).at[index].set(jnp.arange(len(index), dtype=jnp.int32))
  return jnp.where(neighbour < 0, -1, place[jnp.maximum(neighbour, 0)]), batch['neighbour_weight']


def _refresh(at: tuple[int, ...], clusters: int):
  """The `refresh` slot: k-means over all nodes after these steps."""

  def refresh(params, state, embed_all, *, key, step):
    if step not in at:
      return state
    rows = jnp.asarray(embed_all('train').features)
    found = kmeans(rows, num_clusters=clusters, key=key, restarts=_RESTARTS).centroids
    return {**state, 'centroids': found.astype(state['centroids'].dtype)}

  return refresh


def _branches(tower: towers.Tower, clusters: int):
  """The `init` and `encode` slots: embeddings of the nodes."""

  def init(key, batch):
    params, stats = tower.init(key, batch['view_0'])
    (h,), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
    centroids = jnp.zeros((clusters, h.shape[1]), h.dtype)
    return {**params, 'centroids': centroids}, {'stats': stats, 'centroids': centroids}

  def encode(params, state, batch, *, key, step, train):
    (h,), stats = towers.of_views(tower, params, state['stats'], batch, key=key, train=train, views=(0,))
    return {'h': h[:, 0]}, {**state, 'stats': stats}

  return init, encode


def _means(z, assignment, centroids):
  """The mean node of each cluster; a cluster without nodes stays where it is."""
  clusters, z = len(centroids), jax.lax.stop_gradient(z).astype(jnp.promote_types(z.dtype, jnp.float32))
  count = jnp.bincount(assignment, length=clusters)[:, None]
  means = jax.ops.segment_sum(z, assignment, clusters) / jnp.maximum(count, 1)
  return jnp.where(count > 0, means.astype(centroids.dtype), centroids)


def _objective(contrast: str, clusters: int, scale: float, alpha: float, degrees: float, later, num_examples, folding):
  """The `loss` slot; `later` is the step from which the divergence counts, and its weight."""
  starts, beta = later

  def objective(params, state, features, batch, *, key, step):
    z, (neighbour, weight) = features['h'], _in_batch(batch, num_examples)
    if len(z) < clusters:
      raise Refusal(f'clusters={clusters} begin as nodes of the first batch, but config.data.batch_size is {len(z)}')
    centroids = jnp.where(step == 0, jax.lax.stop_gradient(z[:clusters]), state['centroids'])
    q = losses.student_t_assignment(z, centroids + params['centroids'], degrees=degrees)
    assignment = jax.lax.stop_gradient(q).argmax(1)
    if contrast == 'meta_nodes':
      values = losses.pam_c(z, neighbour, weight, assignment, clusters=clusters, scale=scale)
    else:
      values = losses.neighbour_nce(z, neighbour, weight, scale=scale, **folding)
    divergence = losses.cluster_divergence(losses.target_distribution(jax.lax.stop_gradient(q)), q).mean()
    learns = step >= starts  # before, they have no gradient
    loss = alpha * values.mean() + jnp.where(learns, beta, 0.0) * divergence
    state = {**state, 'centroids': jnp.where(learns, centroids, _means(z, assignment, centroids))}
    largest = jnp.bincount(assignment, length=clusters).max() / len(assignment)
    return Output(loss, state, {'contrast': values.mean(), 'divergence': divergence, 'largest_cluster': largest})

  return objective


def make(
  encoder: Encoder,
  info: Info,
  *,
  contrast: str = 'meta_nodes',
  clusters: int | None = None,
  scale: float = 1.0,
  alpha: float = 1.0,
  beta: float = 1.0,
  degrees: float = 1.0,
  warm_up: float = 0.2,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""A method of an encoder of nodes, whose output the loss and evaluators see.

  .. math:: L = \alpha \, \mathrm{PamC} + \beta \, \mathrm{KL}(P \,\|\, Q)

  Q are soft assignments to centroids by Student's t, P their sharpened selves, a constant made anew at every step, and
  the clusters of PamC the largest entries of Q. The paper starts from an auto-encoder; here contrast stands in for it.
  While it warms up, centroids begin as nodes of the first batch, k-means over all nodes sets them after the first epoch
  and again when the warm-up ends, and every step moves them to the means of their nodes: left where they are, they lose
  their nodes to one of them within a few steps, and what repels is gone. From then on KL counts, and centroids are
  learned (`state['centroids']` plus `params['centroids']`). With beta = 0 the warm-up lasts the whole run.

  Contrast with meta-nodes falls from step to step as long as clusters keep their nodes. Its level is about the
  logarithm of the number of clusters that have nodes, so it steps up and down with that number.

  Batches may be the whole graph (`config.data.batch_size` is the number of nodes) or random parts of it: neighbours
  outside of the batch are left out.

  Args:
    encoder: features of a node to its embedding.
    info: of the run: rows, epochs, classes.
    contrast: 'meta_nodes', or 'nodes': against all other nodes of the batch, which PamC approximates.
    clusters: K; None is as many as the data name classes.
    scale: of cosines, the inverse of a temperature.
    alpha: weight of the contrast.
    beta: weight of the divergence.
    degrees: of freedom of Student's t.
    warm_up: share of the epochs before the divergence counts, and in which centroids follow their nodes.
    fold: of the contrast with all nodes; as of `pair`.
    precision: likewise.

  Raises:
    Refusal: options out of range, classes that are not known; by the first step data without a graph, fewer nodes in a
      batch than clusters.

  Source: Kulatilleke et al., 2022.
  """
  clusters, warm = _check(info, contrast, clusters, warm_up, alpha=alpha, beta=beta)
  starts = warm * info.steps_per_epoch if beta > 0 else info.total_steps
  tower = towers.stack(encoder=encoder)
  init, encode = _branches(tower, clusters)
  folding = dict(fold=fold, precision=precision)
  objective = _objective(contrast, clusters, scale, alpha, degrees, (starts, beta), info.num_examples, folding)
  refresh = _refresh((info.steps_per_epoch, starts), clusters)
  return Method(init, encode, objective, towers.embedding(tower), refresh=refresh, per_example=tower.per_example)
