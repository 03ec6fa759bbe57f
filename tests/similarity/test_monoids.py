"""The laws of a monoid: unit, associativity, split tiles, and a backward pass that is JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.similarity import monoids
from contrastive_jax.similarity.monoids import Others

MONOIDS = {m.name: m for m in (monoids.SUM, monoids.MEAN, monoids.MAX, monoids.MIN, monoids.LOGSUMEXP, monoids.topk(3))}
ROWS, COLS = 4, 9
POSITIONS = np.arange(COLS, dtype=np.int32)
EMPTY = dict(sum=0, mean=0, max=-np.inf, min=np.inf, logsumexp=-np.inf)

each = pytest.mark.parametrize('name', MONOIDS)
both_axes = pytest.mark.parametrize('axis', [1, 0])


def tile(axis, seed=0):
  """Values, a set that leaves the first anchor nothing and another everything, and the candidates' positions."""
  random = np.random.default_rng(seed)
  values = random.normal(size=(ROWS, COLS)).astype(np.float32)
  values[1, 5] = values[1, 2]  # a tie
  keep = random.random((ROWS, COLS)) < 0.6
  keep[0], keep[1] = False, True
  return (values, keep) if axis == 1 else (values.T.copy(), keep.T.copy())


def lift(monoid, values, keep, axis, cut=slice(None), bound=None):
  at = (slice(None), cut) if axis == 1 else (cut, slice(None))
  return monoid.lift(values[at], None if keep is None else keep[at], axis, Others(POSITIONS[cut]), bound)


def assert_equal(got, want, tolerance=1e-5):
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def by_numpy(name, values, keep):
  """The statistic of rows, one anchor at a time."""
  out = []
  for row, kept in zip(values.astype(np.float64), keep, strict=True):
    chosen, where = row[kept], np.flatnonzero(kept)
    if name == 'top3':
      order = sorted(range(len(chosen)), key=lambda i: (-chosen[i], i))[:3]
      short = [0] * (3 - len(order))
      out.append(
        ([chosen[i] for i in order] + [-np.inf for _ in short], [where[i] for i in order] + [-1 for _ in short])
      )
    elif not len(chosen):
      out.append(EMPTY[name])
    else:
      functions = dict(sum=np.sum, mean=np.mean, max=np.max, min=np.min, logsumexp=lambda v: np.log(np.exp(v).sum()))
      out.append(functions[name](chosen))
  return tuple(np.asarray(part) for part in zip(*out, strict=True)) if name == 'top3' else np.asarray(out)


@both_axes
@each
def test_lift_and_finish_are_the_statistic_and_an_empty_set_has_its_unit(name, axis):
  monoid, (values, keep) = MONOIDS[name], tile(axis)
  want = by_numpy(name, *((values, keep) if axis == 1 else (values.T, keep.T)))
  assert_equal(monoid.finish(lift(monoid, values, keep, axis)), want)


@both_axes
@each
def test_no_set_is_the_set_of_everything(name, axis):
  monoid, (values, keep) = MONOIDS[name], tile(axis)
  assert_equal(lift(monoid, values, None, axis), lift(monoid, values, np.ones_like(keep), axis))


@pytest.mark.turns(4)
@both_axes
@each
def test_split_tiles_merged_in_any_grouping_and_order_are_the_whole(name, axis):
  monoid, (values, keep) = MONOIDS[name], tile(axis)
  a, b, c = (lift(monoid, values, keep, axis, cut) for cut in (slice(0, 2), slice(2, 6), slice(6, 9)))
  whole = monoid.finish(lift(monoid, values, keep, axis))
  merge = monoid.merge
  for grouped in (merge(merge(a, b), c), merge(a, merge(b, c)), merge(c, merge(a, b)), merge(merge(b, c), a)):
    assert_equal(monoid.finish(grouped), whole)


@each
def test_init_is_the_unit_of_merge_on_both_sides(name):
  monoid, (values, keep) = MONOIDS[name], tile(1)
  state, unit = lift(monoid, values, keep, 1), monoid.init(ROWS, jnp.float32)
  for merged in (monoid.merge(unit, state), monoid.merge(state, unit)):
    assert_equal(monoid.finish(merged), monoid.finish(state))
  assert_equal(monoid.finish(monoid.merge(unit, unit)), monoid.finish(unit))


@each
def test_the_state_keeps_its_types_and_shapes_through_every_step(name):
  monoid, (values, keep) = MONOIDS[name], tile(1)
  shape = lambda state: jax.tree.map(lambda x: (x.shape, x.dtype), state)  # noqa: E731
  state, unit = lift(monoid, values, keep, 1), monoid.init(ROWS, jnp.float32)
  assert shape(state) == shape(unit) == shape(monoid.merge(state, unit))


@pytest.mark.turns(2)
@both_axes
@each
def test_pull_is_the_gradient_of_lift_and_finish_by_jax(name, axis):
  monoid, (values, keep) = MONOIDS[name], tile(axis)
  state, pullback = jax.vjp(lambda v: jax.tree.leaves(monoid.finish(lift(monoid, v, keep, axis)))[0], values)
  cotangent = np.random.default_rng(1).normal(size=state.shape).astype(np.float32)
  whole = lift(monoid, values, keep, axis)
  given = (cotangent, None) if name == 'top3' else cotangent
  got = monoid.pull(values, keep, axis, Others(POSITIONS), whole, given, None)
  assert jnp.isfinite(got).all()
  assert_equal(got, pullback(cotangent)[0])
  nothing = got[0] if axis == 1 else got[:, 0]
  assert (nothing == 0).all()


@both_axes
@pytest.mark.parametrize('scale', [1.0, 30.0])
def test_a_shared_bound_changes_neither_value_nor_pull_of_logsumexp(axis, scale):
  monoid, (values, keep) = monoids.LOGSUMEXP, tile(axis)
  values = np.clip(values * scale, -39, 39)
  plain = lift(monoid, values, keep, axis)
  bounded = [lift(monoid, values, keep, axis, cut, np.float32(40)) for cut in (slice(0, 4), slice(4, 9))]
  merged = monoid.merge(*bounded)
  assert_equal(monoid.finish(merged), monoid.finish(plain))
  cotangent = np.ones(ROWS, np.float32)
  pulled = [
    monoid.pull(values, keep, axis, Others(POSITIONS), s, cotangent, b)
    for s, b in ((plain, None), (merged, np.float32(40)))
  ]
  assert_equal(pulled[1], pulled[0])


def test_logsumexp_neither_overflows_nor_hides_a_nan():
  monoid = monoids.LOGSUMEXP
  large = np.asarray([[1000.0, 999.0], [-1000.0, -1001.0], [np.nan, 0.0]], np.float32)
  finished = monoid.finish(monoid.lift(large, None, 1, Others(POSITIONS[:2]), None))
  assert_equal(finished[:2], np.array([1000, -1000]) + np.log1p(np.exp(-1)))
  assert np.isnan(finished[2])


def test_values_outside_the_set_leave_no_trace_however_large():
  values = np.asarray([[1.0, np.inf, 2.0, 1e30]], np.float32)
  keep = np.asarray([[True, False, True, False]])
  for monoid in MONOIDS.values():
    statistic, pullback = jax.vjp(
      lambda v, m=monoid: jax.tree.leaves(m.finish(m.lift(v, keep, 1, Others(POSITIONS[:4]), None)))[0], values
    )
    gradient = pullback(
      jnp.ones_like(statistic).at[..., 2:].set(0) if statistic.ndim == 2 else jnp.ones_like(statistic)
    )[0]
    assert jnp.isfinite(gradient).all(), monoid.name
    assert (gradient[~keep] == 0).all(), monoid.name


@pytest.mark.parametrize('name', ['max', 'min'])
def test_the_first_of_equal_extremes_has_the_gradient_however_its_value_is_rounded_when_it_is_made_again(name):
  monoid, values = MONOIDS[name], np.asarray([[2.0, 2.0, 2.0]], np.float32)
  parts = [lift(monoid, values, None, 1, cut) for cut in (slice(1, 3), slice(0, 1))]
  state = monoid.merge(*parts)
  again = np.nextafter(values, 3 * values)
  got = monoid.pull(again, None, 1, Others(POSITIONS[:3]), state, np.ones(1, np.float32), None)
  np.testing.assert_array_equal(got, [[1, 0, 0]])


@both_axes
@pytest.mark.parametrize('name', ['max', 'min'])
def test_an_extreme_of_a_set_with_a_nan_is_nan_in_whatever_order_tiles_come(name, axis):
  values, _ = tile(axis)
  values[2, 2] = np.nan
  parts = [lift(MONOIDS[name], values, None, axis, cut) for cut in (slice(0, 4), slice(4, COLS))]
  for order in (parts, parts[::-1]):
    found = MONOIDS[name].finish(MONOIDS[name].merge(*order))
    np.testing.assert_array_equal(np.isnan(found), np.arange(ROWS) == 2)


def test_the_first_position_wins_among_equal_values_in_whatever_order_tiles_come():
  monoid, values = monoids.topk(2), np.full((1, COLS), 7.0, np.float32)
  parts = [lift(monoid, values, None, 1, cut) for cut in (slice(6, 9), slice(0, 3), slice(3, 6))]
  for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
    state = monoid.init(1, jnp.float32)
    for i in order:
      state = monoid.merge(state, parts[i])
    assert np.asarray(state[1]).tolist() == [[0, 1]]


def test_top_of_fewer_candidates_than_k_says_so():
  monoid = monoids.topk(5)
  best, where = monoid.lift(
    np.asarray([[3.0, 1.0, 2.0]], np.float32), np.asarray([[True, False, True]]), 1, Others(POSITIONS[:3]), None
  )
  assert np.asarray(best).tolist() == [[3.0, 2.0, -np.inf, -np.inf, -np.inf]]
  assert np.asarray(where).tolist() == [[0, 2, -1, -1, -1]]
