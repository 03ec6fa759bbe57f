"""Everything that a run says while it goes on: lines, events, progress, and the refusal to go on without numbers."""

import itertools
import math
import pathlib
import re
import time
from collections.abc import Callable, Mapping

import jax

from contrastive_jax.engine import processes
from contrastive_jax.engine.metrics import Nowhere, Progress, Writer

HEADLINE = ('geometry/effective_rank', 'retrieval/t2i_r10', 'retrieval/i2t_r10')
FEW = 4


class NonFinite(RuntimeError):
  """Loss, gradient or parameters are no numbers: training stops, naming step, metrics and last good checkpoint."""


class Reporter:
  """Writes the metrics of steps and the scores of evaluations; of several processes only the first does.

  Args:
    path: workdir of the run.
    start: step that the run continues from.
    total: last step.
    log_every: steps between lines of metrics.jsonl.
    batch_size: examples a step.
    waited: seconds that the loop has waited for data so far.
    last_good: step of the newest checkpoint, None where there is none.
    glossary: meanings of the scores.
    project: of Weights & Biases, if it is to get them too.
  """

  def __init__(
    self,
    path: pathlib.Path,
    *,
    start: int,
    total: int,
    log_every: int,
    batch_size: int,
    waited: Callable[[], float],
    last_good: Callable[[], int | None],
    glossary: Mapping[str, str],
    project: str | None,
  ):
    self._writer: Writer | Nowhere = Nowhere()
    self._progress: Progress | Nowhere = Nowhere()
    if processes.first():
      self._writer = Writer(path, start_step=start, glossary=glossary, project=project)
      self._progress = Progress(total, start)
    self._log_every, self._total, self._batch_size = log_every, total, batch_size
    self._waited, self._last_good = waited, last_good
    self._start, self._seen, self._lap = start, start, (time.monotonic(), start, 0.0)
    self._rates: dict[str, float] = {}

  def step(self, step: int, metrics: Mapping[str, jax.Array]):
    """Reports the metrics of a step, which may still be under way on the devices; the first, which waits for the
    compiler, is left out of the next rates.

    Raises:
      NonFinite: the loss, the norm of the gradient or that of the parameters after the step is not finite.
    """
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    first, self._seen = self._seen == self._start, step
    broken = [k for k in ('loss', 'grad_norm', 'param_norm') if not math.isfinite(values.get(k, 0.0))]
    if broken:
      self._writer.write(step, values)
      good = self._last_good()
      raise NonFinite(
        f'{broken[0]} is {values[broken[0]]} at step {step}; last good checkpoint: '
        f'{"none" if good is None else f"step {good}"}; metrics of the step: {values}'
      )
    if step % self._log_every == 0 or step == self._total:
      self._rates = self._measure(step)
      self._writer.write(step, values | self._rates)
    self._progress.update(step, values | self._rates)
    if first:
      self.pause()

  def _measure(self, step: int) -> dict[str, float]:
    (then, since, waited), now = self._lap, (time.monotonic(), step, self._waited())
    self._lap = now
    seconds = max(now[0] - then, 1e-9)
    rate = (step - since) / seconds
    share = (now[2] - waited) / seconds
    return {'steps_per_second': rate, 'examples_per_second': rate * self._batch_size, 'wait_share': share}

  def pause(self):
    """Leaves what was done since (an evaluation, a checkpoint), and the steps before it, out of the next rates."""
    self._lap = (time.monotonic(), self._seen, self._waited())

  def scores(self, step: int, scores: Mapping[str, float]):
    """Reports the scores of an evaluation; the line has accuracies and `HEADLINE`, or else the first few."""
    self._writer.write(step, scores)
    shown = {k: v for k, v in scores.items() if k in HEADLINE or re.fullmatch('[^/]+/accuracy', k)}
    told = shown or dict(itertools.islice(scores.items(), FEW))
    self.message(f'step {step}: ' + '  '.join(f'{k} {v:.4g}' for k, v in told.items()))

  def message(self, text: str):
    """Prints a line."""
    self._progress.message(text)

  def close(self):
    """Ends the progress display and flushes the files."""
    self._progress.close()
    self._writer.close()
