"""Embedded splits, and the devices that share the work on them."""

import jax
import numpy as np
import pytest

from contrastive_jax.data import sources, views
from contrastive_jax.engine.evaluation import Embedder, raw_pixels, scores
from contrastive_jax.engine.state import data_mesh
from contrastive_jax.evals import geometry, knn, linear


def cut(source, n):
  """The first n examples of a source."""
  return source._replace(num_examples=n)


@pytest.fixture(scope='module')
def pixels():
  """`embed` of raw pixels, with 64 training and 45 test digits, on so many devices."""
  made = {'train': cut(sources.digits(split='train'), 64), 'test': cut(sources.digits(split='test'), 45)}
  views_ = views.digits(mean=(0.0,), std=(1.0,))

  def embedder(devices, **options):
    return Embedder(raw_pixels, made, views_, mesh=data_mesh(devices), batch_size=32, seed=0).at({}, {}, **options)

  return embedder


def test_rows_for_evaluators_are_split_over_the_devices_where_they_divide(pixels):
  embed = pixels(8)
  train, test = embed('train').features, embed('test').projection
  assert {shard.data.shape for shard in train.addressable_shards} == {(8, 64)} and len(train.sharding.device_set) == 8
  assert test.sharding.is_fully_replicated and len(test.sharding.device_set) == 8


def test_rows_on_the_host_are_those_on_the_devices(pixels):
  here, there = pixels(8, on_host=True)('test', view=1), pixels(8)('test', view=1)
  assert isinstance(here.features, np.ndarray)
  for mine, theirs in zip(here, there, strict=True):
    np.testing.assert_array_equal(mine, jax.device_get(theirs))


def test_views_for_evaluators_are_of_the_kinds_of_their_numbers():
  still = dict(crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=(0.0,))
  made = {'test': cut(sources.digits(split='test'), 16)}
  of_two_kinds = views.byol(mean=(0.0,), std=(1.0,), solarise=(0.0, 1.0), **still)
  embed = Embedder(raw_pixels, made, of_two_kinds, mesh=data_mesh(1), batch_size=16, seed=0).at({}, {}, on_host=True)
  plain = embed('test').features
  inverted = np.where(plain < 0.5, plain, 1 - plain)
  for view, expected in enumerate((plain, inverted, plain, inverted)):
    np.testing.assert_allclose(embed('test', view=view).features, expected, atol=1e-5)


@pytest.mark.turns(3)
@pytest.mark.parametrize('devices', [2, 4, 8])
def test_scores_are_the_same_on_one_and_on_several_devices(devices, pixels):
  evaluators = {'knn': knn.make(k=5)}
  if devices == 8:
    evaluators |= {'linear': linear.make(strengths=(1e-2,)), 'geometry': geometry.make()}
  alone, shared = (scores(evaluators, pixels(count)) for count in (1, devices))
  assert alone.keys() == shared.keys()
  assert shared == pytest.approx(alone, rel=1e-4, abs=1e-5)
