"""The queue: first in, first out, in order, whatever the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.memory import queue
from contrastive_jax.types import Refusal


def rows(start: int, count: int):
  return jnp.arange(start, start + count, dtype=jnp.float32)[:, None] * jnp.ones((1, 3))


@pytest.mark.parametrize('size', [4, 5, 8])
def test_a_queue_holds_the_last_keys_in_order(size):
  bank = queue.init(jax.random.key(0), size, 3)
  for step in range(5):
    bank = queue.push(bank, rows(4 * step, 4))
  order = (int(bank.head) + np.arange(size)) % size  # from the oldest
  np.testing.assert_array_equal(np.asarray(bank.values)[order, 0], np.arange(20 - size, 20))


def test_labels_go_in_and_out_with_their_keys():
  bank = queue.labelled(queue.init(jax.random.key(0), 7, 3), 'class', 'row')
  assert (bank.labels['class'] == -1).all()
  for step in range(3):
    row = jnp.arange(4 * step, 4 * step + 4)
    bank = queue.push(bank, rows(4 * step, 4), **{'class': row % 3, 'row': row})
    filled = np.asarray(bank.labels['row']) >= 0
    np.testing.assert_array_equal(bank.labels['row'][filled], bank.values[filled, 0])
  assert filled.all()
  np.testing.assert_array_equal(bank.labels['class'], bank.labels['row'] % 3)
  assert bank.labels['row'].dtype == jnp.int32


def test_a_key_without_the_labels_of_the_queue_does_not_go_in():
  bank = queue.labelled(queue.init(jax.random.key(0), 7, 3), 'class')
  with pytest.raises(ValueError, match='class'):
    queue.push(bank, rows(0, 4), row=jnp.arange(4))
  with pytest.raises(ValueError, match='class'):
    queue.push(bank, rows(0, 4))


def test_a_fresh_queue_holds_unit_vectors_of_its_key():
  bank = queue.init(jax.random.key(1), 16, 3)
  np.testing.assert_allclose(jnp.linalg.norm(bank.values, axis=1), 1, rtol=1e-6)
  assert (queue.init(jax.random.key(1), 16, 3).values == bank.values).all()
  assert (queue.init(jax.random.key(2), 16, 3).values != bank.values).any()


def test_what_is_pushed_gets_no_gradient():
  bank = queue.init(jax.random.key(0), 4, 3)
  assert (jax.grad(lambda x: queue.push(bank, x).values.sum())(rows(0, 2)) == 0).all()


def test_a_queue_smaller_than_a_batch_is_refused():
  with pytest.raises(Refusal, match='queue_size=2 must hold the keys of a batch, but they are 3'):
    queue.push(queue.init(jax.random.key(0), 2, 3), rows(0, 3))
  with pytest.raises(Refusal, match='queue_size must be at least 1, but it is 0'):
    queue.check_size(0)
