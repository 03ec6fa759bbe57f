"""Runs the contenders of one loss at one size: what can run is made, checked and timed in the same rounds."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import contenders, measure, peers, references
from benchmarks.contenders import Case, Contender
from benchmarks.measure import Times

# The reference makes several B x B arrays in float64.
LARGEST_CHECKED = 4096
LIMITS = {'float32': 'float32 matmul, JAX', 'bfloat16': 'bfloat16 matmul, JAX', 'peer': 'float32 matmul, PyTorch'}


class Bounds(NamedTuple):
  """What a run may take."""

  memory: float  # bytes of one call
  patience: float  # seconds of one call
  budget: float  # seconds of the repeats of one loss at one size


class Study(NamedTuple):
  """One loss, computed by several contenders; the first is what the others are compared with."""

  title: str
  reference: Callable
  contenders: tuple[Contender, ...]


class Entry(NamedTuple):
  """What was found of a contender at one size."""

  contender: Contender
  note: str = ''  # why there is no time
  times: Times | None = None
  temporaries: int | None = None  # bytes, as compiled
  growth: int | None = None  # bytes, as measured
  errors: tuple[float, float] | None = None  # relative, of value and gradient


class Block(NamedTuple):
  """One loss at one size."""

  b: int
  entries: list[Entry]
  limits: dict[str, float]  # FLOP/s of large products in the same rounds, by `LIMITS`
  edge: int  # of the products


def studies() -> dict[str, Study]:
  """The compared losses by the name that --losses takes."""
  return {
    'symmetric': Study('Symmetric InfoNCE', references.symmetric, contenders.symmetric() + peers.symmetric()),
    'nt_xent': Study('NT-Xent, two views', references.nt_xent, contenders.nt_xent() + peers.nt_xent()),
    'sigmoid': Study('Sigmoid', references.sigmoid, contenders.sigmoid()),
  }


def limits(n: int) -> dict[str, Callable]:
  """The products whose speed is the limit, warm."""
  from contrastive_jax.engine.limits import matmul

  runs = {LIMITS[dtype]: matmul(dtype, n) for dtype in ('float32', 'bfloat16')}
  with contextlib.suppress(ImportError):
    runs[LIMITS['peer']] = peers.matmul(n)
  for run in runs.values():
    run()
  return runs


def prepare(contender: Contender, given: Case, true, bounds: Bounds, before: dict[str, tuple[int, float]]):
  """(Entry without times, run or None): made and called once, unless it is missing, too large or too slow.

  Args:
    true: the reference's value and gradients, or None.
    before: (size, seconds) of each contender at the last size where it ran.
  """
  b = len(given.x)
  if contender.room(b) > bounds.memory:
    return Entry(contender, f'skipped: needs about {contender.room(b) / 1e9:,.0f} GB'), None
  if contender.name in before:
    size, seconds = before[contender.name]
    if (expected := seconds * (b / size) ** 2) > bounds.patience:
      return Entry(contender, f'skipped: takes about {expected:,.0f} s'), None
  try:
    program = contender.make(given)
    if (program.temporaries or 0) > bounds.memory:
      return Entry(contender, f'skipped: compiled to need {program.temporaries / 1e9:,.0f} GB'), None
    (value, gradients), growth = program.growth(program.run)
  except ImportError as missing:
    return Entry(contender, 'not installed' if isinstance(missing, ModuleNotFoundError) else str(missing)), None
  except (RuntimeError, MemoryError) as failure:  # out of memory, in either library
    return Entry(contender, f'failed: {str(failure).splitlines()[0][:80]}'), None
  errors = None
  if true is not None:
    errors = references.error(true, given, program.read(value), [program.read(g) for g in gradients])
  return Entry(contender, temporaries=program.temporaries, growth=growth, errors=errors), program.run


def _as_long_as(runs: dict[str, Callable]) -> dict[str, int]:
  """Repeats each limit until it takes about as long as the first contender, and returns how often.

  A processor is faster for a tenth of a second than for several: what lasts must be held to a speed that lasts.
  """
  names = [name for name in runs if name not in LIMITS.values()]
  wanted = measure.seconds(runs[names[0]]) if names else 0.0
  calls = {}
  for name in set(LIMITS.values()) & set(runs):
    calls[name] = count = max(1, round(wanted / measure.seconds(runs[name])))
    runs[name] = lambda one=runs[name], count=count: [one() for _ in range(count)]
  return calls


def compare(study: Study, b: int, d: int, edge: int, bounds: Bounds, before: dict) -> Block:
  """Times every contender that can run at this size."""
  given = contenders.case(b, d)
  true = references.truth(study.reference, given) if b <= LARGEST_CHECKED else None
  entries, runs = [], limits(edge)
  for contender in study.contenders:
    entry, run = prepare(contender, given, true, bounds, before)
    entries.append(entry)
    if run is not None:
      runs[contender.name] = run
  calls = _as_long_as(runs)
  times = measure.interleaved(runs, budget=bounds.budget)
  speeds = {name: calls[name] * 2 * edge**3 / times[name].median for name in LIMITS.values() if name in times}
  entries = [entry._replace(times=times.get(entry.contender.name)) for entry in entries]
  before.update({e.contender.name: (b, e.times.median) for e in entries if e.times})
  return Block(b, entries, speeds, edge)
