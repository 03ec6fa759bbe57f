"""`losses.health` against brute force in float64, on every fold, and where embeddings and temperatures are extreme."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.similarity import Similarity, dot, total
from contrastive_jax.types import Refusal

TEMPERATURES = (0.05, 0.3)
BINS = 4
FEW = dict(temperatures=(0.1,), bins=2)  # a ring of many statistics takes long to compile


def unit_rows(*shape, seed=0):
  rows = np.random.default_rng([seed, *shape]).normal(size=shape)
  return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def some_labels(b):
  labels = np.random.default_rng(b).integers(0, 3, b).astype(np.int32)
  labels[[1, 4]] = -1  # two unknown labels are equal, and no label
  return labels


def diagnosed(z, labels=None, *, temperatures=TEMPERATURES, bins=BINS, **options):
  function = functools.partial(losses.health, temperatures=temperatures, bins=bins, **options)
  return jax.tree.map(np.asarray, jit(function)(z, labels))


def by_definition(z, labels, temperatures=TEMPERATURES, bins=BINS, t=2.0):
  """Every statistic from lists of pairs, in float64."""
  views, b, _ = z.shape
  z = np.float64(z)
  anchors = [(v, i) for v in range(views) for i in range(b)]
  found = {name: [] for name in ('positive', 'negative', 'false', 'potential', *temperatures)}
  for v, i in anchors:
    cosine = {(w, j): float(z[v, i] @ z[w, j]) for w, j in anchors if (w, j) != (v, i)}
    negative = [key for key in cosine if key[1] != i]
    false = [labels is not None and labels[i] >= 0 and labels[i] == labels[j] for _, j in negative]
    positives = [cosine[w, i] for w in range(views) if w != v]
    found['positive'] += positives
    found['negative'] += [cosine[key] for key in negative]
    found['false'] += false
    found['potential'] += [np.exp(-t * np.sum((z[v, i] - z[key]) ** 2)) for key in cosine]
    for temperature in temperatures:
      share = np.exp([cosine[key] / temperature for key in negative])
      share /= share.sum()
      loss = np.log(np.exp([c / temperature for c in cosine.values()]).sum()) - np.mean(positives) / temperature
      entropy = -(share * np.log(share)).sum() / np.log(len(negative))
      found[temperature].append((loss, entropy, share[np.array(false)].sum()))
  loss, entropy, weight = np.array([np.mean(found[temperature], axis=0) for temperature in temperatures]).T
  histogram = np.histogram(found['negative'], bins, (-1, 1))[0] / len(found['negative'])
  spread = np.log(np.mean(found['potential']))
  return losses.Health(loss, entropy, spread, histogram, np.mean(found['positive']), np.mean(found['false']), weight)


def assert_same(got, want, tolerance=1e-5):
  for name, g, w in zip(losses.Health._fields, got, want, strict=True):
    np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance, err_msg=name)


# --- what it computes ---


@pytest.mark.turns(2)
@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(5, 5)], ids=['dense', 'chunked'])
@pytest.mark.parametrize(('views', 'b'), [(2, 7), (3, 13)])
def test_every_statistic_equals_brute_force(views, b, fold):
  z, labels = unit_rows(views, b, 5), some_labels(b)
  assert_same(diagnosed(z, labels, fold=fold), by_definition(z, labels))


@pytest.mark.slow
def test_float64_embeddings_are_diagnosed_in_float64():
  z, labels = unit_rows(2, 7, 5), some_labels(7)
  with jax.enable_x64(True):
    z = losses.unit(jnp.asarray(z, jnp.float64))
    got = diagnosed(z, labels, fold=losses.chunked(3, 3))
  assert all(value.dtype == np.float64 for value in got)
  assert_same(got, by_definition(np.asarray(z), labels), 1e-12)


@pytest.mark.parametrize('views', [2, 3])
def test_losses_and_uniformity_are_those_of_their_own_functions(views):
  z = unit_rows(views, 11, 6)
  got = diagnosed(z, t=3.0)
  want = [jit(functools.partial(losses.nt_xent, temperature=t))(z).mean() for t in TEMPERATURES]
  np.testing.assert_allclose(got.loss, want, rtol=1e-6)
  spread = jit(functools.partial(losses.uniformity, t=3.0))(z.reshape(-1, 6))
  np.testing.assert_allclose(got.uniformity, spread, rtol=1e-5)


def test_labels_of_minus_one_are_never_equal_and_no_labels_are_no_false_negatives():
  z = unit_rows(2, 7, 5)
  nothing = diagnosed(z)
  assert nothing.false_negatives == 0 and not nothing.false_negative_weight.any()
  for labels in (np.full(7, -1, np.int32), np.arange(7, dtype=np.int32)):
    assert_same(diagnosed(z, labels), nothing, 0)
  one = diagnosed(z, np.zeros(7, np.int32))
  np.testing.assert_allclose([one.false_negatives, *one.false_negative_weight], 1, rtol=1e-6)


def test_false_negatives_of_a_class_that_clusters_weigh_more_the_lower_the_temperature():
  labels = np.arange(24, dtype=np.int32) % 4
  z = np.asarray(losses.unit(unit_rows(2, 24, 8) + 0.8 * np.eye(8, dtype=np.float32)[labels]))
  got = diagnosed(z, labels, temperatures=(0.05, 0.2, 1.0, 1e4))
  assert (np.diff(got.false_negative_weight) < 0).all()
  np.testing.assert_allclose(got.false_negative_weight[-1], got.false_negatives, rtol=1e-3)
  np.testing.assert_allclose(got.false_negatives, 5 / 23, rtol=1e-6)


# --- folds ---


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ('fold', 'kind'),
  [
    (losses.ring(rows=3), AxisType.Auto),
    (losses.ring(rows=3), AxisType.Explicit),
    (losses.chunked(3, 4), AxisType.Explicit),
  ],
  ids=['ring', 'explicit ring', 'explicit gathered'],
)
def test_eight_devices_give_the_statistics_of_one(fold, kind):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  z, labels = unit_rows(3, 16, 5), some_labels(16)
  want = diagnosed(z, labels, fold=losses.dense(), **FEW)
  z = jax.device_put(z, NamedSharding(mesh, P(None, 'data')))
  labels = jax.device_put(labels, NamedSharding(mesh, P('data')))
  with jax.set_mesh(mesh):
    assert_same(diagnosed(z, labels, fold=fold, **FEW), want)


@pytest.mark.slow
def test_instances_that_do_not_divide_among_the_devices_change_nothing():
  z, labels = unit_rows(2, 13, 5), some_labels(13)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  want = diagnosed(z, labels, fold=losses.dense(), **FEW)
  assert_same(diagnosed(z, labels, fold=losses.ring(mesh=mesh, rows=3), **FEW), want)


@pytest.mark.slow
def test_inside_shard_map_the_mean_over_devices_is_that_of_the_whole_batch():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  z, labels = unit_rows(2, 16, 5), some_labels(16)

  def local(z, labels):
    return jax.lax.pmean(losses.health(z, labels, fold=losses.ring('data', rows=3), **FEW), 'data')

  mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(None, 'data'), P('data')), out_specs=P())
  assert_same(jit(mapped)(z, labels), diagnosed(z, labels, fold=losses.dense(), **FEW))


def products(fn, *args) -> int:
  """Matrix products in the trace of a function: per tile, in each loop and each branch that it has."""

  def count(jaxpr):
    inner = sum(count(sub) for eqn in jaxpr.eqns for sub in jax.extend.core.jaxprs_in_params(eqn.params))
    return inner + sum(eqn.primitive.name == 'dot_general' for eqn in jaxpr.eqns)

  return count(jax.make_jaxpr(fn)(*args).jaxpr)


def test_all_statistics_share_one_product_a_tile():
  z, labels, fold = unit_rows(2, 16, 5), some_labels(16), losses.chunked(8, 8)
  one_statistic = products(lambda z: Similarity({'z': z}, fold=fold).reduce([total(dot)]), z.reshape(32, 5))
  of_positives = 1
  made = products(lambda z, labels: losses.health(z, labels, fold=fold), z, labels)
  assert made == one_statistic + of_positives


# --- extremes and closed forms ---


@pytest.mark.turns(2)
@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(5, 5)], ids=['dense', 'chunked'])
@pytest.mark.parametrize('z', [unit_rows(2, 9, 6), np.tile(unit_rows(6), (2, 9, 1))], ids=['random', 'collapsed'])
def test_extreme_temperatures_give_finite_statistics_that_equal_brute_force(z, fold):
  temperatures, labels = (0.005, 100.0), some_labels(9)
  got = diagnosed(z, labels, temperatures=temperatures, fold=fold)
  assert all(np.isfinite(value).all() for value in got)
  # A rounding of a cosine, times 200.
  want = by_definition(z, labels, temperatures)._replace(histogram=got.histogram)
  assert_same(got, want, 1e-4)


@pytest.mark.parametrize(('views', 'b'), [(2, 6), (3, 5)])
def test_collapsed_rows_have_their_closed_form(views, b):
  labels = np.arange(b, dtype=np.int32) // 2
  got = diagnosed(np.broadcast_to(unit_rows(5), (views, b, 5)), labels)
  pairs = sum(labels[i] == labels[j] for i in range(b) for j in range(b) if i != j) / (b * (b - 1))
  ones = np.ones(len(TEMPERATURES))
  last = np.eye(BINS)[-1]
  want = losses.Health(ones * np.log(views * b - 1), ones, 0, last, 1, pairs, ones * pairs)
  assert_same(got, want)


def test_orthonormal_rows_have_their_closed_form():
  got = diagnosed(np.eye(12, dtype=np.float32).reshape(2, 6, 12))
  ones = np.ones(len(TEMPERATURES))
  middle = np.eye(BINS)[BINS // 2]
  assert_same(got, losses.Health(ones * np.log(11), ones, -4, middle, 0, 0, 0 * ones))


def test_at_low_temperature_only_the_hardest_negatives_repel():
  # Instances in pairs: each anchor has one instance, in both views, that coincides with it.
  z = np.tile(np.repeat(np.eye(4, dtype=np.float32), 2, axis=0), (2, 1, 1))
  labels = np.repeat(np.arange(4, dtype=np.int32), 2)
  got = diagnosed(z, labels, temperatures=(0.01, 1e5))
  np.testing.assert_allclose(got.entropy, [np.log(2) / np.log(14), 1], rtol=1e-5)
  np.testing.assert_allclose(got.false_negative_weight, [1, 1 / 7], rtol=1e-4)


@pytest.mark.parametrize('seed', range(3))
def test_the_entropy_of_the_penalties_never_falls_as_the_temperature_rises(seed):
  z, temperatures = unit_rows(2, 9, 5, seed=seed), (0.005, 0.02, 0.05, 0.1, 0.295, 0.305, 0.5, 1.0, 5.0, 1000.0)
  entropy = diagnosed(z, temperatures=temperatures, bins=1).entropy
  assert (np.diff(entropy[:-1]) > 1e-4).all()
  assert entropy[0] < 0.3 and entropy[-1] > entropy[-2] - 1e-6
  # Its slope in the temperature is the variance of the cosines under the penalties over the cubed temperature.
  cosines = np.float64(z.reshape(18, 5)) @ np.float64(z.reshape(18, 5)).T
  negative = np.arange(18)[:, None] % 9 != np.arange(18) % 9
  share = np.where(negative, np.exp(cosines / 0.3), 0)
  share /= share.sum(1, keepdims=True)
  variance = (share * cosines**2).sum(1) - (share * cosines).sum(1) ** 2
  np.testing.assert_allclose((entropy[5] - entropy[4]) / 0.01, (variance / 0.3**3).mean() / np.log(16), rtol=1e-3)


def test_one_instance_has_no_negatives_and_zeros_for_them():
  z = unit_rows(3, 1, 5)
  got = diagnosed(z, np.zeros(1, np.int32))
  assert all(np.isfinite(value).all() for value in got)
  assert not any(value.any() for value in (got.entropy, got.histogram, got.false_negatives, got.false_negative_weight))
  want = [jit(functools.partial(losses.nt_xent, temperature=t))(z).mean() for t in TEMPERATURES]
  np.testing.assert_allclose(got.loss, want, rtol=1e-5)


@pytest.mark.parametrize(('precision', 'tolerance'), [('bfloat16', 0.1), ('bfloat16_3x', 1e-3)])
def test_reduced_precision_is_as_close_as_its_rounding(precision, tolerance):
  z, labels = unit_rows(2, 13, 5), some_labels(13)
  exact, rounded = diagnosed(z, labels), diagnosed(z, labels, precision=precision)
  assert_same(rounded._replace(histogram=exact.histogram), exact, tolerance)
  assert (rounded.loss != exact.loss).any()


# --- what it is not ---


def test_no_gradient_passes_in_either_mode():
  z = unit_rows(2, 7, 5)

  def everything(z):
    return sum(value.sum() for value in losses.health(z, fold=losses.chunked(4, 4), **FEW))

  assert not np.any(jit(jax.grad(everything))(z))
  assert jit(lambda z: jax.jvp(everything, (z,), (z,))[1])(z) == 0


def test_health_is_public_and_no_loss_that_a_method_could_minimise():
  assert {'health', 'Health'} <= set(losses.__all__)
  assert 'health' not in losses.PAIRWISE


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'temperatures': ()}, 'one or more temperatures'),
    ({'temperatures': (0.1, 0.0)}, 'temperature must be > 0, but it is 0.0'),
    ({'t': 0.0}, 't must be > 0'),
    ({'bins': 0}, 'bins must be at least 1, but it is 0'),
    ({'labels': np.zeros(3, np.int32)}, r'labels must be one integer an instance, \[7\]'),
  ],
)
def test_what_cannot_be_meant_is_refused(options, message):
  with pytest.raises(Refusal, match=message):
    losses.health(unit_rows(2, 7, 5), **options)
  with pytest.raises(Refusal, match='V >= 2 views'):
    losses.health(unit_rows(1, 7, 5))
