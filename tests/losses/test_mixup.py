"""SupReMix against brute force with the same draws, the laws of its draws, and its identities."""

import functools

import autograd
import autograd.numpy as anp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from agreement import PLACES, TILES, assert_close, split, weighted
from autograd.tracer import getval
from compiling import jit
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.losses import mixup

KEY = jax.random.key(11)
WEIGHTS = {
  'l1': lambda gap: 1 + abs(gap),
  'l2': lambda gap: 1 + gap**2,
  'inverse_l1': lambda gap: 1 / (1 + abs(gap)),
  'inverse_l2': lambda gap: 1 / (1 + gap**2),
  'none': lambda gap: 1.0,
}


def views(v=2, b=8, seed=0):
  rows = np.random.default_rng([seed, v, b]).normal(size=(v, b, 5))
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def ages(b=8, seed=0):
  return np.random.default_rng([seed, b]).integers(20, 28, b).astype(np.float64)


# --- the draws ---


@functools.cache
def draws(n, beta=(2, 8), key=KEY):
  """The share of every ordered pair, and the priority of every ordered pair."""
  of_negatives, of_brackets = jax.random.split(key)
  words = jax.random.bits(of_negatives, (-(-min(beta) // 2), 2), 'uint32')
  at = jnp.arange(n)

  def every(function):
    return np.asarray(jit(jax.vmap(jax.vmap(function, (None, 0)), (0, None)))(at, at), np.float64)

  share = every(lambda i, k: mixup._share(words, beta, i, k))
  priority = every(lambda i, k: mixup._uniforms(jax.random.bits(of_brackets, (2,), 'uint32'), i, k)[0])
  return share, priority


@pytest.mark.parametrize('beta', [(2, 8), (8, 2), (5, 5), (1, 1), (3, 1)])
def test_shares_of_pairs_are_distributed_as_asked(beta):
  share, _ = draws(150, beta)
  assert scipy.stats.kstest(share.ravel(), scipy.stats.beta(*beta).cdf).pvalue > 1e-3
  np.testing.assert_allclose(share.mean(), beta[0] / sum(beta), atol=0.01)


def test_shares_of_different_pairs_are_uncorrelated():
  share, priority = draws(200)
  for other in (share.T, np.roll(share, 1, 0), np.roll(share, 1, 1), priority):
    off = ~np.eye(200, dtype=bool)
    assert abs(np.corrcoef(share[off], other[off])[0, 1]) < 0.02


# --- brute force in float64 ---


def brute_force(z, temperature, labels, weight='l1', window=5.0, beta=(2, 8), mix=(True, True), neighbours=99):
  v, b = z.shape[:2]
  rows = anp.reshape(anp.swapaxes(z, 0, 1), (v * b, -1))  # instance-major
  fixed, y, n = getval(rows), np.repeat(labels, v), v * b
  (share, priority), omega, values = draws(n, beta), WEIGHTS[weight], []
  for i in range(n):
    candidates = [(rows[k], y[k]) for k in range(n) if k != i]
    positives = [rows[k] for k in range(n) if k != i and y[k] == y[i]]
    if mix[0]:
      for k in range(n):
        if y[k] != y[i]:
          a = share[i, k]
          candidates.append((a * fixed[i] + (1 - a) * fixed[k], a * y[i] + (1 - a) * y[k]))
    if mix[1]:
      first = sorted(range(n), key=lambda k: -priority[i, k])
      below = [j for j in first if 0 < y[i] - y[j] < window][:neighbours]
      above = [k for k in first if 0 < y[k] - y[i] < window][:neighbours]
      for j in below:
        for k in above:
          a = (y[k] - y[i]) / (y[k] - y[j])
          assert abs(a * y[j] + (1 - a) * y[k] - y[i]) < 1e-9  # the mixed label is the anchor's
          candidates.append((a * fixed[j] + (1 - a) * fixed[k], y[i]))
          positives.append(candidates[-1][0])
    total = sum(omega(y[i] - label) * anp.exp(anp.dot(rows[i], c) / temperature) for c, label in candidates)
    if not positives:
      values.append(0.0 * anp.sum(rows[i]))
      continue
    values.append(anp.log(total) - sum(anp.dot(rows[i], p) for p in positives) / temperature / len(positives))
  return anp.transpose(anp.reshape(anp.stack(values), (b, v)))


CASES = {
  **{f'weight {name}': dict(weight=name) for name in WEIGHTS},
  'beta (8, 2)': dict(beta=(8, 2)),
  'beta (5, 5)': dict(beta=(5, 5)),
  'narrow window': dict(window=2.0),
  'few neighbours': dict(neighbours=2),
  'negatives only': dict(mix=(True, False)),
  'positives only': dict(mix=(False, True)),
  'one view': dict(v=1),
}


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', CASES)
def test_values_and_gradients_equal_brute_force_with_the_same_draws(name):
  given = dict(neighbours=16) | CASES[name]
  z, labels = views(given.pop('v', 2)), ages()
  mix = dict(zip(('mix_negative', 'mix_positive'), given.get('mix', (True, True)), strict=True))
  options = {k: v for k, v in given.items() if k != 'mix'} | mix

  def of_loss(z, temperature):
    values = losses.sup_re_mix(z, jnp.asarray(labels), key=KEY, temperature=temperature, **options)
    return weighted(values, jnp), values

  def of_reference(z, temperature):
    return weighted(brute_force(z, temperature, labels, **given), anp)

  with jax.enable_x64(True):
    (_, values), got = jit(jax.value_and_grad(of_loss, (0, 1), has_aux=True))(jnp.asarray(z), 0.3)
  # The draws are of single precision.
  assert_close(values, brute_force(z, 0.3, labels, **given), 1e-6)
  assert_close(got, tuple(autograd.grad(of_reference, side)(z, 0.3) for side in (0, 1)), 1e-6)


# --- identities ---


@pytest.mark.parametrize('labels', [ages(), np.array([1, 1, 2, 3, 3, 3, 4, 5])])
def test_without_mixtures_and_weights_it_is_sup_con(labels):
  z = jnp.asarray(views(), jnp.float32)
  got = losses.sup_re_mix(z, jnp.asarray(labels), mix_negative=False, mix_positive=False, weight='none')
  np.testing.assert_allclose(got, losses.sup_con(z, jnp.asarray(labels, jnp.int32), temperature=0.3), rtol=1e-5)


def test_similarities_of_mixtures_are_mixtures_of_similarities():
  anchor, j, k = views(1)[0][:3]
  for share in (0.0, 0.3, 1.0):
    np.testing.assert_allclose(anchor @ (share * j + (1 - share) * k), share * anchor @ j + (1 - share) * anchor @ k)


@pytest.mark.turns(4)
@pytest.mark.parametrize('weight', ['l1', 'l2'])
def test_weights_never_shrink_the_denominator_and_their_reciprocals_never_grow_it(weight):
  z, labels = jnp.asarray(views(), jnp.float32), jnp.asarray(ages())
  loss = jit(functools.partial(losses.sup_re_mix, key=KEY), static_argnames='weight')
  plain, magnified, shrunk = (loss(z, labels, weight=each) for each in ('none', weight, f'inverse_{weight}'))
  assert (magnified > plain).all() and (plain > shrunk).all()
  same = jnp.full(8, 30.0)  # equal labels weigh 1
  got = [loss(z, same, weight=each) for each in ('none', weight)]
  np.testing.assert_allclose(*got, rtol=1e-6)


def test_mixed_negatives_raise_the_loss():
  z, labels = jnp.asarray(views(), jnp.float32), jnp.asarray(ages())
  with_them, without = (
    losses.sup_re_mix(z, labels, key=KEY, mix_negative=mix, mix_positive=False) for mix in (True, False)
  )
  assert (with_them > without + 1e-3).all()


def test_neighbours_are_drawn_without_replacement_and_evenly():
  labels = jnp.asarray([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20])

  def draw(key):
    return jnp.stack(mixup._neighbours(labels, key, 5.0, 3, 'dense'))

  found = np.asarray(jit(jax.vmap(draw))(jax.random.split(KEY, 2000)))  # [draws, below or above, n, 3]
  for side, allowed in ((0, [1, 2, 3, 4]), (1, [6, 7, 8, 9])):
    of_five = found[:, side, 5]
    assert all(len(set(row)) == 3 for row in of_five)
    counts = [(of_five == place).mean() * 3 for place in allowed]
    np.testing.assert_allclose(counts, np.full(4, 0.75), atol=0.05)
    assert np.isin(of_five, allowed).all()
  assert (found[:, 0, 0] == -1).all() and (found[:, 0, 10] == -1).all()  # nobody below, nobody near
  assert (np.sort(found[:, 0, 2], -1) == [-1, 0, 1]).all()


def test_anchors_without_positives_have_no_loss_and_no_gradient():
  z, labels = jnp.asarray(views(1), jnp.float32), jnp.arange(0.0, 80.0, 10.0)
  value, gradient = jit(jax.value_and_grad(lambda z: jnp.abs(losses.sup_re_mix(z, labels, key=KEY)).sum()))(z)
  assert value == 0 and not np.any(gradient)


HOSTILE = dict(same=np.ones((2, 4, 3)) / 3**0.5, zero=np.zeros((2, 4, 3)), one=views(2, 1), alone=views(1, 1))


@pytest.mark.turns(2)
@pytest.mark.parametrize('rows', HOSTILE)
@pytest.mark.parametrize('temperature', [0.3, 0.005])
def test_hostile_rows_have_finite_values_and_gradients(rows, temperature):
  z, labels = jnp.asarray(HOSTILE[rows], jnp.float32), jnp.arange(HOSTILE[rows].shape[1])

  def loss(z):
    return losses.sup_re_mix(z, labels, key=KEY, temperature=temperature).sum()

  assert all(np.isfinite(x).all() for x in jit(jax.value_and_grad(loss))(z))


# --- folds and devices ---


def value_and_gradient(z, labels, fold):
  def scalar(z, labels, temperature):
    values = losses.sup_re_mix(z, labels, key=KEY, temperature=temperature, neighbours=2, fold=fold)
    return weighted(values, jnp)

  return jit(jax.value_and_grad(scalar, (0, 2)))(z, labels, np.float32(0.3))


def inputs_of(b):
  return np.asarray(views(2, b), np.float32), np.asarray(ages(b), np.float32)


@pytest.mark.turns(4)
@pytest.mark.parametrize(('fold', 'kind'), PLACES, ids=str)
def test_folds_on_eight_devices_equal_dense_on_one_in_value_and_gradient(fold, kind):
  z, labels = inputs_of(16)
  got = value_and_gradient(split(z, kind, axis=1), split(labels, kind), TILES[fold])
  assert_close(got, value_and_gradient(z, labels, losses.dense()))


@pytest.mark.turns(2)
@pytest.mark.parametrize('fold', ['chunked', 'ring'])
def test_tiles_of_a_ragged_batch_equal_dense_in_value_and_gradient(fold):
  z, labels = inputs_of(13)
  assert_close(value_and_gradient(z, labels, TILES[fold]), value_and_gradient(z, labels, losses.dense()))


@pytest.mark.slow
def test_a_ring_inside_shard_map_draws_and_mixes_over_all_devices():
  z, labels = inputs_of(8)
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

  def local(z, labels):
    return losses.sup_re_mix(z, labels, key=KEY, fold=losses.ring('data', rows=3, cols=4))

  mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(None, 'data'), P('data')), out_specs=P(None, 'data'))
  want = losses.sup_re_mix(jnp.asarray(z), jnp.asarray(labels), key=KEY)
  np.testing.assert_allclose(jit(mapped)(z, labels), want, rtol=1e-5)


@pytest.mark.slow
def test_memory_at_batch_4096_is_far_below_one_matrix_of_logits():
  shapes = jax.ShapeDtypeStruct((2, 4096, 64), jnp.float32), jax.ShapeDtypeStruct((4096,), jnp.float32)
  loss = jax.jit(jax.value_and_grad(lambda z, labels: losses.sup_re_mix(z, labels, key=KEY).mean()))
  assert loss.lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 8192**2 * 4 / 2


# --- refusals ---


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(key=None), r'mixtures are drawn at random: pass key='),
    (dict(weight='l3'), "unknown weight 'l3'; did you mean 'l[12]'"),
    (dict(window=0.0), 'window must be > 0'),
    (dict(beta=(2, 0)), r'beta must be two positive integers, but it is \(2, 0\)'),
    (dict(beta=(0.5, 2)), 'beta must be two positive integers'),
    (dict(neighbours=0), 'neighbours must be a positive integer, but it is 0'),
    (dict(temperature=0.0), 'temperature must be > 0'),
    (dict(labels=jnp.ones(7)), r'labels must be one number an instance, \[8\]'),
    (dict(labels=jnp.ones(8, bool)), 'labels must be numbers, but it is bool'),
  ],
)
def test_what_does_not_fit_is_refused(options, message):
  arguments = dict(labels=jnp.asarray(ages()), key=KEY) | options
  with pytest.raises(ValueError, match=message):
    losses.sup_re_mix(jnp.asarray(views(), jnp.float32), **arguments)
