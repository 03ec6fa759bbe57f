"""A first-in first-out bank of embeddings in clusters, in which neighbours are looked for within a cluster."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from contrastive_jax.memory import queue
from contrastive_jax.memory.clusters import kmeans
from contrastive_jax.similarity import Similarity, top
from contrastive_jax.types import Refusal


class ClusteredQueue(NamedTuple):
  """A queue of unit vectors, the cluster of each, and the mean of each cluster."""

  queue: queue.Queue
  labels: Int[Array, ' q']
  prototypes: Float[Array, 'k d']  # any norm
  pushed: Int[Array, '']  # embeddings since the beginning, at most q: then it is full
  clustered: Int[Array, '']  # 0 before the first `recluster`: labels and prototypes mean nothing


def init(key: Key[Array, ''], size: int, features: int, *, num_clusters: int) -> ClusteredQueue:
  """Random unit vectors, and none of them in a cluster that means something.

  Raises:
    Refusal: fewer than two clusters, or more than embeddings.
  """
  if not 2 <= num_clusters <= size:
    raise Refusal(
      f'config.method.clusters must be from 2 to config.method.memory_size={size}, but they are {num_clusters}'
    )
  of_queue, of_prototypes = jax.random.split(key)
  zero = jnp.zeros((), jnp.int32)
  prototypes = queue.init(of_prototypes, num_clusters, features).values
  return ClusteredQueue(queue.init(of_queue, size, features), jnp.zeros(size, jnp.int32), prototypes, zero, zero)


def push(bank: ClusteredQueue, values: Float[Array, 'b d'], labels: Int[Array, ' b']) -> ClusteredQueue:
  """The bank with its oldest b embeddings replaced by these, and prototypes that are the means of their clusters.

  A cluster without embeddings keeps its prototype, and all do before the first `recluster`.

  Raises:
    Refusal: more embeddings than the bank holds.
  """
  size, count = len(bank.labels), len(values)
  if count > size:
    raise Refusal(f'config.method.memory_size={size} must hold the embeddings of a batch, but they are {count}')
  moved = queue.push(bank.queue, values)
  at = (bank.queue.head + jnp.arange(count)) % size
  labels = bank.labels.at[at].set(labels.astype(jnp.int32))
  k = len(bank.prototypes)
  sums = jax.ops.segment_sum(moved.values, labels, k)
  counts = jax.ops.segment_sum(jnp.ones(size), labels, k)[:, None]
  replaced = (counts > 0) & (bank.clustered > 0)
  prototypes = jnp.where(replaced, sums / jnp.maximum(counts, 1), bank.prototypes)
  return bank._replace(queue=moved, labels=labels, prototypes=prototypes, pushed=jnp.minimum(bank.pushed + count, size))


def recluster(bank: ClusteredQueue, key: Key[Array, '']) -> ClusteredQueue:
  """The bank with clusters found anew by spherical k-means."""
  found = kmeans(bank.queue.values, num_clusters=len(bank.prototypes), key=key, spherical=True)
  return bank._replace(labels=found.labels, prototypes=found.centroids, clustered=jnp.ones_like(bank.clustered))


def is_full(bank: ClusteredQueue) -> Array:
  """Whether all embeddings were pushed: none is of the random vectors of the beginning."""
  return bank.pushed >= len(bank.labels)


def neighbours(
  bank: ClusteredQueue, z: Float[Array, 'b d'], *, k: int, fold='auto', precision: str | None = None
) -> tuple[Float[Array, 'b k d'], Int[Array, 'b k']]:
  """The k embeddings most similar to each row among those of the cluster of its most similar prototype; constants.

  Where the cluster has fewer than k, those of the whole bank. Also their places in the bank.
  """
  z, options = jax.lax.stop_gradient(z), dict(fold=fold, precision=precision)
  norm = jnp.linalg.norm(bank.prototypes, axis=1, keepdims=True)
  prototypes = {'z': bank.prototypes / jnp.maximum(norm, 1e-12)}
  ((_, cluster),), _ = Similarity({'z': z}, prototypes, **options).reduce([top(1)])
  columns = {'z': bank.queue.values, 'label': bank.labels}
  inside = top(k, over=lambda p: p.anchor['label'] == p.other['label'])
  ((_, found), (_, anywhere)), _ = Similarity({'z': z, 'label': cluster[:, 0]}, columns, **options).reduce(
    [inside, top(k)]
  )
  at = jnp.where(found[:, -1:] < 0, anywhere, found)
  return bank.queue.values[at], at
