"""Predicted against measured: before and after training, and for `python -m contrastive_jax.plan --measure`."""

import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from contrastive_jax.engine import metrics, parts, plan, processes
from contrastive_jax.engine.plan import Plan
from contrastive_jax.engine.setup import Run
from contrastive_jax.engine.workdir import write_json

PLAN = 'plan.json'
SECONDS, LEAST = 3.0, 3  # of repeats of a part, and how many at least


class Measured(NamedTuple):
  """Seconds of one call (the median) and bytes a device; None where they cannot be told."""

  loss: float
  step: float
  memory: int | None


def measure(run: Run) -> Measured:
  """Runs the loss on random features, and real steps; the memory of a step is that of its compiled program."""
  train_state, raw = run.abstract()
  compiled = run.step.lower(train_state, raw).compile() if hasattr(run.step, 'lower') else None
  batch, features = parts.example(run, parts.features(run, train_state, raw))
  state, take = run.fresh(), run.step if compiled is None else compiled
  loss = jax.jit(parts.loss(run)).lower(state, batch, features).compile()
  of_loss = _median(lambda: jax.block_until_ready(loss(state, batch, features)))

  def step():
    nonlocal state
    state, found = take(state, batch)
    jax.block_until_ready(found)

  return Measured(of_loss, _median(step), None if compiled is None else sum(parts.needs(compiled)))


def _median(call: Callable[[], object]) -> float:
  """Seconds of a call, the first left out."""
  call()
  taken: list[float] = []
  while len(taken) < LEAST or sum(taken) < SECONDS:
    start = time.perf_counter()
    call()
    taken.append(time.perf_counter() - start)
  return statistics.median(taken)


def as_text(planned: Plan, found: Measured) -> str:
  """Predicted against measured, in aligned lines."""
  rows: list[tuple[str, ...]] = [('', 'predicted', 'measured', 'ratio')]
  for name, limit, seconds in (
    ('loss', planned.loss.seconds, found.loss),
    ('step', planned.step.seconds, found.step),
  ):
    rows.append((name, f'>= {plan.duration(limit)}', plan.duration(seconds), f'{seconds / limit:.2f}'))
  if planned.step.memory is not None and found.memory is not None:
    sizes = (f'{plan.amount(size)}B' for size in (planned.step.memory, found.memory))
    rows.append(('memory', *sizes, f'{found.memory / planned.step.memory:.2f}'))
  return '\n'.join(f'{row[0]:<8s}' + ''.join(f'{cell:>14s}' for cell in row[1:]) for row in rows)


# --- of training ---


def before(run: Run, path: pathlib.Path) -> Plan | None:
  """Says and records what a step will cost; None on processes that write nothing."""
  if not processes.first():
    return None
  planned = plan.sketch(run)
  _record(path, {'predicted': _plain(planned)})
  step, loss = planned.step, planned.loss
  print(
    f'plan: {plan.amount(step.flop)}FLOP a step and device, the loss {plan.amount(loss.flop)}FLOP '
    f'({plan.logits(planned)}; exchange: {planned.exchange});\n'
    f'plan: at least {plan.duration(step.seconds)} a step, the products alone, at {plan.reached(planned)}',
    flush=True,
  )
  return planned


def after(planned: Plan | None, path: pathlib.Path, began: float):
  """Says and records how long steps took beside that, where enough were taken since `began` (seconds since 1970)."""
  if planned is None:
    return
  lines = [line for line in metrics.read(path) if line['time'] > began]
  rates = [line['steps_per_second'] for line in lines if 'steps_per_second' in line]
  if len(rates) < 2:
    return
  seconds = 1 / statistics.median(rates[1:])  # compilation is in the first
  ratio = seconds / planned.step.seconds if planned.step.seconds else None
  _record(path, {'measured': {'step_seconds': seconds, 'over_limit': ratio}})
  beside = '' if ratio is None else f', {_times(ratio)} the {plan.duration(planned.step.seconds)} of its products'
  print(f'plan: a step took {plan.duration(seconds)} (median){beside}', flush=True)


def _times(ratio: float) -> str:
  return f'{ratio:,.0f} times' if ratio >= 100 else f'{ratio:.3g} times'


def _record(path: pathlib.Path, found: dict):
  file = path / PLAN
  write_json(file, (json.loads(file.read_text()) if file.exists() else {}) | found)


def _plain(planned: Plan) -> dict:
  return planned._asdict() | {'loss': planned.loss._asdict(), 'step': planned.step._asdict()}
