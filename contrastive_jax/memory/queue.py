"""A first-in first-out bank of embeddings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from contrastive_jax.types import Refusal


class Queue(NamedTuple):
  """The last q embeddings; the oldest is at `head`, where the next one goes."""

  values: Float[Array, 'q d']
  head: Int[Array, '']


def check_size(size: int):
  """Refuses a size that is no positive integer."""
  if size < 1:
    raise Refusal(f'config.method.queue_size must be at least 1, but it is {size}')


def init(key: Key[Array, ''], size: int, features: int) -> Queue:
  """A queue of random unit vectors, as its sources fill it before the first step."""
  values = jax.random.normal(key, (size, features))
  return Queue(values / jnp.linalg.norm(values, axis=-1, keepdims=True), jnp.zeros((), jnp.int32))


def push(queue: Queue, values: Float[Array, 'b d']) -> Queue:
  """The queue with the oldest b embeddings replaced by these, in order; they get no gradient.

  Raises:
    Refusal: more embeddings than the queue holds.
  """
  size, count = len(queue.values), len(values)
  if count > size:
    raise Refusal(f'config.method.queue_size={size} must hold the keys of a batch, but they are {count}')
  at = (queue.head + jnp.arange(count)) % size
  stopped = jax.lax.stop_gradient(values).astype(queue.values.dtype)
  return Queue(queue.values.at[at].set(stopped), (queue.head + count) % size)
