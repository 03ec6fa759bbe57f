"""Windows of a glucose sensor's readings."""

import importlib.util

import numpy as np
import pytest

from contrastive_jax.data import glucose, sources
from contrastive_jax.types import Refusal

STEP = glucose.SECONDS


@pytest.fixture
def there():
  if importlib.util.find_spec(glucose.PACKAGE) is None:
    pytest.skip(f'{glucose.PACKAGE} is missing')


def whole(split, **options):
  source = sources.glucose(split=split, **options)
  return source, source.read(np.arange(source.num_examples))


def test_windows_begin_wherever_the_stride_says_and_no_reading_is_missing():
  time = np.arange(20) * STEP
  np.testing.assert_array_equal(glucose.starts(time, 6, 3), [0, 3, 6, 9, 12])
  time[10:] += 2 * STEP  # between readings 9 and 10
  np.testing.assert_array_equal(glucose.starts(time, 6, 1), [0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
  time[15] += glucose.SLACK  # a little late is no gap
  np.testing.assert_array_equal(glucose.starts(time, 6, 2), [0, 2, 4, 10, 12, 14])


def test_targets_are_the_readings_after_a_window_less_its_last(there):
  _, batch = whole('test', length=20, horizon=3)
  _, longer = whole('test', length=23, horizon=1)
  head, rows = longer['series'][:, :20, 0], batch['series'][..., 0]
  same = (rows[:, None] == head).all(-1)  # of both sources, windows that begin at the same reading
  i, j = np.nonzero(same)
  assert len({*i}) > 500
  np.testing.assert_allclose(batch['target'][i], longer['series'][j, 20:, 0] - rows[i, -1:], atol=1e-4)


def test_no_reading_of_a_test_window_or_its_target_is_in_training(there, monkeypatch):
  time, value = glucose.readings()
  # Each reading tells its place, so a window tells which readings it has.
  monkeypatch.setattr(glucose, 'readings', lambda: (time, np.arange(len(value), dtype=np.float64)))
  seen = {}
  for split in ('train', 'test'):
    _, batch = whole(split, length=16, horizon=4)
    last = batch['series'][:, -1]
    seen[split] = {*np.concatenate([batch['series'][..., 0], last + batch['target']], axis=1).ravel().tolist()}
  assert max(seen['train']) < min(seen['test'])
  assert len(seen['test']) > 0.15 * len(value)


def test_statistics_are_those_of_training_windows_in_both_splits(there):
  (train, batch), (test, _) = whole('train'), whole('test')
  assert (train.mean, train.std) == (test.mean, test.std)
  np.testing.assert_allclose(train.mean, batch['series'].mean(), rtol=1e-4)
  assert train.num_examples > 3000 and test.num_examples > 800
  assert 30 < batch['series'].min() < batch['series'].max() < 500  # mg/dL


def test_strides_of_the_splits_are_apart(there):
  train, dense = whole('train')[0], whole('train', test_stride=1)[0]
  assert train.num_examples == dense.num_examples
  assert whole('test', test_stride=1)[0].num_examples > 6 * whole('test')[0].num_examples


def test_a_missing_package_is_refused_with_the_command_that_brings_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(Refusal, match='pip install'):
    glucose.readings.__wrapped__()


def test_impossible_options_are_refused(there):
  for name in ('length', 'horizon', 'stride', 'test_stride'):
    with pytest.raises(Refusal, match=f'{name} must be at least 1'):
      sources.glucose(**{name: 0})
  with pytest.raises(Refusal, match='two windows are needed'):
    sources.glucose(length=50_000)
  with pytest.raises(Refusal, match='unknown split'):
    sources.glucose(split='half')
