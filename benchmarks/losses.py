"""Value and gradient of losses, ours and others', side by side: `python -m benchmarks.losses`.

Writes results/losses_BACKEND.md and .png. README.md says what is compared and how it is counted.
"""

import os
import pathlib
import time

from absl import app, flags, logging

from benchmarks import compare, machine, tables
from benchmarks.compare import Bounds

_SIZES = flags.DEFINE_list('sizes', None, 'Batch sizes B; default 256 to 16k on a CPU, 4k to 1M on a GPU.')
_DIM = flags.DEFINE_integer('dim', 256, 'Width D of the embeddings.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results', 'Where the table and the plot are written.')
_MEMORY = flags.DEFINE_float('memory', None, 'GB that one call may take; default 12 if there are, or half of a GPU.')
_PATIENCE = flags.DEFINE_float('patience', 12.0, 'Seconds above which a call is not tried.')
_BUDGET = flags.DEFINE_float('budget', 12.0, 'Seconds of repeats for each loss and size; at least three are run.')
_LOSSES = flags.DEFINE_list('losses', ['symmetric', 'nt_xent', 'sigmoid'], 'Which are compared.')
_ONLY = flags.DEFINE_multi_string('only', None, 'Name of a contender that is run, again for more; default all.')
flags.register_validator(
  'losses', lambda names: set(names) <= {'symmetric', 'nt_xent', 'sigmoid'}, 'symmetric, nt_xent and sigmoid are known'
)
flags.register_validator(
  'sizes',
  lambda sizes: sizes is None or all(size.isdecimal() for size in sizes),
  'sizes are integers: --sizes=1024,4096',
)

SIZES = {'cpu': (256, 1024, 2048, 4096, 8192, 16384), 'gpu': (4096, 16384, 65536, 262144, 1048576)}


def _sizes(name: str, backend: str) -> list[int]:
  """Batch sizes of a loss, ascending. The largest default is for the symmetric loss: others would double the time."""
  if _SIZES.value is not None:
    return sorted(int(size) for size in _SIZES.value)
  default = SIZES.get(backend, SIZES['gpu'])
  return list(default if name == 'symmetric' else default[:-1])


def _chosen(study: compare.Study) -> compare.Study:
  if _ONLY.value is None:
    return study
  chosen = tuple(c for c in study.contenders if c.name in _ONLY.value)
  if not chosen:
    raise app.UsageError(f'--only names no contender; there are {", ".join(c.name for c in study.contenders)}')
  return study._replace(contenders=chosen)


def _room(backend: str) -> float:
  """Bytes that one call may take; half of a GPU, of which two libraries keep what they once took."""
  import jax

  if _MEMORY.value is not None:
    return _MEMORY.value * 1e9
  if backend == 'cpu':
    return min(12e9, 0.8 * machine.available())
  return 0.5 * (jax.devices()[0].memory_stats() or {}).get('bytes_limit', 16e9)


def _write(blocks: dict[str, list[compare.Block]], facts: list[str], backend: str):
  """The table and the plot of all that was measured so far."""
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  table, plot = folder / f'losses_{backend}.md', folder / f'losses_{backend}.png'
  table.write_text(tables.document(blocks, _DIM.value, facts, plot.name))
  tables.plot(blocks, _DIM.value, facts, plot)
  print(f'{table}\n{plot}', flush=True)


def main(argv):
  """Measures; writes the table and the plot and says where they are."""
  del argv
  logging.set_verbosity(logging.WARNING)  # JAX tells which backends it did not find
  # PyTorch needs its part of a GPU too.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  import jax

  began, load = time.perf_counter(), machine.load()
  backend = jax.default_backend()
  known = compare.studies()
  bounds, edge = Bounds(_room(backend), _PATIENCE.value, _BUDGET.value), 2048 if backend == 'cpu' else 8192
  blocks: dict[str, list[compare.Block]] = {}
  for name in _LOSSES.value:
    study, before = _chosen(known[name]), {}
    for b in _sizes(name, backend):
      block = compare.compare(study, b, _DIM.value, edge, bounds, before)
      blocks.setdefault(study.title, []).append(block)
      print(f'{study.title}, B = {b:,}', flush=True)
      for entry in block.entries:
        print(f'  {entry.contender.name:42s} {entry.note or f"{entry.times.median:.4f} s"}', flush=True)
    facts = machine.describe(load_before=load, peers=True)
    facts.append(f'- took {(time.perf_counter() - began) / 60:.1f} minutes')
    # After each loss, so that a run that is cut short leaves what it found.
    _write(blocks, facts, backend)


if __name__ == '__main__':
  app.run(main)
