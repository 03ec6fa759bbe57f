import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from contrastive_jax.evals import geometry, health, knn, linear
from contrastive_jax.types import Embedded


def raw_pixels(split, view=None):
  """Digits as they are: what a probe of embeddings must beat."""
  pixels, label = load_digits(return_X_y=True)
  rows = slice(0, 400) if split == 'train' else slice(400, 600)
  x = pixels[rows].astype(np.float32)
  return Embedded(x, x / np.linalg.norm(x, axis=1, keepdims=True), label[rows].astype(np.int32), np.arange(len(x)))


@pytest.mark.turns(2)
@pytest.mark.parametrize('module', [geometry, health, knn, linear], ids=lambda m: m.__name__.split('.')[-1])
def test_every_metric_is_a_finite_float_with_a_line_in_the_glossary(module):
  metrics = module.make().run(raw_pixels)
  assert set(metrics) == set(module.GLOSSARY)
  assert all(type(v) is float and np.isfinite(v) for v in metrics.values())
  assert all('\n' not in line for line in module.GLOSSARY.values())


@pytest.mark.parametrize('module', [knn, linear], ids=lambda m: m.__name__.split('.')[-1])
def test_raw_pixels_of_digits_are_classified_far_above_chance(module):
  name = module.__name__.split('.')[-1]
  assert module.make().run(raw_pixels)[f'{name}/accuracy'] > 0.8


@pytest.mark.parametrize('module', [geometry, health, knn, linear], ids=lambda m: m.__name__.split('.')[-1])
def test_evaluators_work_under_a_transfer_guard(module):
  with jax.transfer_guard('disallow'):
    scores = module.make().run(raw_pixels)
  assert all(np.isfinite(value) for value in scores.values())
