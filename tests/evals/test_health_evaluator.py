import inspect

import jax
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.evals import geometry, health
from contrastive_jax.types import Embedded, Refusal


def sphere(n, d, seed=0):
  x = np.random.default_rng(seed).standard_normal((n, d))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def closure(a, b, label=None, features=None):
  label = np.full(len(a), -1, np.int32) if label is None else label

  def embed(split, view=None):
    assert split == 'test' and view in (0, 1), 'only the views of the test split are compared'
    x = 3 * (a, b)[view]
    return Embedded(x if features is None else features[view], x, label, np.arange(len(a), dtype=np.int32))

  return embed


LABEL = np.arange(40, dtype=np.int32) % 5


def test_every_metric_is_that_of_the_two_views_scaled_to_norm_one():
  a, b = sphere(40, 8), sphere(40, 8, 1)
  metrics = health.make(temperatures=(0.1, 0.5), bins=4).run(closure(a, b, LABEL))
  want = losses.health(np.stack([a, b]), LABEL, temperatures=(0.1, 0.5), bins=4)
  expected = {
    'nt_xent@0.1': want.loss[0],
    'nt_xent@0.5': want.loss[1],
    'penalty_entropy@0.1': want.entropy[0],
    'penalty_entropy@0.5': want.entropy[1],
    'false_negative_weight@0.1': want.false_negative_weight[0],
    'false_negative_weight@0.5': want.false_negative_weight[1],
    'false_negatives': 7 / 39,
    'uniformity': want.uniformity,
    'positive_cosine': (a * b).sum(1).mean(),
    'cosines@-0.75': want.histogram[0],
    'cosines@-0.25': want.histogram[1],
    'cosines@0.25': want.histogram[2],
    'cosines@0.75': want.histogram[3],
  }
  assert metrics == pytest.approx({f'health/{name}': float(value) for name, value in expected.items()}, abs=1e-5)


def test_glossary_explains_the_metrics_of_any_options_and_the_module_those_of_the_defaults():
  embed = closure(sphere(12, 4), sphere(12, 4, 1), LABEL[:12])
  defaults = {name: p.default for name, p in inspect.signature(health.make).parameters.items()}
  assert set(health.make().run(embed)) == set(health.GLOSSARY)
  assert health.glossary(defaults['temperatures'], defaults['bins']) == health.GLOSSARY
  assert set(health.make(temperatures=(0.07,), bins=3).run(embed)) == set(health.glossary((0.07,), 3))


def test_metrics_of_false_negatives_need_labels():
  metrics = health.make().run(closure(sphere(12, 4), sphere(12, 4, 1)))
  assert set(metrics) == {name for name in health.GLOSSARY if 'false_negative' not in name}


def test_features_are_read_when_asked_for():
  a, b = sphere(12, 4), sphere(12, 4, 1)
  embed = closure(a, b, features=(b, a + b))
  of_features = health.make(representation='features').run(embed)
  assert of_features == pytest.approx(health.make().run(closure(b, np.asarray(losses.unit(a + b)))), abs=1e-5)
  assert of_features != pytest.approx(health.make().run(embed), abs=1e-2)


def test_positive_cosine_is_that_of_geometry():
  a, b = sphere(40, 8), sphere(40, 8, 1)
  found = health.make().run(closure(a, b))['health/positive_cosine']
  assert found == pytest.approx(geometry.view_statistics(a, b)['positive_mean'], abs=1e-6)


@pytest.mark.slow
def test_sharded_rows_give_the_numbers_of_one_device(rows_sharding):
  a, b = sphere(40, 8), sphere(40, 8, 1)
  run = health.make(temperatures=(0.1,), bins=2).run
  split = [jax.device_put(v, rows_sharding) for v in (a, b)]
  expected = pytest.approx(run(closure(a, b, LABEL)), abs=1e-5)
  assert run(closure(*split, LABEL)) == expected
  with jax.set_mesh(rows_sharding.mesh):
    assert run(closure(*split, LABEL)) == expected


def test_what_has_no_health_is_refused():
  with pytest.raises(Refusal, match="two rows or more, but split 'test' has 1"):
    health.make().run(closure(sphere(1, 4), sphere(1, 4)))
  with pytest.raises(Refusal, match='not finite'):
    health.make().run(closure(np.full((5, 4), np.nan, np.float32), sphere(5, 4)))
  with pytest.raises(Refusal, match='temperature must be > 0'):
    health.make(temperatures=(0.0,))
  with pytest.raises(Refusal, match='bins must be at least 1'):
    health.make(bins=0)
  with pytest.raises(Refusal, match="did you mean 'projection'"):
    health.make(representation='projections')
