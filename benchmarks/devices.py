"""Whole losses on one device and on several, the same work: `python -m benchmarks.devices`.

Writes results/devices_BACKEND.md. README.md says what is compared.
"""

import pathlib

from absl import app, flags, logging

from benchmarks import machine, measure
from benchmarks.contenders import TEMPERATURE, case

_DEVICES = flags.DEFINE_integer('devices', 8, 'How many; on a CPU they are simulated.')
_SIZE = flags.DEFINE_integer('size', 8192, 'Batch size B, over all devices.')
_DIM = flags.DEFINE_integer('dim', 256, 'Width D of the embeddings.')
_BUDGET = flags.DEFINE_float('budget', 20.0, 'Seconds of repeats for each loss.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results', 'Where the table is written.')


def _losses(fold):
  """Scalar functions of (x, y)."""
  import jax.numpy as jnp

  from contrastive_jax import losses

  how = dict(temperature=TEMPERATURE, fold=fold)
  return {
    'symmetric InfoNCE': lambda x, y: losses.symmetric_info_nce(x, y, **how).mean(),
    'NT-Xent, two views': lambda x, y: losses.nt_xent(jnp.stack([x, y]), **how).mean(),
    'sigmoid': lambda x, y: losses.sigmoid(x, y, **how).mean(),
  }


def _program(loss, sides):
  """(a call that waits for value and gradients, bytes of temporaries on each device)."""
  import jax

  compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*sides).compile()
  run = lambda: jax.block_until_ready(compiled(*sides))  # noqa: E731
  run()
  return run, compiled.memory_analysis().temp_size_in_bytes


def main(argv):
  """Measures, writes the table and says where it is."""
  del argv
  logging.set_verbosity(logging.WARNING)
  import jax
  from jax.sharding import AxisType, NamedSharding, PartitionSpec

  from contrastive_jax import losses

  jax.config.update('jax_num_cpu_devices', _DEVICES.value)
  load, backend = machine.load(), jax.default_backend()
  mesh = jax.make_mesh((_DEVICES.value,), ('data',), axis_types=(AxisType.Auto,))
  given = tuple(case(_SIZE.value, _DIM.value))
  several = jax.device_put(given, NamedSharding(mesh, PartitionSpec('data')))
  folds = {'one': losses.chunked(), 'ring': losses.ring(), 'auto': 'auto'}
  placed = {'one': jax.device_put(given), 'ring': several, 'auto': several}
  functions = {how: _losses(fold) for how, fold in folds.items()}
  lines = []
  for name in functions['one']:
    made = {how: _program(functions[how][name], placed[how]) for how in folds}
    times = measure.interleaved({how: run for how, (run, _) in made.items()}, budget=_BUDGET.value)
    for how in ('ring', 'auto'):
      both = ' | '.join(f'{t.median:.3f} ({t.low:.3f} to {t.high:.3f})' for t in (times['one'], times[how]))
      memory = ' | '.join(f'{made[which][1] / 1e6:.0f} MB' for which in ('one', how))
      lines.append(f'| {name} | {how} | {both} | {times[how].median / times["one"].median:.2f} | {memory} |')
      print(lines[-1], flush=True)
  facts = machine.describe(load_before=load)
  count = _DEVICES.value
  head = f'| loss | fold | 1 device, seconds | {count} devices, seconds | ratio | temporaries, 1 | temporaries, each |'
  title = f'# Value and gradient on 1 and {_DEVICES.value} devices, B = {_SIZE.value:,}, D = {_DIM.value}'
  made_by = 'Made by `python -m benchmarks.devices`; README.md beside this folder says what is compared.'
  text = '\n'.join([title, '', made_by, '', *facts, '', head, '|---|---|---|---|--:|--:|--:|', *lines, ''])
  path = pathlib.Path(_OUTPUT.value, f'devices_{backend}.md')
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  print(path)


if __name__ == '__main__':
  app.run(main)
