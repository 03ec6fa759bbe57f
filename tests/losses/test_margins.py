"""Triplet, N-pair, multi-similarity and circle losses: brute force, another library, limits, folds."""

import functools
import json
import math
import pathlib

import autograd
import jax
import jax.numpy as jnp
import margin_references
import numpy as np
import pytest
from compiling import jit
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_references import Case, assert_relative, by_loss, leaves, rounded, unit_rows, weighted

from contrastive_jax import losses
from contrastive_jax.losses import distances
from contrastive_jax.similarity import Pair

PEERS = json.loads(pathlib.Path(__file__).with_name('peers.json').read_text())
ARRAYS = {
  k: np.asarray(v, np.float32 if isinstance(np.ravel(v)[0], float) else int) for k, v in PEERS['inputs'].items()
}
DISTANCES = ('cosine', 'dot', 'euclidean', 'squared_euclidean', 'snr')
LABELS = np.asarray([0, 1, 0, 2, -1, 1, 0, -1], np.int32)  # of a row alone in its class, too
Z = unit_rows(2, 8, 5) * np.linspace(0.5, 1.5, 16).reshape(2, 8, 1)  # of several norms
MINING = dict(hard={}, semi_hard=dict(max_positives=3), all=dict(max_positives=4), whole=dict(mining='all'))


def assert_held(case: Case, dtype, fold, tolerance):
  """Values and gradients are those of brute force over explicit pairs."""

  def function(learnable):
    return getattr(margin_references, case.name)(**learnable, **case.given)

  learnable = rounded(case)
  want = autograd.grad(lambda a: weighted(function(a), autograd.numpy))(learnable)
  assert_relative(by_loss(case, dtype, fold), (leaves(function(learnable)), want), tolerance)


def of_triplets(**given):
  return Case('triplet', dict(z=Z, margin=0.3), dict(labels=LABELS, **given))


CASES = {
  f'{mining} {reduction}': of_triplets(**dict(mining=mining, reduction=reduction) | given)
  for mining, given in MINING.items()
  for reduction in ('mean', 'nonzero')
}
CASES |= {f'{d} {m}': of_triplets(mining=m, distance=d) for d in DISTANCES for m in ('hard', 'all') if d != 'euclidean'}
CASES |= {f'soft {mining}': of_triplets(soft=True, mining=mining) for mining in ('hard', 'semi_hard', 'all')}
SIMILAR, ROUND = dict(z=Z, alpha=1.5, beta=9.0, base=0.6), dict(z=Z, margin=0.3, gamma=7.0)
CASES |= {
  'n_pair': Case('n_pair', dict(x=Z[0], y=Z[1], penalty=0.03), {}),
  'n_pair normalize': Case('n_pair', dict(x=Z[0], y=Z[1], penalty=0.03), dict(normalize=True)),
  'multi_similarity': Case('multi_similarity', SIMILAR, dict(labels=LABELS)),
  'multi_similarity mined': Case('multi_similarity', SIMILAR, dict(labels=LABELS, mining_margin=0.1)),
  'n_pair snr': Case('n_pair', dict(x=Z[0], y=Z[1], penalty=0.03), dict(distance='snr')),
  'n_pair euclidean': Case('n_pair', dict(x=Z[0], y=Z[1], penalty=0.0), dict(distance='euclidean')),
  'multi_similarity snr': Case(
    'multi_similarity', SIMILAR | dict(base=-1.2), dict(labels=LABELS, distance='snr', mining_margin=0.1)
  ),
  'circle': Case('circle', ROUND, dict(labels=LABELS)),
}


@pytest.mark.turns(3)
@pytest.mark.parametrize('key', CASES)
def test_float32_values_and_gradients_equal_brute_force(key):
  assert_held(CASES[key], jnp.float32, losses.dense(), 2e-5)


@pytest.mark.turns(4)
@pytest.mark.parametrize('key', ['semi_hard nonzero', 'all nonzero', 'multi_similarity mined', 'circle'])
def test_float64_values_and_gradients_equal_brute_force(key):
  with jax.enable_x64(True):
    assert_held(CASES[key], jnp.float64, losses.chunked(3, 4), 1e-10)


# --- folds, of what the laws do not reach by default options ---

CHOICES = {
  'semi_hard': dict(mining='semi_hard', max_positives=4, distance='cosine'),
  'all of one size': dict(mining='all', soft=True, distance='snr', max_positives=3),
  'all nonzero': dict(mining='all', reduction='nonzero', margin=0.3),
}
SIXTEEN = dict(z=unit_rows(2, 16, 5).astype(np.float32), labels=np.arange(16) % 5 - 1)


def mesh_of(devices: int):
  return jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def average(z, labels, fold, choice, mixing):
  return losses.triplet(z @ mixing, labels, fold=fold, **CHOICES[choice]).mean()


@functools.cache
def dense(choice: str):
  """Value and gradient in a linear map of the embeddings and in the embeddings."""
  function = jit(jax.value_and_grad(lambda z, m: average(z, SIXTEEN['labels'], losses.dense(), choice, m), (0, 1)))
  return function(SIXTEEN['z'], jnp.eye(5))


@pytest.mark.slow
@pytest.mark.parametrize('fold', ['chunked', 'ring'])
@pytest.mark.parametrize('choice', CHOICES)
def test_triplets_of_every_mining_are_the_same_in_every_fold(choice, fold):
  fold = losses.chunked(5, 7) if fold == 'chunked' else losses.ring(mesh=mesh_of(8), rows=3, cols=4)
  function = jit(jax.value_and_grad(lambda z, m: average(z, SIXTEEN['labels'], fold, choice, m), (0, 1)))
  assert_relative(function(SIXTEEN['z'], jnp.eye(5)), dense(choice), 2e-5)


@pytest.mark.turns(4)
@pytest.mark.parametrize('check_vma', [True, False])
@pytest.mark.parametrize('choice', ['semi_hard', 'all nonzero'])
def test_triplets_inside_shard_map_have_the_gradient_of_the_global_mean(choice, check_vma):
  def mean(m, z, labels):
    return average(z, labels, losses.ring('data', rows=3, cols=4), choice, m)

  def outside(m, z, labels):
    return jax.value_and_grad(lambda *a: lax.pmean(mean(*a), 'data'))(m, z, labels)

  def inside(m, z, labels):
    return lax.pmean(jax.value_and_grad(mean)(m, z, labels), 'data')

  specs = (P(), P(None, 'data'), P('data'))
  function = outside if check_vma else inside
  mapped = jax.shard_map(function, mesh=mesh_of(4), in_specs=specs, out_specs=P(), check_vma=check_vma)
  value, (_, of_mixing) = dense(choice)
  assert_relative(jit(mapped)(jnp.eye(5), SIXTEEN['z'], SIXTEEN['labels']), (value, of_mixing), 2e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize('mining', ['semi_hard', 'all'])
def test_triplets_of_many_positives_need_no_matrix(mining):
  def function(z, labels):
    return losses.triplet(z, labels, mining=mining, max_positives=2, reduction='nonzero').mean()

  z, labels = jax.ShapeDtypeStruct((2, 4096, 16), jnp.float32), jax.ShapeDtypeStruct((4096,), jnp.int32)
  compiled = jax.jit(jax.value_and_grad(function)).lower(z, labels).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 8192**2 * 4 / 4


# --- another library ---


def mean_of(name, *arrays, **options):
  return jit(lambda *a: getattr(losses, name)(*a, **options).mean())(*arrays)


def assert_peer(got, name, factor=1.0):
  np.testing.assert_allclose(got, np.asarray(PEERS['expected'][name]) * factor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', DISTANCES)
def test_distances_equal_those_of_pytorch_metric_learning(name):
  measure, rows = distances.named(name), jnp.asarray(ARRAYS['rows'])
  entries = measure.rows(rows, None)
  z = entries.pop('z')
  of_row = jax.vmap(lambda d, a, o: measure.value(Pair(d, a, o)), (0, None, 0))
  got = jax.vmap(of_row, (0, 0, None))(jnp.einsum('id,jd->ij', z, z, precision='highest'), entries, entries)
  similarity = name in ('cosine', 'dot')
  # A row is at distance 0 from itself; the library's root of rounding is not.
  apart = ~np.eye(len(rows), dtype=bool)
  got = np.asarray({'cosine': 1 - got, 'dot': -got}.get(name, got))
  np.testing.assert_allclose(got[apart], np.asarray(PEERS['expected'][f'distance {name}'])[apart], rtol=1e-5, atol=1e-6)
  assert similarity or np.abs(np.diag(got)).max() < 1e-6


@pytest.mark.parametrize('name', DISTANCES)
@pytest.mark.parametrize('key', [k.split(' ', 2)[2] for k in PEERS['expected'] if k.startswith('triplet dot ')])
def test_triplets_equal_those_of_pytorch_metric_learning(key, name):
  kind, mining, reduction = key.split()
  options = dict(mining=mining, reduction=reduction, distance=name, margin=0.2)
  got = mean_of('triplet', ARRAYS['rows'][None], ARRAYS[kind], **options)
  # Its mean leaves out the anchor that has no positive, which is a 0 here.
  alone = kind == 'uneven' and reduction == 'mean'
  assert_peer(got, f'triplet {name} {key}', 11 / 12 if alone else 1)


def test_other_losses_equal_those_of_pytorch_metric_learning():
  rows, (x, y) = ARRAYS['rows'][None], ARRAYS['pairs']
  unit, uneven = losses.unit(jnp.asarray(rows)), ARRAYS['uneven']
  assert_peer(mean_of('triplet', rows, ARRAYS['even'], mining='all', soft=True, margin=0.1), 'triplet soft')
  assert_peer(mean_of('n_pair', x, y, penalty=0.0), 'n_pair')
  assert_peer(mean_of('n_pair', x, y, penalty=0.0, normalize=True), 'n_pair normalize')
  assert_peer(mean_of('multi_similarity', unit, uneven), 'multi_similarity')
  mined = mean_of('multi_similarity', unit, uneven, alpha=1.5, beta=40.0, base=0.6, mining_margin=0.1)
  assert_peer(mined, 'multi_similarity mined')
  for distance in DISTANCES[2:]:
    assert_peer(mean_of('n_pair', x, y, penalty=0.0, distance=distance), f'n_pair {distance}')
    # Its base is a distance, ours the similarity that is its negative.
    options = dict(alpha=1.5, beta=4.0, base=-0.6, distance=distance)
    both = [mean_of('multi_similarity', rows, uneven, **options, **more) for more in ({}, dict(mining_margin=0.1))]
    assert_peer(both, f'multi_similarity {distance}')
  for name, options in {'circle': {}, 'circle of faces': dict(margin=0.25, gamma=256.0)}.items():
    values = jit(lambda *a, o=options: losses.circle(*a, **o))(unit, uneven)
    assert_peer(losses.mean(values, values > 0), name)
  assert_peer(mean_of('nt_xent', losses.unit(jnp.stack([x, y])), temperature=0.1), 'nt_xent')
  # Its mean is over the anchors that have positives: 11 of 12.
  assert_peer(mean_of('sup_con', unit, uneven, temperature=0.1), 'sup_con', 11 / 12)


# --- distances ---


def between(name, a, b, precision=None):
  """Distance of the first row from the second."""
  measure = distances.named(name)
  (z, one), (w, two) = (((e := measure.rows(jnp.asarray([r]), precision)).pop('z')[0], e) for r in (a, b))
  inner = distances.similarities(z[None], w[None], distances.check_precision(precision))[0, 0]
  return measure.value(Pair(inner, *({k: v[0] for k, v in e.items()} for e in (one, two))))


def test_snr_is_no_matter_of_scale_or_of_what_is_added_to_every_feature_but_of_which_row_is_the_anchor():
  a, b = jnp.asarray(Z[:, 0], jnp.float32)
  want = between('snr', a, b)
  np.testing.assert_allclose(want, np.var(b - a) / np.var(a), rtol=1e-5)
  np.testing.assert_allclose(between('snr', -3 * a, -3 * b), want, rtol=1e-5)
  np.testing.assert_allclose(between('snr', a + 2, b - 1), want, rtol=1e-5)
  assert between('snr', a, a) == 0
  assert abs(between('snr', b, a) - want) > 0.1


def test_snr_of_centred_unit_rows_is_two_less_twice_the_cosine():
  a, b = losses.unit(jnp.asarray(Z[:, 1] - Z[:, 1].mean(-1, keepdims=True), jnp.float32))
  np.testing.assert_allclose(between('snr', a, b), 2 - 2 * a @ b, rtol=1e-5)


@pytest.mark.parametrize('precision', ['float32', 'bfloat16', 'bfloat16_3x'])
@pytest.mark.parametrize('name', ['euclidean', 'squared_euclidean', 'snr'])
@pytest.mark.parametrize('norm', [1e-3, 1.0, 1e3])
def test_coinciding_rows_are_at_no_distance_and_without_gradient_at_any_norm_and_precision(name, precision, norm):
  row = jnp.asarray(Z[0, 0] * norm, jnp.float32)
  value, gradient = jit(jax.value_and_grad(lambda a: between(name, a, row, precision)))(row)
  assert value <= 1e-6 * max(norm**2, 1)
  np.testing.assert_allclose(gradient * norm, 0, atol=1e-5 * max(norm**2, 1))


def test_a_distance_has_the_gradient_of_the_direction_between_the_rows():
  a, b = jnp.asarray(Z[:, 2], jnp.float32)
  gradient = jax.grad(lambda a: between('euclidean', a, b))(a)
  np.testing.assert_allclose(gradient, (a - b) / np.linalg.norm(a - b), rtol=1e-4, atol=1e-6)


# --- identities ---


@pytest.mark.parametrize('distance', ['cosine', 'euclidean', 'squared_euclidean', 'snr'])
@pytest.mark.parametrize('mining', ['hard', 'all'])
def test_triplets_at_collapse_cost_the_margin(mining, distance):
  z = jnp.broadcast_to(jnp.asarray(Z[0, 0], jnp.float32), (2, 8, 5))
  got = losses.triplet(z, LABELS, mining=mining, distance=distance, margin=0.3)
  some = LABELS >= 0  # in two views even a class of one instance has positives
  np.testing.assert_allclose(got, np.broadcast_to(np.where(some, 0.3, 0), (2, 8)), atol=1e-6)


def test_at_collapse_no_negative_is_farther_so_no_triplet_is_semi_hard():
  z = jnp.broadcast_to(jnp.asarray(Z[0, 0], jnp.float32), (2, 8, 5))
  assert not losses.triplet(z, LABELS, mining='semi_hard').any()


def test_the_hardest_triplet_is_the_limit_of_nt_xent_times_a_small_temperature():
  z, tau = unit_rows(2, 8, 5).astype(np.float32), 1e-3
  got = losses.triplet(z, np.arange(8), distance='cosine', margin=0.0)
  np.testing.assert_allclose(got, tau * losses.nt_xent(z, temperature=tau), atol=tau * math.log(15))
  assert got.max() > 0.1


def test_one_view_of_as_many_rows_has_the_triplets_of_two():
  two = losses.triplet(jnp.asarray(Z, jnp.float32), LABELS, mining='all')
  one = losses.triplet(jnp.asarray(Z, jnp.float32).reshape(1, 16, 5), np.tile(LABELS, 2), mining='all')
  np.testing.assert_allclose(two.reshape(-1), one[0], rtol=1e-5, atol=1e-6)


def test_separated_classes_cost_nothing_and_have_no_gradient():
  centres = 10 * np.eye(5)[LABELS]
  z = jnp.asarray(centres + 0.1 * Z, jnp.float32)
  for mining in ('hard', 'semi_hard', 'all'):
    value, gradient = jit(jax.value_and_grad(lambda z, m=mining: losses.triplet(z, LABELS, mining=m).sum()))(z)
    assert value == 0 and not gradient.any()


def test_n_pair_of_unit_rows_over_a_root_of_the_temperature_is_info_nce():
  x, y = unit_rows(2, 8, 5).astype(np.float32)
  got = losses.n_pair(x / 0.5, y / 0.5, penalty=0.0)
  np.testing.assert_allclose(got, losses.info_nce(x, y, temperature=0.25), rtol=1e-5)


def test_both_readings_of_the_penalty_are_the_mean_squared_norms_of_both_sides():
  x, y = jnp.asarray(Z, jnp.float32)
  bare = losses.n_pair(x, y, penalty=0.0).mean()
  squares = jnp.square(x).sum(-1).mean() + jnp.square(y).sum(-1).mean()
  np.testing.assert_allclose(losses.n_pair(x, y).mean(), bare + 0.02 * squares, rtol=1e-6)
  np.testing.assert_allclose(losses.n_pair(x, y, penalty=0.0005).mean(), bare + 0.25 * 0.002 * squares, rtol=1e-6)


def test_multi_similarity_without_positives_has_only_the_negative_part():
  z, labels = unit_rows(1, 8, 5).astype(np.float32), np.arange(8)
  got = losses.multi_similarity(z, labels, beta=9.0, base=0.5)
  s = z[0] @ z[0].T
  sums = np.where(np.eye(8), 0, np.exp(9 * (s - 0.5))).sum(1)
  np.testing.assert_allclose(got[0], np.log1p(sums) / 9, rtol=1e-5)
  np.testing.assert_allclose(losses.multi_similarity(z, labels, alpha=7.0, beta=9.0), got, rtol=1e-6)
  assert not losses.multi_similarity(z, labels, mining_margin=0.1).any()


@pytest.mark.parametrize('name', ['triplet', 'multi_similarity', 'circle'])
def test_classes_may_be_numbered_otherwise(name):
  z, loss = unit_rows(2, 8, 5).astype(np.float32), getattr(losses, name)
  renamed = np.where(LABELS < 0, -1, np.asarray([70, 3, 12])[LABELS])
  np.testing.assert_allclose(loss(z, LABELS), loss(z, renamed), rtol=1e-6)
  assert not np.allclose(loss(z, LABELS), loss(z, np.arange(8) % 2))


def test_a_wide_mining_margin_keeps_every_pair_and_a_narrow_one_drops_easy_ones():
  z, labels = unit_rows(2, 8, 5).astype(np.float32), np.arange(8) % 3
  full = losses.multi_similarity(z, labels)
  np.testing.assert_allclose(losses.multi_similarity(z, labels, mining_margin=3.0), full, rtol=1e-6)
  mined = losses.multi_similarity(z, labels, mining_margin=0.0)
  assert (mined <= full + 1e-6).all() and (mined < full - 1e-3).any()


def test_circle_at_collapse_has_its_closed_form():
  z, labels, m, gamma = jnp.broadcast_to(jnp.eye(5)[0], (2, 8, 5)), np.arange(8) % 2, 0.25, 16.0
  positives, negatives = 7, 8
  want = math.log1p(math.exp(math.log(positives * negatives) + gamma * (1 - 2 * m**2)))
  np.testing.assert_allclose(losses.circle(z, labels, margin=m, gamma=gamma), np.full((2, 8), want), rtol=1e-5)


def test_circle_does_not_pull_beyond_its_optimum_nor_push():
  z = jnp.asarray([[[2.0, 0], [2.0, 0], [-1.0, 0], [-1.0, 0]]])  # positives of 4 and 1, negatives of -2
  for labels, zero in (([0, 0, 1, 1], True), ([0, 1, 0, 1], False)):
    gradient = jit(jax.grad(lambda z, y=labels: losses.circle(z, jnp.asarray(y), margin=-0.1, gamma=2.0).sum()))(z)
    assert (not gradient.any()) == zero


def test_circle_of_anchors_without_both_kinds_is_zero_and_its_mean_leaves_them_out():
  z, labels = unit_rows(1, 6, 5).astype(np.float32), np.asarray([0, 0, 0, 1, -1, 1])
  values = losses.circle(z, labels)
  np.testing.assert_array_equal(values[0] > 0, [True, True, True, True, False, True])
  np.testing.assert_allclose(losses.mean(values, values > 0), values.sum() / 5, rtol=1e-6)
  assert not losses.circle(z, np.zeros(6, int)).any()


# --- refusals ---


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda z, y: losses.triplet(z, y, mining='semihard'), "unknown mining 'semihard'; did you mean 'semi_hard'"),
    (lambda z, y: losses.triplet(z, y, reduction='sum'), "unknown reduction 'sum'"),
    (lambda z, y: losses.triplet(z, y, distance='cosin'), "unknown distance 'cosin'; did you mean 'cosine'"),
    (lambda z, y: losses.triplet(z, y, max_positives=0), 'max_positives must be an integer >= 1, but it is 0'),
    (lambda z, y: losses.triplet(z, y[:3]), r'labels must have one entry an instance, \[8\]'),
    (lambda z, y: losses.triplet(z[0], y), r'z must be \[V, B, D\]'),
    (lambda z, y: losses.triplet(z, y, margin=jnp.ones(8)), r'margin must be a scalar, but it is \[8\]'),
    (lambda z, y: losses.multi_similarity(z, y, beta=0.0), 'beta must be > 0, but it is 0.0'),
    (lambda z, y: losses.circle(z, y, gamma=-1), 'gamma must be > 0, but it is -1'),
    (lambda z, y: losses.n_pair(z[0], z[1, :5]), 'x and y must have as many rows as each other'),
    (lambda z, y: losses.triplet(z, y, precision='bf16'), "unknown precision 'bf16'"),
  ],
)
def test_what_cannot_be_meant_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.asarray(Z, jnp.float32), LABELS)
