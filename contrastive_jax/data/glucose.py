"""A real series with gaps, in windows: readings of a glucose sensor, and those that follow each window."""

import functools
import gzip
import importlib.util
import pathlib

import numpy as np
from jaxtyping import Float, Int

from contrastive_jax.data.source import TEST_PART, Source, check_split, measure
from contrastive_jax.types import Refusal

PACKAGE, FILE = 'bokeh_sampledata', '_data/CGM.csv.gz'
SECONDS, SLACK = 300, 60  # between two readings, and how far from it they may be


@functools.cache
def readings() -> tuple[Int[np.ndarray, ' n'], Float[np.ndarray, ' n']]:
  """When each reading was taken, in seconds, and what it says, in mg/dL: all there are, in their order.

  Raises:
    Refusal: the package that brings them is missing, or has them no more.
  """
  found = importlib.util.find_spec(PACKAGE)  # which imports nothing of it
  folders = found.submodule_search_locations if found else None
  if not folders:
    raise Refusal(f"the readings are in the package {PACKAGE}, which is missing: pip install 'contrastive_jax[series]'")
  try:
    text = gzip.decompress((pathlib.Path(folders[0]) / FILE).read_bytes()).decode()
  except (OSError, EOFError) as error:
    raise Refusal(
      f"{FILE} of the package {PACKAGE} cannot be read: {error}; pip install 'contrastive_jax[series]'"
    ) from None
  rows = [line.split(',') for line in text.splitlines()[1:]]
  kept = [(time, value) for _, time, value in rows if value]
  time = np.array([time for time, _ in kept], 'datetime64[s]').astype(np.int64)
  return time, np.array([value for _, value in kept], np.float64)


def starts(time: Int[np.ndarray, ' n'], size: int, stride: int) -> Int[np.ndarray, ' k']:
  """Where windows of so many readings begin that have no gap: every `stride` readings, if none is missing."""
  gap = np.abs(np.diff(time) - SECONDS) > SLACK
  before = np.concatenate([[0], np.cumsum(gap)])  # gaps before each reading
  first = np.arange(0, len(time) - size + 1, stride)
  return first[before[first] == before[first + size - 1]]


def glucose(
  *, split: str = 'train', length: int = 96, horizon: int = 12, stride: int = 8, test_stride: int | None = None
) -> Source:
  """Windows of a glucose sensor's readings, and how glucose changes after each: what to forecast.

  A person wore the sensor from March to October of 2010: 52,281 readings, one in five minutes but for 386 gaps, in the
  public domain and part of the package bokeh_sampledata. The last fifth of them is the test split, so nothing of what
  is forecast there, and no reading of its windows, was seen in training. Windows have no gaps.

  Fields: `series` float32 [b, length, 1] in mg/dL; `target` float32 [b, horizon], the next readings less the last of
  the window, so that 0 is the forecast that nothing changes, and errors are those of the readings. There are no labels.

  Args:
    split: 'train' or 'test'.
    length: readings in a window, 96 of eight hours.
    horizon: readings to forecast, 12 of an hour.
    stride: readings from one window to the next.
    test_stride: the same of the test split; None is `stride`.

  Raises:
    Refusal: an unknown split, an option below 1, a missing package; fewer than two windows.
  """
  check_split(split)
  test_stride = stride if test_stride is None else test_stride
  sizes = dict(length=length, horizon=horizon, stride=stride, test_stride=test_stride)
  for name, given in sizes.items():
    if given < 1:
      raise Refusal(f'{name} must be at least 1, but it is {given}')
  time, value = readings()
  cut = len(value) - round(len(value) * TEST_PART)
  of_split = {'train': (slice(0, cut), stride), 'test': (slice(cut, None), test_stride)}
  windows = {}
  for part, (rows, step) in of_split.items():
    first = starts(time[rows], length + horizon, step)
    if len(first) < 2:
      raise Refusal(f'two windows are needed, but split {part!r} has {len(first)} of length={length} with {horizon=}')
    windows[part] = value[rows][first[:, None] + np.arange(length + horizon)]
  mine = windows[split]
  series = mine[:, :length, None].astype(np.float32)
  target = (mine[:, length:] - mine[:, length - 1 : length]).astype(np.float32)

  def read(rows):
    return {'series': series[rows], 'target': target[rows], 'label': np.full(len(rows), -1, np.int32)}

  statistics = measure(windows['train'][:, :length, None])
  return Source('glucose', split, len(mine), read, (length, 1), (), *statistics, input='series')
