"""One progress display for all runs of a sweep: bars on a terminal, plain lines elsewhere."""

import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import rich.console
import rich.progress

from launch import folder
from launch.folder import Run, State

EVERY = 30.0  # seconds between plain lines
LAST_LINES = 4096  # bytes of a run's metrics in which its last step is looked for


class Display:
  """Says what starts and how it ends, and how far everything is.

  Args:
    root: the sweep's folder.
    runs: all that are to be trained now.
    stream: where to write; None is standard output.
  """

  def __init__(self, root: pathlib.Path, runs: Sequence[Run], *, stream: TextIO | None = None):
    stream = sys.stdout if stream is None else stream
    self._root, self._stream = root, stream
    self._total, self._ended, self._steps_done = len(runs), 0, 0
    self._steps = sum(run.steps for run in runs)
    self._began, self._shown = time.monotonic(), time.monotonic()
    self._at_start: dict[str, int] = {}  # steps that a run which continues had taken before
    self._bars: rich.progress.Progress | None = None
    self._tasks: dict[str, rich.progress.TaskID] = {}
    if stream.isatty():
      columns = (rich.progress.BarColumn(bar_width=24), rich.progress.TextColumn('{task.description}', markup=False))
      # No thread of its own: runs are forked from here.
      self._bars = rich.progress.Progress(*columns, console=rich.console.Console(file=stream), auto_refresh=False)
      self._tasks[''] = self._bars.add_task('', total=max(self._steps, 1))
      self._bars.start()

  def started(self, run: Run):
    """A run begins."""
    self._at_start[run.name] = int(_last_line(self._root, run).get('step', 0))
    if self._bars is None:
      self.message(f'started {run.name}')
    else:
      self._tasks[run.name] = self._bars.add_task(run.name, total=max(run.steps, 1))

  def ended(self, run: Run, state: State):
    """A run is over."""
    self._ended += 1
    self._steps_done += run.steps
    if self._bars is not None and run.name in self._tasks:
      self._bars.remove_task(self._tasks.pop(run.name))
    why = f': {state.reason}' if state.reason else ''
    self.message(f'{state.state} {run.name} after {duration(state.seconds)}{why}')

  def update(self, going: Sequence[Run]):
    """Shows how far everything is, if it is time to."""
    if self._bars is None:
      if time.monotonic() - self._shown >= EVERY:
        self._shown = time.monotonic()
        self.message(self._overall({run.name: _last_line(self._root, run) for run in going}))
      return
    lines = {run.name: _last_line(self._root, run) for run in going}
    for run in going:
      step = int(lines[run.name].get('step', 0))
      self._bars.update(self._tasks[run.name], completed=step, description=_told(run, lines[run.name]))
    self._bars.update(self._tasks[''], completed=self._steps_now(lines), description=self._overall(lines))
    self._bars.refresh()

  def _steps_now(self, lines: dict[str, dict[str, Any]]) -> int:
    return self._steps_done + sum(int(line.get('step', 0)) for line in lines.values())

  def _overall(self, lines: dict[str, dict[str, Any]]) -> str:
    text = f'{self._ended}/{self._total} runs, {len(lines)} going'
    # What earlier attempts have done says nothing of the rate.
    before = sum(self._at_start.values())
    now, elapsed = self._steps_now(lines), time.monotonic() - self._began
    if now > before and self._steps > now:
      text += f', left {duration(elapsed * (self._steps - now) / (now - before))}'
    return text

  def message(self, text: str):
    """Prints a line (above the bars)."""
    if self._bars is None:
      print(text, file=self._stream, flush=True)
    else:
      self._bars.console.print(text, markup=False, highlight=False)

  def close(self):
    """Ends the bars."""
    if self._bars is not None:
      self._bars.stop()


def duration(seconds: float) -> str:
  """'1:02:03', '2:03'."""
  minutes, second = divmod(round(seconds), 60)
  hour, minute = divmod(minutes, 60)
  return f'{hour}:{minute:02d}:{second:02d}' if hour else f'{minute}:{second:02d}'


def _told(run: Run, line: dict[str, Any]) -> str:
  text = f'{run.name}  {line.get("step", 0)}/{run.steps}'
  return text + (f'  loss {float(line["loss"]):.3f}' if 'loss' in line else '')


def _last_line(root: pathlib.Path, run: Run) -> dict[str, Any]:
  """The newest whole line of a run's metrics; empty where there is none."""
  try:
    with (folder.workdir(root, run) / 'metrics.jsonl').open('rb') as file:
      file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_LINES))
      lines = file.read().decode(errors='replace').splitlines()
  except OSError:
    return {}
  for line in reversed(lines):
    try:
      found = json.loads(line)
    except ValueError:
      continue
    if isinstance(found, dict) and 'step' in found:
      return found
  return {}
