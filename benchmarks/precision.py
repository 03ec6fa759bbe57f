"""Errors of each precision of the products against float64: `python -m benchmarks.precision`.

Writes results/precision_BACKEND.md and .png. The table says how an error is defined.
"""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import app, flags, logging

from benchmarks import machine, references
from benchmarks.contenders import BIAS, Case, case

_SIZES = flags.DEFINE_list('sizes', ['1024', '4096'], 'Batch sizes B.')
_TEMPERATURES = flags.DEFINE_list('temperatures', ['0.5', '0.1', '0.07', '0.01'], 'Temperatures.')
_DIM = flags.DEFINE_integer('dim', 256, 'Width D of the embeddings.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results', 'Where the table and the plot are written.')

MODES = ('float32', 'bfloat16', 'bfloat16_3x')
REFERENCES: dict[str, Callable] = {
  'symmetric InfoNCE': references.symmetric,
  'NT-Xent, two views': references.nt_xent,
  'sigmoid': references.sigmoid,
}
COLUMNS = ('B', 'temperature', 'precision', 'of value', 'of gradient', 'mean of entries', 'maximum of entries')
DEFINITION = """\
Compared are the mean of the loss over its anchors and its gradient with respect to both sides, in tiles
(`fold=chunked()`), with the same in NumPy in float64 on the same float32 rows. Rows are random and unit, a row and its
partner have a cosine of about 0.3.

- of value: |v - w| / |w| of the value v, where w is that of float64.
- of gradient: ‖g - h‖ / ‖h‖ over all entries of the gradient g of both sides, where h is that of float64.
- mean and maximum of entries: of |g - h|, divided by the root mean square of the entries of h.\
"""


class Errors(NamedTuple):
  """Relative errors, as `DEFINITION` says."""

  value: float
  gradient: float
  mean: float
  maximum: float


class Entry(NamedTuple):
  """One row of the table."""

  loss: str
  b: int
  temperature: float
  mode: str
  errors: Errors


def errors(true, value, gradients) -> Errors:
  """Of a value and the gradients of two sides; `true` are those of the reference."""
  exact = np.concatenate(true[1:])
  off = np.concatenate([np.asarray(g, np.float64) for g in gradients]) - exact
  size = np.sqrt(np.square(exact).mean())
  norm = np.sqrt(np.square(off).mean())
  return Errors(
    abs(float(value) / true[0] - 1), *(float(e / size) for e in (norm, np.abs(off).mean(), np.abs(off).max()))
  )


def functions(mode: str) -> dict[str, Callable]:
  """Means of our losses as functions of (x, y, temperature)."""
  import jax.numpy as jnp

  from contrastive_jax import losses

  how = dict(fold=losses.chunked(), precision=mode)
  return {
    'symmetric InfoNCE': lambda x, y, t: losses.symmetric_info_nce(x, y, temperature=t, **how).mean(),
    'NT-Xent, two views': lambda x, y, t: losses.nt_xent(jnp.stack([x, y]), temperature=t, **how).mean(),
    'sigmoid': lambda x, y, t: losses.sigmoid(x, y, temperature=t, bias=BIAS, **how).mean(),
  }


def measure(loss: str, given: Case, temperatures: list[float]) -> list[Entry]:
  """The errors of one loss at one size."""
  import jax

  compiled = {mode: jax.jit(jax.value_and_grad(functions(mode)[loss], (0, 1))) for mode in MODES}
  found = []
  for temperature in temperatures:
    true = references.truth(functools.partial(REFERENCES[loss], temperature=temperature), given)
    for mode in MODES:
      of_mode = errors(true, *compiled[mode](given.x, given.y, temperature))
      found.append(Entry(loss, len(given.x), temperature, mode, of_mode))
  return found


def document(entries: list[Entry], d: int, facts: list[str], plot: str) -> str:
  """The whole Markdown file."""
  lines = [f'# Errors of each precision against float64, D = {d}', '', 'Made by `python -m benchmarks.precision`.']
  lines += ['', DEFINITION, '', *facts, '', f'![Error of the gradient against the temperature]({plot})']
  for loss in REFERENCES:
    lines += [
      '',
      f'## {loss[0].upper()}{loss[1:]}',
      '',
      '| ' + ' | '.join(COLUMNS) + ' |',
      '|--:|--:|---|--:|--:|--:|--:|',
    ]
    for entry in entries:
      if entry.loss == loss:
        numbers = ' | '.join(f'{error:.1e}' for error in entry.errors)
        lines.append(f'| {entry.b:,} | {entry.temperature:g} | {entry.mode} | {numbers} |')
  return '\n'.join(lines) + '\n'


def draw(entries: list[Entry], d: int, path: pathlib.Path):
  """Error of the gradient against the temperature, a panel for each loss."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, len(REFERENCES), figsize=(11, 3.8), sharey=True, layout='constrained')
  sizes, temperatures = sorted({e.b for e in entries}), sorted({e.temperature for e in entries})
  for loss, axis in zip(REFERENCES, axes, strict=True):
    for mode, colour in zip(MODES, ('#08306b', '#d95f02', '#2f7fc1'), strict=True):
      for b, line in zip(sizes, ('--', '-', ':', '-.') * len(sizes), strict=False):
        points = [(e.temperature, e.errors.gradient) for e in entries if (e.loss, e.mode, e.b) == (loss, mode, b)]
        axis.plot(*zip(*points, strict=True), color=colour, ls=line, marker='o', ms=4, label=f'{mode}, B = {b:,}')
    axis.set(title=loss, xlabel='temperature', xscale='log', yscale='log')
    axis.set_xticks(temperatures, [f'{t:g}' for t in temperatures], rotation=45)
    axis.minorticks_off()
    axis.grid(alpha=0.25)
  axes[0].set(ylabel='error of the gradient,\nrelative to its norm in float64')
  figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=len(MODES), frameon=False)
  figure.suptitle(f'D = {d}')
  figure.savefig(path, dpi=130)
  plt.close(figure)


def main(argv):
  """Measures, writes the table and the plot and says where they are."""
  del argv
  logging.set_verbosity(logging.WARNING)
  import jax

  began, load, backend = time.perf_counter(), machine.load(), jax.default_backend()
  entries = []
  for loss in REFERENCES:
    for b in sorted(int(size) for size in _SIZES.value):
      entries += measure(loss, case(b, _DIM.value), [float(t) for t in _TEMPERATURES.value])
      print(f'{loss}, B = {b:,}: {time.perf_counter() - began:.0f} s', flush=True)
  facts = machine.describe(load_before=load)
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  table, plot = folder / f'precision_{backend}.md', folder / f'precision_{backend}.png'
  table.write_text(document(entries, _DIM.value, facts, plot.name))
  draw(entries, _DIM.value, plot)
  print(f'{table}\n{plot}')


if __name__ == '__main__':
  app.run(main)
