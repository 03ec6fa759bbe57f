"""k-means: against scikit-learn, in groups, on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from contrastive_jax.memory import clusters
from contrastive_jax.types import Refusal


def blobs(seed=0, n=600, d=5, centres=8, spread=0.6):
  rng = np.random.default_rng(seed)
  of = rng.integers(centres, size=n)
  return (3 + 2 * rng.normal(size=(centres, d))[of] + spread * rng.normal(size=(n, d))).astype(np.float32)


def by_sklearn(x, init, iterations, tolerance=1e-4):
  options = dict(n_clusters=len(init), init=init, n_init=1, max_iter=iterations, tol=tolerance, algorithm='lloyd')
  return KMeans(**options).fit(np.float64(x))


def inertia_of(x, centroids, labels):
  return np.square(np.float64(x) - np.float64(centroids)[labels]).sum()


@pytest.mark.filterwarnings('ignore::sklearn.exceptions.ConvergenceWarning')
@pytest.mark.parametrize(('iterations', 'k'), [(1, 20), (4, 20), (300, 20), (4, 150), (300, 150)])
def test_from_the_same_centroids_it_gives_what_scikit_learn_gives(iterations, k):
  x = blobs(spread=2.0)
  found = clusters.kmeans(jnp.asarray(x), num_clusters=k, init=jnp.asarray(x[:k]), iterations=iterations)
  want = by_sklearn(x, x[:k], iterations)
  np.testing.assert_array_equal(found.labels, want.labels_)
  np.testing.assert_allclose(found.centroids, want.cluster_centers_, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found.inertia, want.inertia_, rtol=1e-5)


def test_it_ends_where_scikit_learn_does_at_a_coarse_tolerance():
  x = blobs(spread=2.0)
  options = dict(num_clusters=20, init=jnp.asarray(x[:20]))
  found = clusters.kmeans(jnp.asarray(x), tolerance=0.05, **options)
  want = by_sklearn(x, x[:20], 100, tolerance=0.05)
  np.testing.assert_allclose(found.centroids, want.cluster_centers_, rtol=1e-4, atol=1e-4)
  assert found.inertia > 1.001 * clusters.kmeans(jnp.asarray(x), tolerance=0, **options).inertia


@pytest.mark.filterwarnings('ignore::sklearn.exceptions.ConvergenceWarning')
@pytest.mark.parametrize('iterations', [1, 2, 100])
def test_empty_clusters_get_the_rows_that_scikit_learn_gives_them(iterations):
  x = blobs(spread=2.0)
  init = np.concatenate([x[:6], np.full((4, 5), 500, np.float32) + np.arange(4, dtype=np.float32)[:, None]])
  found = clusters.kmeans(jnp.asarray(x), num_clusters=10, init=jnp.asarray(init), iterations=iterations)
  want = by_sklearn(x, init, iterations)
  np.testing.assert_array_equal(found.labels, want.labels_)
  np.testing.assert_allclose(found.inertia, want.inertia_, rtol=1e-4)
  assert len(np.unique(found.labels)) == 10


@pytest.mark.parametrize('away', [1000, 30_000])
def test_groups_far_apart_are_clustered_as_if_each_were_alone(away):
  """Products of rows that are not about the mean of their group would round distances away."""
  x, groups = blobs(spread=2.0), np.arange(600) % 2
  x = np.round(x, 2) + np.where(groups[:, None], away, -away).astype(np.float32)
  init = np.concatenate([x[groups == g][:10] for g in (0, 1)])
  options = dict(init=jnp.asarray(init))
  found = clusters.kmeans(jnp.asarray(x), num_clusters=(10, 10), groups=jnp.asarray(groups), **options)
  own = np.where(groups[:, None] == np.repeat([0, 1], 10), 0, np.inf)
  nearest = (np.square(np.float64(x)[:, None] - np.float64(found.centroids)).sum(2) + own).argmin(1)
  assert (found.labels != nearest).mean() < 0.01  # centroids are rounded to float32 too
  for g in (0, 1):
    of = slice(10 * g, 10 * g + 10)
    alone = clusters.kmeans(jnp.asarray(x[groups == g]), num_clusters=10, init=jnp.asarray(init[of]))
    assert (found.labels[groups == g] != alone.labels + 10 * g).mean() < 0.02  # which ends at a move of its own


@pytest.mark.parametrize('spherical', [False, True])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_where_float64_is_the_default_clusters_are_float32(spherical, dtype):
  x = jnp.asarray(blobs(n=200), dtype)
  with jax.enable_x64(True):
    found = clusters.kmeans(x, num_clusters=5, init=x[:5], spherical=spherical, groups=None)
    drawn = clusters.kmeans(x, num_clusters=(3, 2), groups=jnp.arange(200) % 2, key=jax.random.key(0))
  assert found.centroids.dtype == found.inertia.dtype == drawn.centroids.dtype == jnp.float32


def test_rows_far_from_the_origin_are_assigned_to_the_nearest_centroid():
  x = blobs(spread=2.0) + np.float32(3000)
  found = clusters.kmeans(jnp.asarray(x), num_clusters=20, init=jnp.asarray(x[:20]))
  nearest = np.square(np.float64(x)[:, None] - np.float64(found.centroids)).sum(2).argmin(1)
  assert (clusters.assign(jnp.asarray(x), found.centroids) != nearest).mean() < 0.01
  assert (found.labels != nearest).mean() < 0.01


def test_labels_and_inertia_are_those_of_the_centroids_returned():
  x = blobs()
  found = clusters.kmeans(jnp.asarray(x), num_clusters=9, key=jax.random.key(0), iterations=2)
  nearest = np.square(x[:, None] - np.asarray(found.centroids)).sum(2).argmin(1)
  np.testing.assert_array_equal(found.labels, nearest)
  np.testing.assert_array_equal(clusters.assign(jnp.asarray(x), found.centroids), nearest)
  np.testing.assert_allclose(found.inertia, inertia_of(x, found.centroids, nearest), rtol=1e-5)


def test_kmeans_plus_plus_finds_every_one_of_well_separated_clusters():
  x = blobs(centres=12, spread=0.05)
  for seed in range(3):
    found = clusters.kmeans(jnp.asarray(x), num_clusters=12, key=jax.random.key(seed))
    np.testing.assert_allclose(found.inertia, KMeans(12, n_init=5, random_state=0).fit(x).inertia_, rtol=1e-3)


def test_more_restarts_never_end_with_more_inertia_and_keep_the_least():
  x, key = jnp.asarray(blobs(spread=2.0)), jax.random.key(3)
  found = [clusters.kmeans(x, num_clusters=20, key=key, restarts=count) for count in (1, 2, 4)]
  one, two, four = (float(each.inertia) for each in found)
  assert one >= two >= four
  assert one > 1.001 * four
  np.testing.assert_allclose(four, inertia_of(x, found[2].centroids, np.asarray(found[2].labels)), rtol=1e-5)


def test_the_same_key_gives_the_same_bits_and_another_does_not():
  x = jnp.asarray(blobs(spread=2.0))
  one, two, other = (clusters.kmeans(x, num_clusters=20, key=jax.random.key(seed)) for seed in (0, 0, 1))
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(a, b)
  assert (one.labels != other.labels).any()


@functools.cache
def grouped():
  x = blobs(spread=1.5)
  groups = np.random.default_rng(1).choice(5, size=len(x), p=[0.5, 0.3, 0.1, 0.07, 0.03]).astype(np.int32)
  groups[::50] = -1
  return x, groups, (9, 5, 0, 2, 1)


def test_groups_are_clustered_as_if_each_were_alone():
  x, groups, counts = grouped()
  init = np.concatenate([x[groups == g][:count] for g, count in enumerate(counts)])
  found = clusters.kmeans(jnp.asarray(x), num_clusters=counts, groups=groups, init=jnp.asarray(init), tolerance=0)
  first, total = 0, 0
  for g, count in enumerate(counts):
    rows, own = groups == g, slice(first, first + count)
    if count:
      alone = clusters.kmeans(jnp.asarray(x[rows]), num_clusters=count, init=jnp.asarray(init[own]), tolerance=0)
      np.testing.assert_array_equal(found.labels[rows], alone.labels + first)
      np.testing.assert_allclose(found.centroids[own], alone.centroids, rtol=1e-4, atol=1e-4)
      total += alone.inertia
    else:
      assert (found.labels[rows] == -1).all()
    first += count
  assert (found.labels[groups == -1] == -1).all()
  np.testing.assert_allclose(found.inertia, total, rtol=1e-5)


def test_drawn_centroids_serve_their_own_group():
  x, groups, counts = grouped()
  found = clusters.kmeans(jnp.asarray(x), num_clusters=counts, groups=groups, key=jax.random.key(0))
  owner, labels = np.repeat(np.arange(5), counts), np.asarray(found.labels)
  some = labels >= 0
  np.testing.assert_array_equal(some, (groups != 2) & (groups >= 0))
  np.testing.assert_array_equal(owner[labels[some]], groups[some])
  assert len(np.unique(labels[some])) == sum(counts)


def test_an_empty_cluster_of_a_group_gets_a_row_of_that_group():
  x, groups, _ = grouped()
  init = np.concatenate([x[groups == 0][:2], x[groups == 1][:1], np.full((3, 5), 99, np.float32)])
  found = clusters.kmeans(
    jnp.asarray(x), num_clusters=(2, 4), groups=groups, init=jnp.asarray(init), iterations=1, tolerance=0
  )
  of_group = x[groups == 1]
  furthest = np.argsort(-np.square(of_group - init[2]).sum(1))[:3]
  np.testing.assert_allclose(found.centroids[3:], of_group[furthest], rtol=1e-4)
  left = np.delete(of_group, furthest, 0)
  np.testing.assert_allclose(found.centroids[2], left.mean(0), rtol=1e-4)


def test_a_group_of_fewer_rows_than_clusters_leaves_clusters_empty():
  x = blobs(n=12)
  groups = np.array([0] * 10 + [1] * 2, np.int32)
  found = clusters.kmeans(jnp.asarray(x), num_clusters=(2, 5), groups=groups, key=jax.random.key(0))
  assert np.isfinite(found.centroids).all()
  assert set(np.asarray(found.labels[:10])) == {0, 1}
  assert len(set(np.asarray(found.labels[10:]))) == 2


def test_spherical_clusters_do_not_see_norms_and_have_centroids_of_unit_norm():
  x = blobs()
  scales = np.random.default_rng(0).uniform(0.1, 10, size=(len(x), 1)).astype(np.float32)
  options = dict(num_clusters=7, key=jax.random.key(0), spherical=True)
  found, scaled = (clusters.kmeans(jnp.asarray(rows), **options) for rows in (x, x * scales))
  np.testing.assert_array_equal(found.labels, scaled.labels)
  np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-5)
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  np.testing.assert_array_equal(found.labels, (unit @ np.asarray(found.centroids).T).argmax(1))
  np.testing.assert_array_equal(clusters.assign(jnp.asarray(x), 3 * found.centroids, spherical=True), found.labels)
  np.testing.assert_allclose(found.inertia, inertia_of(unit, found.centroids, np.asarray(found.labels)), rtol=1e-4)


@pytest.mark.parametrize('divides', [True, False])
def test_rows_split_over_eight_devices_get_the_labels_of_one(divides):
  x, groups, counts = grouped()
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  count = len(x) if divides else len(x) - 3
  spec = jax.sharding.PartitionSpec('data' if divides else None)
  split = jax.device_put(x[:count], jax.sharding.NamedSharding(mesh, spec))
  for options in (dict(num_clusters=10), dict(num_clusters=counts, groups=groups[:count]), dict(num_clusters=140)):
    alone = clusters.kmeans(jnp.asarray(x[:count]), key=jax.random.key(0), **options)
    found = clusters.kmeans(split, key=jax.random.key(0), **options)
    np.testing.assert_array_equal(found.labels, alone.labels)
    np.testing.assert_allclose(found.inertia, alone.inertia, rtol=1e-5)


@pytest.mark.parametrize('bounded', [True, False])
def test_no_matrix_of_rows_and_centroids_is_made(bounded):
  x, init = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((32768, 8), (4096, 8)))
  options = dict(counts=(4096,), iterations=100, tolerance=0.0, spherical=False, bounded=bounded)
  lowered = clusters._from_centroids.lower(x, None, init, **options)
  assert lowered.compile().memory_analysis().temp_size_in_bytes < 32 * 2**20  # the matrix is 512 MiB


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(num_clusters=0), 'at least 1'),
    (dict(num_clusters=11), 'at most the 10 rows'),
    (dict(num_clusters=3, key=None), 'needs a key'),
    (dict(num_clusters=(3, 2)), 'with groups'),
    (dict(num_clusters=3, groups=np.zeros(10, np.int32)), 'with groups'),
    (dict(num_clusters=(3, 2), groups=np.zeros(9, np.int32)), 'one entry a row'),
    (dict(num_clusters=3, init=jnp.zeros((2, 5))), 'init must be'),
    (dict(num_clusters=3, init=jnp.zeros((3, 5)), restarts=2), 'all be alike'),
    (dict(num_clusters=3, iterations=-1), 'at least 0'),
    (dict(num_clusters=3, init=jnp.full((3, 5), jnp.nan), key=None), 'init must be finite, but 3 of its rows are not'),
  ],
)
def test_what_cannot_be_clustered_is_refused_in_one_line(options, message):
  with pytest.raises(Refusal, match=message) as refused:
    clusters.kmeans(jnp.asarray(blobs(n=10)), **{'key': jax.random.key(0), **options})
  assert '\n' not in str(refused.value)
