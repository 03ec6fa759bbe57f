"""The nearest centroid, followed with bounds, against comparisons with all."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.memory import clusters, nearest

N, D, K = 8009, 6, 140  # what is compared anew is more than one tile, and does not fill the last


def normal(rng):
  return rng.normal(size=(N, D))


def lattice(rng):
  """Many distances are equal."""
  return rng.integers(-2, 3, size=(N, D))


def repeated(rng):
  return np.repeat(rng.normal(size=(N // 3 + 1, D)), 3, 0)[:N]


def far_away(rng):
  """Products are much larger than distances."""
  return 100 + 10 * rng.normal(size=(5, D))[rng.integers(5, size=N)] + rng.normal(size=(N, D))


def vanishing(rng):
  """Squares of distances are no longer numbers of full precision."""
  return rng.normal(size=(N, D)) * 1e-18


def with_zeros(rng):
  x = rng.normal(size=(N, D))
  x[::7] = 0
  x[1::7] = -x[2::7][: len(x[1::7])]
  return x


@pytest.mark.parametrize('spherical', [False, True])
@pytest.mark.parametrize('grouped', [False, True])
def test_bounds_change_no_bit_of_labels_centroids_and_inertia(spherical, grouped):
  counts = (K - 30, 0, 30) if grouped else (K,)
  options = dict(counts=counts, iterations=20, tolerance=0.0, spherical=spherical)
  for seed, make in enumerate([normal, lattice, repeated, far_away, vanishing, with_zeros]):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(make(rng), jnp.float32)
    groups = jnp.asarray(rng.integers(-1, 3, size=N), jnp.int32) if grouped else None
    init = x[rng.permutation(N)[:K]]
    one, other = (clusters._from_centroids(x, groups, init, bounded=bounded, **options) for bounded in (True, False))
    for a, b in zip(one, other, strict=True):
      np.testing.assert_array_equal(a, b, err_msg=make.__name__)


@functools.cache
def moved(spherical):
  """Rows, and where centroids were and are."""
  rng = np.random.default_rng(3)
  x, z = (jnp.asarray(rng.normal(size=(n, D)), jnp.float32) for n in (N, K))
  steps = jnp.asarray(rng.exponential(0.02, size=(K, 1)) * rng.normal(size=(K, D)), jnp.float32)
  unit = clusters._unit if spherical else lambda z: z
  at = functools.partial(nearest.Centroids, owner=np.zeros(K, np.int32), spherical=spherical)
  return unit(x), at(unit(z)), at(unit(z + steps))


def distances(x, centroids):
  return np.linalg.norm(np.float64(x)[:, None] - np.float64(centroids.z), axis=2)


@pytest.mark.parametrize('spherical', [False, True])
def test_no_other_centroid_is_nearer_than_the_bound(spherical):
  x, before, now = moved(spherical)
  known = nearest.follow(x, None, nearest.compare(x, None, before), before, now)
  far = distances(x, now)
  np.testing.assert_array_equal(known.labels, far.argmin(1))
  second = np.sort(far, axis=1)[:, 1]
  assert (known.others <= second * (1 + 1e-5)).all()
  assert (known.others < second * (1 - 1e-3)).mean() > 0.1  # some were not compared anew
  assert (known.others > second * (1 - 1e-5)).mean() > 0.1  # some were


def test_a_row_is_compared_anew_where_its_bound_does_not_rule_out_another_and_only_there():
  x, _, now = moved(False)
  truth = nearest.compare(x, None, now).labels
  wrong = (truth + 1) % K
  sure = np.arange(N) % 2 == 0
  said = nearest.Known(wrong, jnp.where(sure, jnp.inf, 0))
  found = nearest.follow(x, None, said, now, now).labels
  np.testing.assert_array_equal(found[~sure], truth[~sure])
  np.testing.assert_array_equal(found[sure], wrong[sure])


def test_the_bound_falls_by_the_longest_move_at_most():
  x, before, now = moved(False)
  known = nearest.compare(x, None, before)
  moves = np.linalg.norm(now.z - before.z, axis=1)
  after = nearest.follow(x, None, known, before, now)
  assert (after.others >= known.others - moves.max() - 1e-5).all()


def test_rows_of_no_group_have_no_centroid_and_are_never_compared():
  x, before, _ = moved(False)
  groups = jnp.where(jnp.arange(N) < 10, 5, 0)
  known = nearest.compare(x, groups, before)
  assert (known.labels[:10] == -1).all()
  assert np.isinf(known.others[:10]).all()
  assert (nearest.follow(x, groups, known, before, before).labels[:10] == -1).all()


def test_the_margin_covers_what_products_round():
  rng = np.random.default_rng(0)
  x, z = (jnp.asarray(50 + rng.normal(size=(n, D)), jnp.float32) for n in (N, K))  # squares of 15,000, distances of 2
  at = nearest.Centroids(z, np.zeros(K, np.int32), False)
  off = np.abs(np.square(nearest.compare(x, None, at).others) - np.square(np.sort(distances(x, at), 1)[:, 1]))
  margin = 4 * (D + 8) * np.finfo(np.float32).eps * (np.square(x).sum(1) + np.square(z).sum(1).max())
  assert 0.001 < (off / margin).max() < 0.5


def test_a_zero_centroid_is_at_right_angles_to_all_rows_by_cosines():
  """The other comes from more than a right angle to less: further than the origin by distance, nearer by cosine."""
  x = jnp.asarray([[1.0, 0.0]])
  before, now = (
    nearest.Centroids(jnp.asarray([[0.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]]), np.zeros(2, np.int32), True)
    for cosine in (-0.1, 0.1)
  )
  known = nearest.compare(x, None, before)
  assert known.labels == 0
  assert nearest.follow(x, None, known, before, now).labels == 1


def test_with_a_centroid_that_is_no_number_a_row_has_the_label_that_a_comparison_gives():
  x, before, now = moved(False)
  broken = now._replace(z=now.z.at[3, 1].set(jnp.nan))
  known = nearest.follow(x, None, nearest.compare(x, None, before), before, broken)
  np.testing.assert_array_equal(known.labels, nearest.compare(x, None, broken).labels)


def test_equal_distances_give_the_first_centroid():
  x = jnp.asarray([[0.0, 0.0], [1.0, 0.0]])
  z = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [0.0, -1.0], [2.0, 0.0]])
  at = nearest.Centroids(z, np.zeros(4, np.int32), False)
  known = nearest.compare(x, None, at)
  np.testing.assert_array_equal(known.labels, [1, 0])
  np.testing.assert_array_equal(nearest.follow(x, None, known, at, at).labels, [1, 0])
  np.testing.assert_allclose(known.others, [1, 1], rtol=1e-6)
