"""What a term may be and what comes back: every statistic, entry and closure, in every fold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import similarity as sim
from contrastive_jax.similarity import operator
from contrastive_jax.types import Refusal

N, M = 13, 9
FOLDS = ['dense', 'chunked', 'gathered', 'ring']
in_every_fold = pytest.mark.parametrize('fold', FOLDS)


@functools.cache
def fold_of(name: str):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  return dict(
    dense=sim.Dense(),
    chunked=sim.Chunked(5, 4),
    gathered=sim.Chunked(2, 3, mesh=mesh),
    ring=sim.Ring(mesh=mesh, rows=1, cols=2),
  )[name]


def rows(n, seed=0, width=5):
  return np.random.default_rng([seed, n]).normal(size=(n, width)).astype(np.float32)


def value_and_gradient(function, *arguments):
  """(statistics, gradient of their weighted sum in all arguments)."""

  def total(*arguments):
    statistics = function(*arguments)
    real = [v for v in jax.tree.leaves(statistics) if jnp.issubdtype(v.dtype, jnp.floating)]
    return sum((v * (1 + jnp.arange(v.size).reshape(v.shape) / 9)).sum() for v in real), statistics

  gradient, statistics = jit(jax.grad(total, tuple(range(len(arguments))), has_aux=True))(*arguments)
  return statistics, gradient


def assert_equal(got, want, tolerance=2e-5):
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * max(1, np.abs(w).max()))


TERMS = dict(
  logsumexp=sim.logsumexp(), total=sim.total(), mean=sim.mean(), maximum=sim.maximum(), minimum=sim.minimum()
)


def plainly(logits, keep):
  """The statistics of TERMS and the two largest, of each row of a matrix of logits."""
  inside = functools.partial(jnp.where, keep)
  count = jnp.maximum(keep.sum(1), 1)
  best, where = jax.lax.top_k(inside(logits, -jnp.inf), 2)
  return (
    jax.nn.logsumexp(logits, axis=1, where=keep),
    inside(logits, 0).sum(1),
    inside(logits, 0).sum(1) / count,
    inside(logits, -jnp.inf).max(1),
    inside(logits, jnp.inf).min(1),
    (best, where),
  )


@pytest.mark.turns(4)
@in_every_fold
def test_row_and_column_statistics_come_from_one_reduction_with_their_gradients(fold):
  terms = [*TERMS.values(), sim.top(2)]
  x_mask, y_mask = np.arange(N) % 4 != 0, np.arange(M) % 3 != 0

  def folded(x, y):
    op = sim.Similarity({'z': x, 'mask': x_mask}, {'z': y, 'mask': y_mask}, fold=fold_of(fold))
    return op.reduce(terms, terms)

  def direct(x, y):
    logits = jnp.dot(x, y.T, precision='highest')
    return plainly(logits, jnp.broadcast_to(y_mask, (N, M))), plainly(logits.T, jnp.broadcast_to(x_mask, (M, N)))

  arguments = rows(N), rows(M, 1)
  assert_equal(value_and_gradient(folded, *arguments), value_and_gradient(direct, *arguments))


@pytest.mark.turns(2)
@in_every_fold
def test_statistics_of_rows_against_themselves_leave_out_the_anchor(fold):
  terms = [*TERMS.values(), sim.top(2)]
  others = ~np.eye(N, dtype=bool)

  def folded(x):
    return sim.Similarity({'z': x}, fold=fold_of(fold)).reduce(terms)[0]

  got = value_and_gradient(folded, rows(N))
  want = value_and_gradient(lambda x: plainly(jnp.dot(x, x.T, precision='highest'), others), rows(N))
  assert_equal(got, want)


@in_every_fold
def test_every_pair_is_counted_once(fold):
  def counts(x, y):
    one = sim.total(lambda pair: jnp.ones_like(pair.dot))
    both = sim.Similarity({'z': x}, {'z': y}, fold=fold_of(fold)).reduce([one], [one])
    return both, sim.Similarity({'z': x}, fold=fold_of(fold)).reduce([one])[0]

  ((of_x,), (of_y,)), (of_same,) = jit(counts)(rows(N), rows(M))
  assert (of_x == M).all()
  assert (of_y == N).all()
  assert (of_same == N - 1).all()


@pytest.mark.turns(3)
@pytest.mark.parametrize('devices', [2, 3, 4, 5, 8])
def test_every_two_devices_of_half_a_ring_meet_once(devices):
  """Odd and even numbers of devices, uneven last shards: statistics, closures and entries as on one device."""
  mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])

  def folded(fold, x, tau, scale):
    terms = [sim.logsumexp(lambda pair: pair.dot * scale / pair.anchor['tau'] - pair.other['tau']), sim.top(3)]
    count = sim.total(lambda pair: jnp.ones_like(pair.dot))
    return sim.Similarity({'z': x, 'tau': tau}, fold=fold).reduce([*terms, count])[0]

  arguments = rows(N), np.linspace(0.5, 2, N, dtype=np.float32), np.float32(0.7)
  ring = sim.Ring(mesh=mesh, rows=2, cols=2)
  got = value_and_gradient(functools.partial(folded, ring), *arguments)
  assert_equal(got, value_and_gradient(functools.partial(folded, sim.Dense()), *arguments))
  assert (got[0][-1] == N - 1).all()


@pytest.mark.turns(2)
@in_every_fold
def test_what_a_term_closes_over_gets_gradients(fold):
  x, y = rows(N), rows(M, 1)

  def folded(x, y, scale, bias):
    term = sim.total(lambda pair: jnp.tanh(pair.dot * scale + bias[1]))
    return sim.Similarity({'z': x}, {'z': y}, fold=fold_of(fold)).reduce([term], [term])

  def direct(x, y, scale, bias):
    values = jnp.tanh(jnp.dot(x, y.T, precision='highest') * scale + bias[1])
    return (values.sum(1),), (values.sum(0),)

  arguments = x, y, np.float32(0.7), np.asarray([3.0, -0.4], np.float32)
  assert_equal(value_and_gradient(folded, *arguments), value_and_gradient(direct, *arguments))


@pytest.mark.turns(3)
@in_every_fold
def test_entries_of_any_shape_take_part_and_get_gradients(fold):
  """A teacher's embeddings, a temperature per anchor and a target per candidate, as soft targets need."""

  def folded(x, y, teacher_x, teacher_y, tau, target):
    left = {'z': x, 'teacher': teacher_x, 'tau': tau}
    right = {'z': y, 'teacher': teacher_y, 'target': target}
    term = sim.total(
      lambda pair: (
        pair.dot / pair.anchor['tau'] * jnp.dot(pair.anchor['teacher'], pair.other['teacher']) + pair.other['target']
      )
    )
    return sim.Similarity(left, right, fold=fold_of(fold)).reduce([term])[0]

  def direct(x, y, teacher_x, teacher_y, tau, target):
    return (((x @ y.T) / tau[:, None] * (teacher_x @ teacher_y.T) + target).sum(1),)

  tau, target = np.linspace(0.5, 2, N, dtype=np.float32), np.linspace(-1, 1, M, dtype=np.float32)
  arguments = rows(N), rows(M, 1), rows(N, 2, 3), rows(M, 3, 3), tau, target
  assert_equal(value_and_gradient(folded, *arguments), value_and_gradient(direct, *arguments))


@pytest.mark.turns(3)
@in_every_fold
def test_a_threshold_of_each_row_from_a_first_pass_restricts_a_second(fold):
  def folded(x):
    (hardest,), _ = sim.Similarity({'z': x}, fold=fold_of(fold)).reduce([sim.maximum()])
    op = sim.Similarity({'z': x, 'limit': jax.lax.stop_gradient(hardest) - 1}, fold=fold_of(fold))
    near = sim.total(over=lambda pair: sim.valid(pair) & (pair.dot > pair.anchor['limit']))
    return op.reduce([near])[0]

  def direct(x):
    logits = jnp.where(np.eye(N, dtype=bool), -jnp.inf, jnp.dot(x, x.T, precision='highest'))
    near = logits > jax.lax.stop_gradient(logits.max(1, keepdims=True)) - 1
    return (jnp.where(near, logits, 0).sum(1),)

  assert_equal(value_and_gradient(folded, rows(N)), value_and_gradient(direct, rows(N)))


@in_every_fold
def test_positions_are_those_among_all_instances(fold):
  def last(x, y):
    term = sim.maximum(lambda pair: 100.0 * pair.anchor['position'] + pair.other['position'])
    return sim.Similarity({'z': x}, {'z': y}, fold=fold_of(fold)).reduce([term], [term])

  (of_x,), (of_y,) = jit(last)(rows(N), rows(M))
  assert_equal(of_x, 100.0 * np.arange(N) + M - 1)
  assert_equal(of_y, 100.0 * np.arange(M) + N - 1)


@in_every_fold
def test_ids_decide_positives_and_negatives_and_minus_one_equals_nothing(fold):
  x_id, y_id = np.arange(N) % 4 - 1, np.arange(M) % 3 - 1

  def counts(x, y):
    one = [sim.total(lambda pair: jnp.ones_like(pair.dot), over) for over in (sim.positive, sim.negative)]
    return sim.Similarity({'z': x, 'id': x_id}, {'z': y, 'id': y_id}, fold=fold_of(fold)).reduce(one)[0]

  same = (x_id[:, None] == y_id) & (y_id >= 0)
  positives, negatives = jit(counts)(rows(N), rows(M))
  assert_equal(positives, same.sum(1))
  assert_equal(negatives, (~same).sum(1))


@in_every_fold
def test_the_largest_come_in_order_with_the_gradient_of_their_pairs(fold):
  random = np.random.default_rng(3)
  x, y = random.integers(-1, 2, (N, 3)).astype(np.float32), random.integers(-1, 2, (M, 3)).astype(np.float32)

  def folded(x, y):  # small integers: many equal values, of which the first position wins
    return sim.Similarity({'z': x}, {'z': y}, fold=fold_of(fold)).reduce([sim.top(4)])[0]

  def direct(x, y):
    return (jax.lax.top_k(x @ y.T, 4),)

  assert_equal(value_and_gradient(folded, x, y), value_and_gradient(direct, x, y))


def test_the_largest_of_rows_against_themselves_break_ties_alike_in_every_fold():
  x = np.broadcast_to(rows(1), (N, 5))
  want = [[j for j in range(N) if j != i][:3] for i in range(N)]
  for fold in FOLDS:
    ((_, where),), _ = sim.Similarity({'z': x}, fold=fold_of(fold)).reduce([sim.top(3)])
    assert np.asarray(where).tolist() == want, fold


@pytest.mark.parametrize('fold', ['chunked', 'ring'])
def test_closures_get_gradients_on_explicit_meshes(fold):
  mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
  x, y = rows(8), rows(6, 1)
  tiles = dict(chunked=sim.Chunked(3, 4), ring=sim.Ring(rows=3, cols=4))[fold]

  def folded(fold, x, y, scale):
    term = sim.total(lambda pair: jnp.tanh(pair.dot * scale))
    return sim.Similarity({'z': x}, {'z': y}, fold=fold).reduce([term])[0]

  want = value_and_gradient(functools.partial(folded, sim.Dense()), x, y, np.float32(0.7))
  with jax.set_mesh(mesh):
    sharded = [jax.device_put(v, NamedSharding(mesh, P('data'))) for v in (x, y)]
    got = value_and_gradient(functools.partial(folded, tiles), *sharded, jax.device_put(0.7, NamedSharding(mesh, P())))
  assert_equal(got, want)


def test_equal_terms_written_twice_compile_once():
  x = rows(7, 4)

  def reduce(factor):
    term = sim.total(lambda pair: pair.dot * 2.5 + factor)
    return sim.Similarity({'z': x}, fold=sim.Chunked(3, 3)).reduce([term])[0][0]

  first, before = reduce(jnp.float32(1)), operator._run._cache_size()
  second = reduce(jnp.float32(3))
  assert operator._run._cache_size() == before
  assert_equal(second - first, np.full(7, 12))


def test_terms_that_differ_in_their_derivative_only_are_told_apart():
  def doubled(slope):
    @jax.custom_jvp
    def function(value):
      return 2 * value

    function.defjvp(lambda primals, tangents: (function(*primals), slope * tangents[0]))
    return function

  x, y = rows(4), rows(3, 1)
  for slope in (1.0, 5.0):
    rule = doubled(slope)
    term = sim.total(lambda pair, f=rule: f(pair.dot))
    got = jax.grad(
      lambda x, t=term: sim.Similarity({'z': x}, {'z': y}, fold=sim.Chunked(2, 2)).reduce([t])[0][0].sum()
    )(x)
    assert_equal(got, np.broadcast_to(slope * y.sum(0), x.shape))


# --- refusals ---


@pytest.mark.parametrize(
  ('left', 'right', 'parts'),
  [
    (dict(z=rows(3)), dict(z=rows(3, width=4)), ['(3, 5)', '(3, 4)']),
    (dict(z=rows(3)[0]), None, ['rows', '[n, d]', '(5,)']),
    (dict(z=rows(3)), dict(z=rows(3)[None]), ['columns', '[n, d]', '(1, 3, 5)']),
    (dict(z=rows(3).astype(int)), None, ['floating-point', 'int']),
    (dict(z=rows(3), id=np.zeros(4, int)), None, ["'id'", '3 instances', '(4,)']),
    (dict(z=rows(3)), dict(z=rows(4), mask=np.zeros(3, bool)), ["'mask'", 'columns', '4 instances', '(3,)']),
  ],
)
def test_operands_that_do_not_fit_are_refused_with_their_shapes(left, right, parts):
  with pytest.raises(Refusal) as refusal:
    sim.Similarity(left, right)
  assert all(part in str(refusal.value) for part in parts), refusal.value


def test_column_terms_of_rows_against_themselves_are_refused():
  with pytest.raises(Refusal, match='rows are the columns'):
    sim.Similarity({'z': rows(3)}).reduce([sim.mean()], [sim.mean()])


def test_a_term_that_is_not_one_scalar_a_pair_is_refused():
  with pytest.raises(Refusal, match='one scalar for one pair'):
    sim.Similarity({'z': rows(3)}).reduce([sim.mean(lambda pair: jnp.stack([pair.dot, pair.dot]))])
