"""What a run measures: JSON lines, TensorBoard events and a progress display."""

import json
import math
import os
import pathlib
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import rich.console
import rich.progress
import tensorboardX

from contrastive_jax.types import Refusal

LINES = 'metrics.jsonl'

GLOSSARY: dict[str, str] = {
  'step': 'optimiser steps taken so far',
  'time': 'seconds since 1970-01-01 UTC',
  'loss': 'mean training loss over the global batch, what the optimiser minimises',
  'lr': 'learning rate of the step',
  'grad_norm': 'Euclidean norm of the gradient of all parameters, before clipping',
  'param_norm': 'Euclidean norm of all parameters after the step',
  'steps_per_second': 'optimiser steps per second of wall time since the line before',
  'examples_per_second': 'training examples (not views) per second of wall time since the line before',
  'wait_share': 'share of the wall time that the training loop spent waiting for data (0 to 1)',
}


class Writer:
  """Appends metrics to `metrics.jsonl` and to TensorBoard events below `workdir/tensorboard`.

  A line is one strict JSON object: `step`, `time` and the metrics; what is not finite is written as the string 'nan',
  'inf' or '-inf'. The meaning of the names goes to `glossary.json`.

  Args:
    workdir: directory of the run; created if absent.
    start_step: the step the run continues from. Lines beyond it, written by a run that got further than its last
      checkpoint, are dropped (and a torn last line with them); 0 is a new run and drops all.
    glossary: one-line meanings of metrics besides those of the training loop.
    project: of Weights & Biases, which then gets every line too.

  Raises:
    Refusal: Weights & Biases is not installed, or takes no run.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    start_step: int,
    glossary: Mapping[str, str] | None = None,
    project: str | None = None,
  ):
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    _drop_beyond(workdir / LINES, start_step)
    _replace(workdir / 'glossary.json', json.dumps(GLOSSARY | dict(glossary or {}), indent=1, ensure_ascii=False))
    self._lines = (workdir / LINES).open('a', encoding='utf-8')
    # The name of an event file ends in seconds: a restart within one second would overwrite it.
    self._events = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'),
      purge_step=start_step + 1 if start_step else 0,
      filename_suffix=f'.{start_step}.{os.getpid()}',
    )
    self._mirror = None if project is None else _mirror(workdir, project)

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes scalars (Python numbers or arrays without axes) measured at `step`, and flushes."""
    now = time.time()
    values = {name: float(value) for name, value in metrics.items()}
    line: dict[str, int | float | str] = {'step': int(step), 'time': round(now, 3)}
    line |= {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
    self._lines.write(json.dumps(line, allow_nan=False) + '\n')
    self._lines.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step, walltime=now)
    self._events.flush()
    if self._mirror is not None:
      self._mirror.log({'step': int(step), **values})

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    self._events.close()
    if self._mirror is not None:
      self._mirror.finish()


def weights_and_biases() -> Any:
  """The library of Weights & Biases.

  Raises:
    Refusal: it is not installed.
  """
  try:
    import wandb
  except ModuleNotFoundError:
    raise Refusal("config.train.wandb needs Weights & Biases: pip install -e '.[wandb]'") from None
  return wandb


def _mirror(workdir: pathlib.Path, project: str) -> Any:
  """A run of Weights & Biases, the same each time that the run of this directory continues."""
  wandb, name, config = weights_and_biases(), workdir / 'wandb' / 'name', workdir / 'config.json'
  name.parent.mkdir(exist_ok=True)
  if not name.exists():
    _replace(name, secrets.token_hex(8))
  try:
    run = wandb.init(
      project=project,
      id=name.read_text(),
      resume='allow',
      name=workdir.name,
      dir=workdir,
      config=json.loads(config.read_text()) if config.exists() else None,
      settings=wandb.Settings(console='off'),
    )
  except wandb.Error as error:
    raise Refusal(f'config.train.wandb: {error}') from None
  # Its own count of steps cannot go back to a checkpoint.
  run.define_metric('*', step_metric='step')
  return run


def read(workdir: str | os.PathLike) -> list[dict[str, float]]:
  """The lines of `metrics.jsonl`, oldest first, with 'nan' and 'inf' as floats; torn lines are left out."""
  path = pathlib.Path(workdir) / LINES
  if not path.exists():
    return []
  lines = (_parse(line) for line in path.read_text(encoding='utf-8', errors='replace').splitlines())
  return [
    {name: float(value) if isinstance(value, str) else value for name, value in line.items()}
    for line in lines
    if line is not None
  ]


def _parse(line: str) -> dict[str, Any] | None:
  try:
    parsed = json.loads(line)
  except ValueError:
    return None
  return parsed if isinstance(parsed, dict) and isinstance(parsed.get('step'), int) else None


def _drop_beyond(path: pathlib.Path, step: int) -> None:
  if not path.exists():
    return
  kept = []
  for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
    parsed = _parse(line)
    if parsed is not None and 0 < step >= parsed['step']:
      kept.append(line + '\n')
  _replace(path, ''.join(kept))


def _replace(path: pathlib.Path, text: str) -> None:
  temporary = path.with_name(path.name + '.tmp')
  with temporary.open('w', encoding='utf-8') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


class Progress:
  """A progress bar on a terminal, a plain line every `every` seconds elsewhere.

  Args:
    total: the last step.
    start: the step the run continues from.
    every: seconds between plain lines.
    stream: where to write; None is standard output.
    clock: seconds, monotonic.
  """

  def __init__(
    self,
    total: int,
    start: int = 0,
    *,
    every: float = 10.0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    stream = sys.stdout if stream is None else stream
    self._total, self._every, self._stream, self._clock = total, every, stream, clock
    self._step: int | None = None
    self._shown = clock()
    self._bar: rich.progress.Progress | None = None
    if stream.isatty():
      self._every = 0.2
      columns = (rich.progress.BarColumn(bar_width=24), rich.progress.TextColumn('{task.description}'))
      self._bar = rich.progress.Progress(*columns, console=rich.console.Console(file=stream), auto_refresh=False)
      self._task = self._bar.add_task(f'step {start}/{total}', total=total, completed=start)
      self._bar.start()

  def update(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Shows `step` if it is time to, and always the last one; the metrics are read only when they are shown.

    Args:
      step: steps done.
      metrics: any of `loss`, `steps_per_second`, `examples_per_second`, `wait_share`; others are not shown.
    """
    now = self._clock()
    elapsed = now - self._shown
    if elapsed < self._every and step < self._total:
      return
    # The time before the first line goes into compilation: no rate can be told from it.
    measured = None if self._step is None else (step - self._step) / max(elapsed, 1e-9)
    line = _line(step, self._total, metrics.get('steps_per_second', measured), metrics)
    self._step, self._shown = step, now
    if self._bar is None:
      print(line, file=self._stream, flush=True)
    else:
      self._bar.update(self._task, completed=step, description=line, refresh=True)

  def message(self, text: str) -> None:
    """Prints a line (above the bar)."""
    if self._bar is None:
      print(text, file=self._stream, flush=True)
    else:
      self._bar.console.print(text, markup=False, highlight=False)

  def close(self) -> None:
    """Leaves the bar as it is and ends it."""
    if self._bar is not None:
      self._bar.stop()


class Nowhere:
  """In place of a Writer or a Progress, on processes that write nothing."""

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Nothing."""

  update = write

  def message(self, text: str) -> None:
    """Nothing."""

  def close(self) -> None:
    """Nothing."""


def _line(step: int, total: int, rate: float | None, metrics: Mapping[str, Any]) -> str:
  parts = [f'step {step}/{total}', f'{100 * step // max(total, 1)}%']
  if 'loss' in metrics:
    parts.append(f'loss {float(metrics["loss"]):.3f}')
  if rate is not None:
    parts.append(f'{_count(rate)} steps/s')
  if 'examples_per_second' in metrics:
    parts.append(f'{_count(float(metrics["examples_per_second"]))} examples/s')
  if 'wait_share' in metrics:
    parts.append(f'waiting {100 * float(metrics["wait_share"]):.1f}%')
  if step < total and rate:
    parts.append(f'left {_duration((total - step) / rate)}')
  return '  '.join(parts)


def _count(value: float) -> str:
  for size, suffix in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if value >= size:
      return f'{value / size:.1f}{suffix}'
  return f'{value:.1f}' if value >= 0.1 or value == 0 else f'{value:.2g}'


def _duration(seconds: float) -> str:
  minutes, second = divmod(round(seconds), 60)
  hour, minute = divmod(minutes, 60)
  return f'{hour}:{minute:02d}:{second:02d}' if hour else f'{minute}:{second:02d}'
