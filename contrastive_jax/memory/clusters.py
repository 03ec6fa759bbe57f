"""k-means on the device: what methods that relabel, resample or assign between stages know of a whole data set.

Distances to the centroids are made in tiles (`nearest`), so rows may be split over the devices of a mesh and no matrix
of rows and centroids is ever there. The same input gives the same clusters.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from contrastive_jax.memory import nearest
from contrastive_jax.types import Refusal


class Clusters(NamedTuple):
  """Rows and the nearest of k centroids; with groups, clusters are counted through, those of group 0 first."""

  centroids: Float[Array, 'k d']
  labels: Int[Array, ' n']  # -1 for rows of no group
  inertia: Float[Array, '']  # sum over the rows of the squared distance to their centroid


def kmeans(
  x: Float[Array, 'n d'],
  *,
  num_clusters: int | Sequence[int],
  groups: Int[Array, ' n'] | None = None,
  key: Key[Array, ''] | None = None,
  init: Float[Array, 'k d'] | None = None,
  iterations: int = 100,
  tolerance: float = 1e-4,
  restarts: int = 1,
  spherical: bool = False,
) -> Clusters:
  r"""k-means by Lloyd's algorithm, from k-means++ or given centroids.

  .. math:: \min_{\mu, c} \; \sum_i \lVert x_i - \mu_{c(i)} \rVert^2

  In turn, every row goes to its nearest centroid (of equals the first) and every centroid to the mean of its rows. A
  cluster without rows gets the row that is furthest from its centroid, the next the next. It ends when no row changes
  its cluster, or the centroids move by no more than the tolerance. Labels and inertia are of the centroids returned.
  Of many clusters, where all rows are on one device and outside `jit`, bounds of distances save comparisons and
  change no label.

  Args:
    x: rows, `[n, d]`; may be split over a mesh of automatic axes.
    num_clusters: k; with `groups`, a number for each group, 0 allowed.
    groups: `[n]`: rows of group g go to clusters of group g alone, as if k-means were run in each group; rows of any
      other number, -1 say, to none. A group of fewer distinct rows than clusters leaves clusters empty.
    key: of k-means++; needed without `init`.
    init: the first centroids, `[k, d]`.
    iterations: at most so many moves of the centroids.
    tolerance: the greatest squared move of all centroids at which it ends, over the mean variance of the features
      (with `groups` that within groups).
    restarts: from so many draws of k-means++; the clusters of least inertia are returned.
    spherical: by cosines: rows are scaled to unit norm first, and centroids after each move. Norms below 1e-12 or
      above 1e18 count as zero.

  Raises:
    Refusal: rows that are not `[n, d]` or fewer than clusters, counts below 1 or not of the groups, neither a key nor
      first centroids or restarts of given ones, centroids of another shape, a number out of range, rows or centroids
      that are not finite (under `jit` these pass).

  Source: Lloyd, 1982; k-means++ of Arthur and Vassilvitskii, 2007, each centroid the best of 2 + log k draws, and empty
  clusters as in scikit-learn.
  """
  counts = _check(x, num_clusters, groups, key, init)
  if iterations < 0 or tolerance < 0 or restarts < 1:
    raise Refusal(
      f'iterations and tolerance must be at least 0 and restarts at least 1, but they are {iterations}, {tolerance} '
      f'and {restarts}'
    )
  if init is not None and restarts > 1:
    raise Refusal(f'restarts={restarts} from the same centroids would all be alike: give a key instead of init')
  bounded = sum(counts) >= _BOUNDED and _on_one_device(x)
  options = dict(counts=counts, iterations=iterations, tolerance=tolerance, spherical=spherical, bounded=bounded)
  if init is None:
    return _from_draws(x, groups, key, restarts=restarts, **options)
  return _from_centroids(x, groups, init, **options)


@functools.partial(jax.jit, static_argnames='spherical')
def assign(x: Float[Array, 'n d'], centroids: Float[Array, 'k d'], *, spherical: bool = False) -> Int[Array, ' n']:
  """The nearest centroid of every row, of equals the first; with `spherical` that of the largest cosine."""
  x, centroids = x.astype(jnp.float32), centroids.astype(jnp.float32)
  x, centroids = (x, _unit(centroids)) if spherical else (x - centroids.mean(0), centroids - centroids.mean(0))
  return nearest.compare(x, None, nearest.Centroids(centroids, np.zeros(len(centroids)), spherical)).labels


def _check(x, num_clusters, groups, key, init) -> tuple[int, ...]:
  """The clusters of each group."""
  if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
    raise Refusal(f'x must be floating-point rows [n, d], but it is {x.dtype} {x.shape}')
  one = isinstance(num_clusters, int | np.integer)
  if one != (groups is None):
    raise Refusal('num_clusters must be one number, or with groups a number for each group')
  counts = (int(num_clusters),) if one else tuple(int(count) for count in num_clusters)
  if min(counts, default=0) < 0 or not 1 <= sum(counts) <= len(x):
    raise Refusal(f'num_clusters must be at least 1 and at most the {len(x)} rows, but it is {num_clusters}')
  if groups is not None and groups.shape != x.shape[:1]:
    raise Refusal(f'groups must have one entry a row, [{len(x)}], but they are {groups.shape}')
  for name, rows in dict(x=x, init=init).items():
    # One would make a number of no product, and the labels of all rows with it.
    if rows is not None and not isinstance(rows, jax.core.Tracer) and not jnp.isfinite(rows).all():
      raise Refusal(f'{name} must be finite, but {int((~jnp.isfinite(rows)).any(1).sum())} of its rows are not')
  if key is None and init is None:
    raise Refusal('k-means needs a key to draw the first centroids, or init')
  if init is not None and init.shape != (sum(counts), x.shape[1]):
    raise Refusal(f'init must be [{sum(counts)}, {x.shape[1]}], but it is {init.shape}')
  return counts


# From so many clusters on, bounds save more comparisons than they cost: measured for 60,000 rows of width 128.
_BOUNDED = 128


def _on_one_device(x) -> bool:
  """Whether all rows are known to be: picking some of those that are split costs more than it saves."""
  return not isinstance(x, jax.core.Tracer) and len(jnp.asarray(x).sharding.device_set) == 1


def _owners(counts: tuple[int, ...]) -> np.ndarray:
  """The group of each cluster, ascending."""
  return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def _unit(x):
  """Rows of unit norm; zero where they are as good as zero."""
  square = jnp.square(x).sum(-1, keepdims=True)
  return jnp.where(square > 1e-24, x * jax.lax.rsqrt(jnp.maximum(square, 1e-24)), 0)


def _centred(x, groups, owner, spherical: bool):
  """Rows of unit norm, or about the mean of their group, where products round the least; and that of each cluster."""
  if spherical:
    return x, jnp.zeros((len(owner), x.shape[1]), x.dtype)
  if groups is None:
    return x - x.mean(0), jnp.broadcast_to(x.mean(0), (len(owner), x.shape[1]))
  last = owner[-1] + 1
  at = jnp.where((groups < 0) | (groups > last), last, groups)  # those of no cluster together
  sums, counts = jax.ops.segment_sum(x, at, last + 1), jax.ops.segment_sum(jnp.ones_like(x[:, 0]), at, last + 1)
  means = sums / jnp.maximum(counts, 1)[:, None]
  return x - means[at], means[owner]


def _prepared(x, groups, owner, tolerance: float, spherical: bool):
  """Rows as they are clustered, what to add to each centroid afterwards, and the squared move at which it ends."""
  x = _unit(x.astype(jnp.float32)) if spherical else x.astype(jnp.float32)
  x, means = _centred(x, groups, owner, spherical)
  return x, means, tolerance * jnp.square(x - x.mean(0)).mean()


@functools.partial(jax.jit, static_argnames=('counts', 'iterations', 'tolerance', 'spherical', 'bounded'))
def _from_centroids(x, groups, init, *, counts, iterations, tolerance, spherical, bounded) -> Clusters:
  owner = _owners(counts)
  x, means, limit = _prepared(x, groups, owner, tolerance, spherical)
  start = init.astype(jnp.float32)
  start = _unit(start) if spherical else start - means
  found = _lloyd(x, groups, start, owner, iterations, limit, spherical, bounded)
  return found._replace(centroids=found.centroids + means)


@functools.partial(jax.jit, static_argnames=('counts', 'iterations', 'tolerance', 'restarts', 'spherical', 'bounded'))
def _from_draws(x, groups, key, *, counts, iterations, tolerance, restarts, spherical, bounded) -> Clusters:
  owner = _owners(counts)
  x, means, limit = _prepared(x, groups, owner, tolerance, spherical)

  def run(start):
    first = _drawn(jax.random.fold_in(key, start), x, groups, owner)
    return _lloyd(x, groups, first, owner, iterations, limit, spherical, bounded)

  found = jax.lax.map(run, jnp.arange(restarts))
  best = jax.tree.map(lambda each: each[found.inertia.argmin()], found)
  return best._replace(centroids=best.centroids + means)


# --- Lloyd ---


def _lloyd(x, groups, centroids, owner, iterations: int, limit, spherical: bool, bounded: bool) -> Clusters:
  def at(z):
    return nearest.Centroids(z, owner, spherical)

  def known(known, before, now):
    return nearest.follow(x, groups, known, at(before), at(now)) if bounded else nearest.compare(x, groups, at(now))

  def moves(carry):
    step, *_, still = carry
    return (step < iterations) & ~still

  def move(carry):
    step, found, before, now, _ = carry
    labels, found = found.labels, known(found, before, now)
    moved = _means(x, groups, now, found.labels, owner)
    moved = _unit(moved) if spherical else moved
    still = (found.labels == labels).all() | (jnp.square(moved - now).sum() <= limit)
    return step + 1, found, now, moved, still

  start = (0, nearest.nothing(len(x)), centroids, centroids, False)
  _, found, before, now, _ = jax.lax.while_loop(moves, move, start)
  labels = known(found, before, now).labels
  return Clusters(now, labels, _distances(x, now, labels).sum())


def _distances(x, centroids, labels):
  """The squared distance of each row from its centroid, 0 for rows of no cluster."""
  return jnp.where(labels < 0, 0, jnp.square(x - centroids[labels]).sum(1))


def _means(x, groups, centroids, labels, owner):
  """The mean of each cluster's rows."""
  k = len(centroids)
  at = jnp.where(labels < 0, k, labels)  # out of range: dropped
  sums, counts = jax.ops.segment_sum(x, at, k), jax.ops.segment_sum(jnp.ones_like(x[:, 0]), at, k)

  def filled():
    return _with_rows(x, groups, centroids, labels, owner, sums, counts)

  sums, counts = jax.lax.cond((counts == 0).any(), filled, lambda: (sums, counts))
  return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1)[:, None], centroids)


def _with_rows(x, groups, centroids, labels, owner, sums, counts):
  """Sums and counts in which empty clusters have got the furthest rows of their group, taken from where these were."""
  group = jnp.zeros(len(x), jnp.int32) if groups is None else groups
  order = jnp.lexsort((-_distances(x, centroids, labels), group))
  empty = counts == 0
  before = jnp.cumsum(empty) - empty
  rank = before - before[np.searchsorted(owner, owner)]  # among the empty clusters of the same group
  place = jnp.searchsorted(group[order], jnp.asarray(owner)) + rank
  row = order[jnp.minimum(place, len(x) - 1)]
  taken = empty & (place < len(x)) & (group[row] == owner)
  given = jnp.where(taken[:, None], x[row], 0)
  from_ = jnp.where(taken, labels[row], len(centroids))
  sums = sums - jax.ops.segment_sum(given, from_, len(centroids)) + given
  return sums, counts - jax.ops.segment_sum(taken.astype(counts.dtype), from_, len(centroids)) + taken


# --- k-means++ ---


def _drawn(key, x, groups, owner):
  """The first centroids: rows, each drawn by its squared distance from those already drawn in its group."""
  trials = 2 + int(math.log(len(owner)))
  square = jnp.square(x).sum(1)
  first = jnp.asarray(np.searchsorted(owner, owner) == np.arange(len(owner)))  # of its group
  owner = jnp.asarray(owner)

  def draw(j, carry):
    centroids, nearest = carry
    member = jnp.ones(len(x), bool) if groups is None else groups == owner[j]
    weights = jnp.cumsum(jnp.where(member, jnp.where(first[j], 1, nearest), 0))
    levels = jax.random.uniform(jax.random.fold_in(key, j), (trials,)) * weights[-1]
    drawn = x[jnp.minimum(jnp.searchsorted(weights, levels, side='right'), len(x) - 1)]
    products = jnp.matmul(x, drawn.T, precision='highest')
    distances = jnp.maximum(square[:, None] - 2 * products + jnp.square(drawn).sum(1), 0)
    distances = jnp.where(first[j], distances, jnp.minimum(nearest[:, None], distances))
    best = jnp.where(member[:, None], distances, 0).sum(0).argmin()
    return centroids.at[j].set(drawn[best]), jnp.where(member, distances[:, best], nearest)

  return jax.lax.fori_loop(0, len(owner), draw, (jnp.zeros_like(x[: len(owner)]), jnp.zeros_like(x[:, 0])))[0]
