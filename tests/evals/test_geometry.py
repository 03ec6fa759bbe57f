import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from contrastive_jax.evals import geometry
from contrastive_jax.types import Embedded, Refusal


def sphere(n, d, seed=0):
  x = np.random.default_rng(seed).standard_normal((n, d))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def closure(plain, a=None, b=None, label=None):
  label = np.full(len(plain), -1, np.int32) if label is None else label

  def embed(split, view=None):
    x = plain if view is None or a is None else (a, b)[view]
    return Embedded(3 * x, x, label, np.arange(len(x), dtype=np.int32))

  return embed


def pairs(n):
  return np.triu_indices(n, 1)


def test_collapsed_embeddings_have_no_geometry():
  x = np.tile(sphere(1, 16), (64, 1))
  metrics = geometry.make().run(closure(x, label=np.arange(64, dtype=np.int32) % 4))
  expected = {
    'alignment': 0,
    'uniformity': 0,
    'wasserstein_uniformity': 1,
    'tolerance': 15 / 63,
    'class_cosine': 1,
    'effective_rank': 1,
    'rank': 0,
    'features_effective_rank': 1,
    'features_rank': 0,
    'positive_mean': 1,
    'positive_std': 0,
    'negative_mean': 1,
    'negative_std': 0,
  }
  assert set(metrics) == set(geometry.GLOSSARY)
  assert metrics == pytest.approx({f'geometry/{k}': v for k, v in expected.items()}, abs=1e-3)


def test_isotropic_embeddings_fill_the_sphere():
  d = 24
  metrics = geometry.make().run(closure(sphere(4000, d)))
  assert metrics['geometry/effective_rank'] == pytest.approx(d, rel=0.01)
  assert metrics['geometry/rank'] == d
  assert metrics['geometry/wasserstein_uniformity'] < 3e-3
  # E exp(-2t) exp(2t s) under the law of s, a Bessel function.
  expected = -4 + np.log(scipy.special.hyp0f1(d / 2, 4.0))
  assert metrics['geometry/uniformity'] == pytest.approx(expected, abs=0.01)
  assert metrics['geometry/negative_std'] == pytest.approx(1 / np.sqrt(d), rel=0.02)


@pytest.mark.parametrize('r', [1, 3, 10])
def test_embeddings_of_rank_r_have_rank_r_and_at_most_that_effective_rank(r):
  rng = np.random.default_rng(r)
  x = (rng.standard_normal((500, r)) @ rng.standard_normal((r, 64))).astype(np.float32)
  metrics = geometry.make().run(closure(x))
  assert metrics['geometry/features_rank'] == r
  assert metrics['geometry/effective_rank'] <= r + 1e-4
  assert metrics['geometry/features_effective_rank'] > 0.6 * r


@pytest.mark.parametrize('centre', [True, False])
def test_spectrum_is_that_of_the_singular_value_decomposition(centre):
  x = np.random.default_rng(0).standard_normal((300, 20)) * np.logspace(0, -5, 20) + 2
  x = x.astype(np.float32)
  exact = x.astype(np.float64)
  expected = np.linalg.svd(exact - exact.mean(0) * centre, compute_uv=False) / np.sqrt(300)
  np.testing.assert_allclose(geometry.spectrum(x, centre=centre), expected, rtol=1e-4, atol=1e-7)


def test_view_statistics_equal_sums_over_explicit_pairs():
  a, b = sphere(50, 7, 1), sphere(50, 7, 2)
  b = (a + 0.4 * b) / np.linalg.norm(a + 0.4 * b, axis=1, keepdims=True)
  cosine = a.astype(np.float64) @ b.T
  negative = cosine[~np.eye(50, dtype=bool)]
  assert geometry.view_statistics(a, b) == pytest.approx(
    {
      'alignment': np.square(a - b).sum(1).mean(),
      'positive_mean': np.diag(cosine).mean(),
      'positive_std': np.diag(cosine).std(),
      'negative_mean': negative.mean(),
      'negative_std': negative.std(),
    },
    abs=1e-6,
  )


def test_spread_of_negatives_survives_a_common_direction():
  # Cosines around 0.999999 with a spread of about 1e-7: squares of float32 would cancel.
  x = 1e-4 * np.random.default_rng(0).standard_normal((200, 8)) + np.ones(8)
  cosine = x @ x.T
  expected = cosine[~np.eye(200, dtype=bool)].std()
  with jax.enable_x64(True):
    found = geometry.view_statistics(x, x)['negative_std']
  assert found == pytest.approx(expected, rel=1e-3)


def test_tolerance_equals_sums_over_explicit_pairs_of_labelled_rows():
  x, label = sphere(60, 5), np.random.default_rng(0).choice([-1, 0, 2, 7], 60).astype(np.int32)
  known = label >= 0
  i, j = pairs(known.sum())
  cosine = (x[known].astype(np.float64) @ x[known].T)[i, j]
  same = label[known][i] == label[known][j]
  found = geometry.tolerance(x, label)
  assert found == pytest.approx({'tolerance': (cosine * same).mean(), 'class_cosine': cosine[same].mean()}, abs=1e-6)


def test_metrics_of_classes_need_labels_and_pairs():
  x = sphere(10, 4)
  assert geometry.tolerance(x, np.full(10, -1)) == {}
  assert geometry.tolerance(x, np.arange(10)) == {'tolerance': pytest.approx(0, abs=1e-7)}
  assert 'geometry/tolerance' not in geometry.make().run(closure(x))


@pytest.mark.parametrize('n', [30, 1100])
def test_uniformity_equals_the_mean_over_explicit_pairs(n):
  x = sphere(n, 6)
  i, j = pairs(n)
  distance = 2 - 2 * (x.astype(np.float64) @ x.T)[i, j]
  metrics = geometry.make(t=3.0).run(closure(x))
  assert metrics['geometry/uniformity'] == pytest.approx(np.log(np.exp(-3 * distance).mean()), abs=1e-4)


def test_orthogonal_rows_have_uniformity_minus_two_t():
  assert geometry.make(t=2.0).run(closure(np.eye(12, dtype=np.float32)))['geometry/uniformity'] == pytest.approx(-4)


@pytest.mark.parametrize('d', [2, 3, 50])
def test_wasserstein_uniformity_is_the_distance_to_quantiles_of_the_law(d):
  x = sphere(200, d) + 0.3
  x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
  i, j = pairs(200)
  law = scipy.stats.beta((d - 1) / 2, (d - 1) / 2, loc=-1, scale=2)
  quantiles = law.ppf((np.arange(20000) + 0.5) / 20000)
  expected = scipy.stats.wasserstein_distance((x @ x.T)[i, j], quantiles)
  assert geometry.wasserstein_uniformity(x) == pytest.approx(expected, abs=5e-4)


def test_wasserstein_uniformity_of_a_sample_is_near_that_of_all_rows_and_follows_the_seed():
  x = sphere(1500, 10) + 0.2
  x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
  whole = geometry.wasserstein_uniformity(x, samples=1500)
  sample, again, other = (geometry.wasserstein_uniformity(x, samples=500, seed=s) for s in (0, 0, 1))
  assert sample == again != other
  assert sample == pytest.approx(whole, rel=0.1)


def test_alignment_compares_view_0_with_view_1_and_the_rest_reads_plain_images():
  plain, a, b = sphere(40, 8, 1), sphere(40, 8, 2), sphere(40, 8, 3)
  metrics = geometry.make().run(closure(plain, a, b))
  assert metrics['geometry/alignment'] == pytest.approx(np.square(a - b).sum(1).mean(), abs=1e-6)
  alone = geometry.make().run(closure(plain))
  for name in ('uniformity', 'wasserstein_uniformity', 'effective_rank', 'features_effective_rank'):
    assert metrics[f'geometry/{name}'] == pytest.approx(alone[f'geometry/{name}'])


@pytest.mark.slow
def test_sharded_rows_give_the_numbers_of_one_device(rows_sharding):
  x, a, b = (sphere(1104, 8, seed) for seed in range(3))
  label = np.random.default_rng(0).integers(-1, 5, 1104).astype(np.int32)
  run = geometry.make(samples=300).run
  split = [jax.device_put(v, rows_sharding) for v in (x, a, b)]
  expected = pytest.approx(run(closure(x, a, b, label=label)), abs=1e-5)
  assert run(closure(*split, label=label)) == expected
  with jax.set_mesh(rows_sharding.mesh):
    assert run(closure(*split, label=label)) == expected


def test_what_has_no_geometry_is_refused():
  with pytest.raises(Refusal, match="two rows or more, but split 'test' has 1"):
    geometry.make().run(closure(sphere(1, 4)))
  with pytest.raises(Refusal, match='not finite'):
    geometry.make().run(closure(np.full((5, 4), np.nan, np.float32)))
  with pytest.raises(Refusal, match='seed must be at least 0'):
    geometry.make(seed=-1)
  with pytest.raises(Refusal, match='must be positive'):
    geometry.make(t=0.0)
