"""A queue in clusters: what goes in, which prototypes it has, whose neighbours it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.memory import clustered_queue
from contrastive_jax.types import Refusal


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rows(n, d=4, seed=0):
  return jnp.asarray(unit(np.random.default_rng(seed).normal(size=(n, d))).astype(np.float32))


def bank(size=12, clusters=3):
  return clustered_queue.init(jax.random.key(0), size, 4, num_clusters=clusters)


def clustered(size=40, clusters=5):
  full = clustered_queue.push(bank(size, clusters), rows(size), jnp.zeros(size, jnp.int32))
  return clustered_queue.recluster(full, jax.random.key(1))


def test_it_is_full_once_as_many_embeddings_went_in_as_it_holds():
  one = bank()
  for seed, want in enumerate((False, False, True, True)):
    one = clustered_queue.push(one, rows(5, seed=seed), jnp.zeros(5, jnp.int32))
    assert bool(clustered_queue.is_full(one)) == want
  assert int(one.pushed) == 12


def test_the_newest_embeddings_replace_the_oldest_with_their_labels():
  one = bank()
  for seed in range(3):
    one = clustered_queue.push(one, rows(5, seed=seed), jnp.full(5, seed, jnp.int32))
  want = np.array([2, 2, 2, 0, 0, 1, 1, 1, 1, 1, 2, 2])
  np.testing.assert_array_equal(one.labels, want)
  np.testing.assert_array_equal(one.queue.values[:3], rows(5, seed=2)[2:])
  np.testing.assert_array_equal(one.queue.values[3:5], rows(5)[3:])


def test_prototypes_do_not_move_before_clusters_are_found():
  one = bank()
  after = clustered_queue.push(one, rows(5), jnp.zeros(5, jnp.int32))
  np.testing.assert_array_equal(after.prototypes, one.prototypes)


def test_prototypes_are_the_means_of_their_embeddings_and_an_empty_cluster_keeps_its_own():
  one = clustered()
  one = one._replace(labels=jnp.where(one.labels == 3, 2, one.labels))
  after = clustered_queue.push(one, rows(7, seed=9), jnp.arange(7, dtype=jnp.int32) % 2)
  for label in (0, 1, 2, 4):
    own = np.asarray(after.queue.values)[np.asarray(after.labels) == label]
    np.testing.assert_allclose(after.prototypes[label], own.mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(after.prototypes[3], one.prototypes[3])


def test_clusters_found_anew_are_those_of_the_nearest_prototypes():
  one = clustered()
  assert int(one.clustered) == 1
  cosines = np.asarray(one.queue.values) @ np.asarray(one.prototypes).T
  np.testing.assert_array_equal(one.labels, cosines.argmax(1))


def test_neighbours_are_the_most_similar_of_the_cluster_of_the_nearest_prototype():
  one, z = clustered(), np.asarray(rows(9, seed=5))
  found, at = clustered_queue.neighbours(one, jnp.asarray(z), k=2)
  values, labels = np.asarray(one.queue.values), np.asarray(one.labels)
  cluster = (z @ unit(np.asarray(one.prototypes)).T).argmax(1)
  for i in range(9):
    own = np.flatnonzero(labels == cluster[i])
    assert len(own) >= 2
    want = own[np.argsort(-(values[own] @ z[i]), kind='stable')[:2]]
    np.testing.assert_array_equal(at[i], want)
    np.testing.assert_array_equal(found[i], values[want])
  anywhere = np.argsort(-(z @ values.T), axis=1)[:, :2]
  assert (np.asarray(at) != anywhere).any()


def test_a_cluster_of_too_few_gives_the_most_similar_of_the_whole_bank():
  one, z = clustered(), np.asarray(rows(9, seed=5))
  _, at = clustered_queue.neighbours(one, jnp.asarray(z), k=30)
  np.testing.assert_array_equal(at, np.argsort(-(z @ np.asarray(one.queue.values).T), axis=1, kind='stable')[:, :30])


def test_an_embedding_that_went_in_finds_itself():
  one = clustered()
  z = one.queue.values[:6]
  _, at = clustered_queue.neighbours(one, z, k=1)
  np.testing.assert_array_equal(at[:, 0], np.arange(6))


def test_neighbours_get_no_gradient():
  one = clustered()
  gradient = jax.grad(lambda z: clustered_queue.neighbours(one, z, k=2)[0].sum())(rows(4, seed=2))
  np.testing.assert_array_equal(gradient, np.zeros((4, 4)))


def test_sizes_that_do_not_fit_are_refused():
  with pytest.raises(Refusal, match='must be from 2 to'):
    bank(12, 1)
  with pytest.raises(Refusal, match='must be from 2 to'):
    bank(12, 13)
  with pytest.raises(Refusal, match='must hold the embeddings'):
    clustered_queue.push(bank(), rows(13), jnp.zeros(13, jnp.int32))
