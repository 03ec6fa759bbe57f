"""Losses of graphs: neighbours, sums of clusters, assignments."""

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.types import Refusal

N, D, R, K = 12, 5, 3, 4


def graph(seed=0):
  """Nodes, neighbours of which some are absent and one node has none, weights, clusters."""
  rng = np.random.default_rng(seed)
  neighbour = np.stack([rng.permutation(np.delete(np.arange(N), i))[:R] for i in range(N)]).astype(np.int32)
  neighbour[rng.random((N, R)) < 0.3] = -1
  neighbour[4] = -1
  weight = np.where(neighbour < 0, 0, rng.uniform(0.1, 1, (N, R))).astype(np.float32)
  return np.float32(rng.standard_normal((N, D))), neighbour, weight, rng.integers(0, K, N).astype(np.int32)


def cosines(z):
  z = np.float64(z)
  unit = z / np.linalg.norm(z, axis=1, keepdims=True)
  return unit @ unit.T


def positives_by_loops(z, neighbour, weight, scale):
  cosine, values = cosines(z), np.zeros(N)
  for i in range(N):
    found = [w * np.exp(scale * cosine[i, j]) for j, w in zip(neighbour[i], weight[i], strict=True) if j >= 0]
    values[i] = -np.log(sum(found)) if found else 0
  return values


def negatives_by_loops(z, assignment, scale):
  """The mean over clusters that have nodes."""
  there = sorted(set(assignment.tolist()))
  cosine = cosines(np.stack([np.float64(z)[assignment == k].sum(0) for k in there]))
  np.fill_diagonal(cosine, 0)
  return np.log(np.exp(scale * cosine).sum(1)).mean()


@pytest.mark.parametrize('scale', [0.5, 2.0, 20.0])
def test_positives_and_pam_c_equal_their_equations(scale):
  z, neighbour, weight, assignment = graph()
  positives = positives_by_loops(z, neighbour, weight, scale)
  np.testing.assert_allclose(
    losses.sparse_positives(z, neighbour, weight, scale=scale), positives, rtol=1e-5, atol=1e-6
  )
  whole = losses.pam_c(z, neighbour, weight, assignment, clusters=K, scale=scale)
  np.testing.assert_allclose(whole, positives + negatives_by_loops(z, assignment, scale), rtol=1e-5)


def test_the_gradient_of_pam_c_is_that_of_its_equation_through_neighbours_and_sums():
  z, neighbour, weight, assignment = graph()

  def by_loops(z):
    return positives_by_loops(z, neighbour, weight, 2.0).mean() + negatives_by_loops(z, assignment, 2.0)

  slope = jax.grad(lambda z: losses.pam_c(z, neighbour, weight, assignment, clusters=K, scale=2.0).mean())(z)
  for way in np.random.default_rng(1).standard_normal((5, N, D)):
    want = (by_loops(z + 1e-5 * way) - by_loops(z - 1e-5 * way)) / 2e-5
    np.testing.assert_allclose(np.vdot(slope, way), want, rtol=1e-4, atol=1e-5)


def test_pam_c_falls_at_every_small_step_while_clusters_keep_their_nodes():
  z, *rest = graph()
  both = compiling.jit(jax.value_and_grad(lambda z: losses.pam_c(z, *rest, clusters=K, scale=2.0).mean()))
  values = []
  for _ in range(30):
    value, slope = both(z)
    z, values = z - 0.3 * slope, [*values, value]
  assert (np.diff(values) < 0).all()
  assert values[-1] < values[0] - 0.5


def test_clusters_at_right_angles_repel_by_the_logarithm_of_their_number():
  z = np.eye(6, dtype=np.float32)
  for count in (1, 2, 6):
    values = losses.meta_node_negatives(z, np.arange(6, dtype=np.int32) % count, clusters=6, scale=3.0)
    np.testing.assert_allclose(values[:count], np.full(count, np.log(count)), rtol=1e-6, atol=1e-7)


def test_a_node_that_is_its_own_neighbour_has_a_cosine_of_zero_with_itself():
  z, *_ = graph()
  itself, weight = np.arange(N, dtype=np.int32)[:, None], np.full((N, 1), 0.25, np.float32)
  np.testing.assert_allclose(losses.sparse_positives(z, itself, weight, scale=3.0), np.full(N, np.log(4)), rtol=1e-6)


def test_clusters_of_one_node_give_the_full_denominator_with_its_diagonal_at_one():
  z, *_ = graph()
  cosine = cosines(z)
  np.fill_diagonal(cosine, 0)
  want = np.log(np.exp(1.5 * cosine).sum(1))
  alone = np.random.default_rng(1).permutation(N).astype(np.int32)
  values = losses.meta_node_negatives(z, alone, clusters=N, scale=1.5)
  np.testing.assert_allclose(values[alone], want, rtol=1e-5)


def test_pam_c_knows_no_numbers_of_clusters_and_no_empty_clusters():
  z, neighbour, weight, assignment = graph()
  want = losses.pam_c(z, neighbour, weight, assignment, clusters=K)
  again = losses.pam_c(z, neighbour, weight, np.array([7, 0, 5, 3], np.int32)[assignment], clusters=9)
  np.testing.assert_allclose(again, want, rtol=1e-6)

  def loss(z, clusters):
    return losses.pam_c(z, neighbour, weight, assignment, clusters=clusters).mean()

  few, many = jax.grad(loss)(z, K), jax.grad(loss)(z, 9)
  np.testing.assert_allclose(many, few, rtol=1e-5, atol=1e-7)
  values = losses.meta_node_negatives(z, np.zeros(N, np.int32), clusters=K)
  np.testing.assert_array_equal(values, np.zeros(K))


def test_scaling_all_nodes_changes_nothing():
  z, *rest, assignment = graph()
  want = losses.pam_c(z, *rest, assignment, clusters=K, scale=3.0)
  np.testing.assert_allclose(losses.pam_c(40 * z, *rest, assignment, clusters=K, scale=3.0), want, rtol=1e-5)
  np.testing.assert_allclose(losses.neighbour_nce(40 * z, *rest), losses.neighbour_nce(z, *rest), rtol=1e-5)


@pytest.mark.parametrize('fold', ['dense', 'chunked'])
def test_the_full_contrast_equals_its_equation_on_every_fold(fold):
  z, neighbour, weight, _ = graph()
  cosine = cosines(z)
  others = np.log((np.exp(2 * cosine) * ~np.eye(N, dtype=bool)).sum(1))
  how = losses.dense() if fold == 'dense' else losses.chunked(rows=4, cols=4)
  found = losses.neighbour_nce(z, neighbour, weight, scale=2.0, fold=how)
  np.testing.assert_allclose(found, positives_by_loops(z, neighbour, weight, 2.0) + others, rtol=1e-5)


def test_pam_c_on_eight_devices_equals_that_on_one_and_gathers_no_nodes_for_its_negatives():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  z, assignment = np.float32(np.random.default_rng(0).standard_normal((64, D))), np.arange(64, dtype=np.int32) % K

  def loss(z, assignment):
    return losses.meta_node_negatives(z, assignment, clusters=K).mean()

  both = jax.jit(jax.value_and_grad(loss)).lower(*jax.device_put((z, assignment), rows)).compile()
  value, slope = both(*jax.device_put((z, assignment), rows))
  want, of_one = jax.value_and_grad(loss)(z, assignment)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  np.testing.assert_allclose(slope, of_one, rtol=1e-4, atol=1e-7)
  assert 'all-gather' not in both.as_text()


def test_nodes_without_neighbours_have_no_positives_and_no_gradient_of_them():
  z, neighbour, weight, _ = graph()
  slope = jax.grad(lambda z: losses.sparse_positives(z, neighbour[:1] * 0 - 1, weight[:1] * 0).sum())(z[:1])
  assert not slope.any()
  assert losses.sparse_positives(z, neighbour, weight)[4] == 0


def test_assignments_are_distributions_and_their_target_is_sharper():
  z, *_ = graph()
  q = losses.student_t_assignment(z, z[:K], degrees=1.0)
  squares = np.square(np.float64(z)[:, None] - z[:K]).sum(-1)
  want = 1 / (1 + squares)
  np.testing.assert_allclose(q, want / want.sum(1, keepdims=True), rtol=1e-5)
  p = losses.target_distribution(q)
  np.testing.assert_allclose([q.sum(1), p.sum(1)], np.ones((2, N)), rtol=1e-6)
  balanced = jnp.asarray([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9]])
  assert (losses.target_distribution(balanced).max(1) > balanced.max(1)).all()
  assert losses.cluster_divergence(p, q).min() >= -1e-6
  np.testing.assert_allclose(losses.cluster_divergence(q, q), np.zeros(N), atol=1e-6)


def test_what_does_not_fit_is_refused():
  z, neighbour, weight, assignment = graph()
  with pytest.raises(Refusal, match='neighbour and weight'):
    losses.sparse_positives(z, neighbour[:5], weight[:5])
  with pytest.raises(Refusal, match='scale'):
    losses.sparse_positives(z, neighbour, weight, scale=0.0)
  with pytest.raises(Refusal, match='clusters'):
    losses.meta_node_negatives(z, assignment, clusters=0)
  with pytest.raises(Refusal, match='degrees'):
    losses.student_t_assignment(z, z[:2], degrees=0.0)
