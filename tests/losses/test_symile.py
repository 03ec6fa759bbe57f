"""Symile and its pairwise baseline against brute force, and the identities of the multilinear inner product."""

import itertools
import math

import autograd
import autograd.numpy as anp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import PLACES, TILES, assert_close, split, weighted
from compiling import jit
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses

KEY = jax.random.key(5)


def modalities(count, b=6, d=5, seed=0):
  rows = np.random.default_rng([seed, count, b]).normal(size=(count, b, d))
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


# --- brute force in float64 ---


def mip(rows):
  product = 1.0
  for row in rows:
    product = product * row
  return anp.sum(product)


def cross_entropy(true, negatives):
  return anp.log(sum(anp.exp(logit) for logit in [true, *negatives])) - true


def by_tuples(reps, temperature, mask=None):
  """Every anchor against all tuples of rows of the others."""
  modes, b, values = len(reps), reps.shape[1], []
  mask = np.ones((b, modes), bool) if mask is None else mask
  for i in range(b):
    total = 0.0
    for m in range(modes if mask[i].all() else 0):
      others = [n for n in range(modes) if n != m]
      logits = {
        places: mip([reps[m, i], *(reps[n, j] for n, j in zip(others, places, strict=True))]) / temperature
        for places in itertools.product(range(b), repeat=modes - 1)
        if all(mask[j, n] for n, j in zip(others, places, strict=True))
      }
      true = logits.pop((i,) * (modes - 1))
      total = total + cross_entropy(true, logits.values())
    values.append(total / modes)
  return anp.stack(values)


def by_permutations(reps, temperature, orders, mask=None):
  """orders[m][r] is the permutation of the r-th other modality where m is the anchor."""
  modes, b, values = len(reps), reps.shape[1], []
  mask = np.ones((b, modes), bool) if mask is None else mask
  for i in range(b):
    total = 0.0
    for m in range(modes if mask[i].all() else 0):
      others = [n for n in range(modes) if n != m]
      true = mip([reps[n, i] for n in range(modes)]) / temperature
      negatives = [
        mip([reps[m, i], *(reps[n, order[j]] for n, order in zip(others, orders[m], strict=True))]) / temperature
        for j in range(b)
        if j != i and all(mask[order[j], n] for n, order in zip(others, orders[m], strict=True))
      ]
      total = total + cross_entropy(true, negatives)
    values.append(total / modes)
  return anp.stack(values)


def orders_of(modes, b):
  keys = jax.random.split(KEY, (modes, modes - 1))
  return [[np.asarray(jax.random.permutation(k, b)) for k in row] for row in keys]


def check(loss, reference, reps, temperature):
  def of_loss(reps, temperature):
    values = loss(list(reps), temperature)
    return weighted(values, jnp), values

  (_, values), got = jit(jax.value_and_grad(of_loss, (0, 1), has_aux=True))(jnp.asarray(reps), temperature)
  assert values.shape == reps.shape[1:2]
  scalar = [autograd.grad(lambda r, t: weighted(reference(r, t), anp), side) for side in (0, 1)]
  assert_close(values, reference(reps, temperature), 1e-9)
  assert_close(got, tuple(gradient(reps, temperature) for gradient in scalar), 1e-9)


@pytest.mark.turns(3)
@pytest.mark.parametrize(('modes', 'b'), [(2, 6), (3, 6), (4, 3)])
def test_all_tuples_equal_brute_force_in_value_and_gradient_of_rows_and_temperature(modes, b):
  with jax.enable_x64(True):
    check(
      lambda reps, t: losses.symile(reps, temperature=t, negatives='n_squared', fold=losses.chunked(3, 4)),
      by_tuples,
      modalities(modes, b),
      0.3,
    )


@pytest.mark.turns(3)
@pytest.mark.parametrize('modes', [2, 3, 4])
def test_permuted_negatives_equal_brute_force_in_value_and_gradient_of_rows_and_temperature(modes):
  reps, orders = modalities(modes), orders_of(modes, 6)
  with jax.enable_x64(True):
    check(
      lambda reps, t: losses.symile(reps, temperature=t, key=KEY),
      lambda reps, t: by_permutations(reps, t, orders),
      reps,
      0.3,
    )


# --- what is missing ---

# Of six tuples the second lacks its second part, the fourth two of them and the last all but its first.
MASK = np.ones((6, 3), bool)
MASK[[1, 3, 3, 5, 5], [1, 0, 2, 1, 2]] = False


def test_what_a_tuple_lacks_is_in_no_candidate_and_such_a_tuple_is_no_anchor():
  orders = orders_of(3, 6)
  options = dict(mask=jnp.asarray(MASK), fold=losses.chunked(4, 3))
  with jax.enable_x64(True):
    check(
      lambda reps, t: losses.symile(reps, temperature=t, key=KEY, **options),
      lambda reps, t: by_permutations(reps, t, orders, MASK),
      modalities(3),
      0.3,
    )
    check(
      lambda reps, t: losses.symile(reps, temperature=t, negatives='n_squared', **options),
      lambda reps, t: by_tuples(reps, t, MASK),
      modalities(3),
      0.3,
    )


def test_pairs_of_which_a_tuple_lacks_one_side_are_left_out_of_pairwise_clip_and_the_others_stay():
  reps = jnp.asarray(modalities(3), jnp.float32)
  want = np.zeros(6)
  for m, n in itertools.combinations(range(3), 2):
    there = MASK[:, m] & MASK[:, n]
    want[there] += losses.symmetric_info_nce(reps[m, there], reps[n, there], temperature=0.2)
  got = losses.pairwise_clip(list(reps), temperature=0.2, mask=jnp.asarray(MASK))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert want[1] > 0 and want[3] == want[5] == 0


@pytest.mark.parametrize('negatives', ['n', 'n_squared'])
def test_a_batch_without_any_caption_of_one_kind_has_values_and_gradients_of_zero(negatives):
  mask = jnp.asarray(MASK).at[:, 2].set(False)

  def loss(reps, t):
    return losses.symile(reps, temperature=t, negatives=negatives, key=KEY, mask=mask)

  found = value_and_gradient(loss, [np.asarray(rep, np.float32) for rep in modalities(3)])
  assert not any(np.any(x) for x in jax.tree.leaves(found))


# --- identities ---


def test_two_modalities_unpermuted_are_clip_and_permuted_are_not(monkeypatch):
  x, y = jnp.asarray(modalities(2), jnp.float32)
  # The mean over both anchors of one tuple: each direction has its own.
  want = losses.symmetric_info_nce(x, y, temperature=0.3)
  permuted = losses.symile([x, y], temperature=0.3, key=KEY)
  assert np.abs(permuted - want).max() > 1e-2
  monkeypatch.setattr(jax.random, 'permutation', lambda key, n: jnp.arange(n))
  np.testing.assert_allclose(losses.symile([x, y], temperature=0.3, key=KEY), want, rtol=1e-5)


def test_two_modalities_against_all_rows_are_clip():
  x, y = jnp.asarray(modalities(2), jnp.float32)
  got = losses.symile([x, y], temperature=0.3, negatives='n_squared')
  np.testing.assert_allclose(got, losses.symmetric_info_nce(x, y, temperature=0.3), rtol=1e-5)


def test_pairwise_clip_is_the_sum_over_pairs_of_modalities():
  reps = list(jnp.asarray(modalities(4), jnp.float32))
  want = sum(losses.symmetric_info_nce(a, b, temperature=0.2) for a, b in itertools.combinations(reps, 2))
  np.testing.assert_allclose(losses.pairwise_clip(reps, temperature=0.2), want, rtol=1e-5)
  np.testing.assert_allclose(losses.pairwise_clip(reps[:2]), losses.symmetric_info_nce(*reps[:2]), rtol=1e-5)


@pytest.mark.turns(3)
@pytest.mark.parametrize('modes', [2, 3, 4])
def test_equal_logits_give_the_logarithm_of_the_number_of_candidates(modes):
  reps = [jnp.broadcast_to(rep[0], rep.shape) for rep in jnp.asarray(modalities(modes, 4), jnp.float32)]
  np.testing.assert_allclose(losses.symile(reps, key=KEY), np.full(4, math.log(4)), rtol=1e-5)
  got = losses.symile(reps, negatives='n_squared')
  np.testing.assert_allclose(got, np.full(4, (modes - 1) * math.log(4)), rtol=1e-5)


@pytest.mark.parametrize('d', [64, 1024])
def test_the_product_of_three_independent_unit_rows_varies_by_the_inverse_of_the_width(d):
  a, b, c = jnp.asarray(modalities(3, 300, d), jnp.float32)
  assert 0.9 < losses.mip_scores(a, [b, c]).std() * d < 1.1
  assert 0.9 < losses.mip_scores(a, [b]).std() * d**0.5 < 1.1


def test_the_loss_over_all_tuples_does_not_depend_on_the_order_of_the_modalities():
  reps = list(jnp.asarray(modalities(3), jnp.float32))
  loss = jit(lambda reps: losses.symile(reps, temperature=0.3, negatives='n_squared'))
  for order in itertools.permutations(range(3)):
    np.testing.assert_allclose(loss([reps[m] for m in order]), loss(reps), rtol=1e-5)


def test_scores_are_sums_of_products_over_the_temperature_in_any_order_of_the_queries():
  a, b, c = modalities(3)
  want = np.einsum('cd,qd,qd->qc', a, b, c) / 0.5
  for queries in ([b, c], [c, b]):
    got = losses.mip_scores(
      jnp.asarray(a, jnp.float32), [jnp.asarray(q, jnp.float32) for q in queries], temperature=0.5
    )
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_another_key_gives_other_negatives_and_the_same_key_the_same():
  reps = list(jnp.asarray(modalities(3), jnp.float32))
  loss = jit(lambda key: losses.symile(reps, temperature=0.1, key=key))
  assert (loss(KEY) == loss(KEY)).all()
  assert np.abs(loss(KEY) - loss(jax.random.key(6))).max() > 1e-2


# --- folds, devices, memory ---


def value_and_gradient(loss, reps):
  def scalar(reps, temperature):
    return weighted(loss(reps, temperature), jnp)

  return jit(jax.value_and_grad(scalar, (0, 1)))(reps, np.float32(0.2))


LOSSES = {
  'n': lambda reps, t, fold: losses.symile(reps, temperature=t, key=KEY, fold=fold),
  'n_squared': lambda reps, t, fold: losses.symile(reps, temperature=t, negatives='n_squared', fold=fold),
  'pairwise_clip': lambda reps, t, fold: losses.pairwise_clip(reps, temperature=t, fold=fold),
}


@pytest.mark.turns(6)
@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize(('fold', 'kind'), PLACES, ids=str)
def test_folds_on_eight_devices_equal_dense_on_one_in_value_and_gradient(name, fold, kind):
  reps = [np.asarray(rep, np.float32) for rep in modalities(3, 16)]
  placed = [split(rep, kind) for rep in reps]
  got = value_and_gradient(lambda r, t: LOSSES[name](r, t, TILES[fold]), placed)
  assert_close(got, value_and_gradient(lambda r, t: LOSSES[name](r, t, losses.dense()), reps))


@pytest.mark.turns(6)
@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('fold', ['chunked', 'ring'])
def test_tiles_of_a_ragged_batch_equal_dense_in_value_and_gradient(name, fold):
  reps = [np.asarray(rep, np.float32) for rep in modalities(3, 13)]
  got = value_and_gradient(lambda r, t: LOSSES[name](r, t, TILES[fold]), reps)
  assert_close(got, value_and_gradient(lambda r, t: LOSSES[name](r, t, losses.dense()), reps))


def test_the_products_of_all_tuples_are_never_stored():
  b, d = 128, 256
  reps = [jax.ShapeDtypeStruct((b, d), jnp.float32)] * 3
  loss = jax.jit(jax.value_and_grad(lambda reps: losses.symile(reps, negatives='n_squared').mean()))
  assert loss.lower(reps).compile().memory_analysis().temp_size_in_bytes < b * b * d * 4 / 3


@pytest.mark.parametrize('negatives', ['n', 'n_squared'])
def test_one_tuple_and_zero_rows_give_finite_values_and_gradients(negatives):
  def loss(reps, t):
    return losses.symile(reps, temperature=t, negatives=negatives, key=KEY)

  one = [np.asarray(rep, np.float32) for rep in modalities(3, 1)]
  value, gradient = value_and_gradient(loss, one)
  assert abs(value) < 1e-6 and all(np.abs(g).max() < 1e-5 for g in jax.tree.leaves(gradient))
  zero = [np.zeros((5, 4), np.float32)] * 3
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(value_and_gradient(loss, zero)))


# --- refusals ---


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda x: losses.symile([x, x, x]), "negatives='n' permutes the other modalities: pass key="),
    (lambda x: losses.symile([x], key=KEY), 'two or more modalities, but there are 1'),
    (lambda x: losses.symile([x, x, x[:3]], key=KEY), r'reps\[0\] and reps\[2\] must have as many rows'),
    (lambda x: losses.symile([x, x], negatives='n_sqared'), "unknown negatives 'n_sqared'; did you mean 'n_squared'"),
    (lambda x: losses.symile([x, x], key=KEY, temperature=0.0), 'temperature must be > 0'),
    (
      lambda x: losses.symile([x, x], key=KEY, mask=x > 0),
      r'for each tuple and modality, \[6, 2\], but it is \[6, 5\]',
    ),
    (lambda x: losses.pairwise_clip([x, x], mask=x), 'mask must be boolean'),
    (lambda x: losses.pairwise_clip([x]), 'two or more modalities, but there are 1'),
    (lambda x: losses.mip_scores(x, []), 'queries must be one or more modalities'),
    (lambda x: losses.mip_scores(x, [x[:, :2]]), r'each query must be \[B, D\] and candidates \[M, D\]'),
  ],
)
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.asarray(modalities(1)[0], jnp.float32))


def test_inside_shard_map_other_devices_rows_are_refused_and_a_device_alone_is_not():
  reps = [np.asarray(rep, np.float32) for rep in modalities(3, 8)]
  mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

  def inside(fold):
    def local(*reps):
      return losses.symile(reps, temperature=0.3, negatives='n_squared', fold=fold)

    return jit(jax.shard_map(local, mesh=mesh, in_specs=P('data'), out_specs=P('data')))(*reps)

  with pytest.raises(ValueError, match='symile mixes rows of all devices'):
    inside(losses.ring('data'))
  halves = [
    losses.symile([rep[cut] for rep in map(jnp.asarray, reps)], temperature=0.3, negatives='n_squared')
    for cut in (slice(0, 4), slice(4, 8))
  ]
  np.testing.assert_allclose(inside(losses.local()), np.concatenate(halves), rtol=1e-5)
