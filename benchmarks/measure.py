"""Seconds and bytes of calls, side by side in one process."""

import ctypes
import gc
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Thread pools keep spinning for a moment after a call: the next library must not pay for that.
PAUSE = 0.02  # seconds

_STATUS = pathlib.Path('/proc/self/status')
_CLEAR = pathlib.Path('/proc/self/clear_refs')


class Times(NamedTuple):
  """Seconds of repeated calls."""

  median: float
  low: float
  high: float
  count: int


def seconds(run: Callable) -> float:
  """Seconds of one call, which must wait for its own result."""
  time.sleep(PAUSE)
  began = time.perf_counter()
  run()
  return time.perf_counter() - began


def interleaved(runs: Mapping[str, Callable], *, budget: float, least: int = 3, most: int = 9) -> dict[str, Times]:
  """Times calls that are warm already in rounds A B C, B C A, ..., so that a slow minute of the machine slows all.

  Args:
    runs: calls that wait for their own results.
    budget: seconds to spend, roughly; `least` rounds are run whatever they take, and at most `most`.
  """
  names, taken = list(runs), {name: [] for name in runs}
  rounds, done, began = most, 0, time.perf_counter()
  while done < rounds:
    for name in names[done % len(names) :] + names[: done % len(names)]:
      taken[name].append(seconds(runs[name]))
    done += 1
    rounds = max(least, min(most, round(budget * done / (time.perf_counter() - began))))
  return {name: Times(statistics.median(t), min(t), max(t), len(t)) for name, t in taken.items()}


def _resident(field: str) -> int:
  line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
  return int(line.split()[1]) * 1024


def peak_growth(run: Callable) -> tuple[Any, int | None]:
  """The call's result, and the bytes by which the peak of resident memory exceeds that before; None if unknown.

  Linux only. Inputs exist already and do not count, results do.
  """
  gc.collect()
  try:
    ctypes.CDLL(None).malloc_trim(0)  # memory kept for later would hide what the call takes
    _CLEAR.write_text('5')  # forgets the peak so far
    before = _resident('VmRSS')
  except (OSError, AttributeError):
    return run(), None
  return run(), max(0, _resident('VmHWM') - before)
