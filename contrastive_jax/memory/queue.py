"""A first-in first-out bank of embeddings."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from contrastive_jax.types import Refusal


class Queue(NamedTuple):
  """The last q embeddings; the oldest is at `head`, where the next one goes."""

  values: Float[Array, 'q d']
  head: Int[Array, '']
  labels: Mapping[str, Int[Array, ' q']]  # by name what else is kept of each embedding, none without `labelled`


def check_size(size: int):
  """Refuses a size that is no positive integer."""
  if size < 1:
    raise Refusal(f'config.method.queue_size must be at least 1, but it is {size}')


def init(key: Key[Array, ''], size: int, features: int) -> Queue:
  """A queue of random unit vectors, as its sources fill it before the first step."""
  values = jax.random.normal(key, (size, features))
  return Queue(values / jnp.linalg.norm(values, axis=-1, keepdims=True), jnp.zeros((), jnp.int32), {})


def labelled(queue: Queue, *names: str) -> Queue:
  """The queue with labels of these names, -1 of all that it holds: the random vectors are of no class."""
  return queue._replace(labels={name: jnp.full(len(queue.values), -1, jnp.int32) for name in names})


def push(queue: Queue, values: Float[Array, 'b d'], **labels: Int[Array, ' b']) -> Queue:
  """The queue with the oldest b embeddings replaced by these, in order, with their labels; they get no gradient.

  Raises:
    Refusal: more embeddings than the queue holds.
    ValueError: labels of other names than the queue's.
  """
  size, count = len(queue.values), len(values)
  if count > size:
    raise Refusal(f'config.method.queue_size={size} must hold the keys of a batch, but they are {count}')
  at = (queue.head + jnp.arange(count)) % size

  def put(old, new):
    return old.at[at].set(jax.lax.stop_gradient(new).astype(old.dtype))

  kept = jax.tree.map(put, (queue.values, queue.labels), (values, labels))
  return Queue(kept[0], (queue.head + count) % size, kept[1])
