"""The whole training step of a config, part by part, and views on the device against views by PIL on the host.

    python -m benchmarks.steps --config=configs/ssl/simclr.py [--config.KEY=VALUE ...]

Writes results/steps_CONFIG_BACKEND.md. README.md says how the parts are counted.
"""

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from absl import app, flags, logging

from benchmarks import host_views, machine, measure
from benchmarks.measure import Times
from contrastive_jax.engine.command import split_overrides

_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results', 'Where the table is written.')
_STEPS = flags.DEFINE_integer('steps', 60, 'Steps of the loop in which waiting for data is measured.')
_BUDGET = flags.DEFINE_float('budget', 20.0, 'Seconds of repeats of the parts, and of the views of each size.')

# (side of the source image, side of the view, images at once)
VIEWS = ((32, 32, 512), (256, 224, 32))


class Step(NamedTuple):
  """What was found of a step."""

  parts: dict[str, Times]
  first: float  # seconds of the first step, compilation included
  compilation: float  # the same, less a step
  waited: float  # share of the loop's time in which it waited for data
  rate: float  # examples/s of the loop


class _Training:
  """A run whose train state each step consumes."""

  def __init__(self, run):
    self.run, self.state = run, run.fresh()

  def step(self, raw):
    """One step, waited for."""
    import jax

    self.state, metrics = self.run.step(self.state, raw)
    jax.block_until_ready(metrics)


def _parts(run, state, raw) -> dict[str, Callable]:
  """Parts of the step as programs of their own, compiled and warm."""
  import jax
  import jax.numpy as jnp

  from contrastive_jax.engine.gradient import step_keys

  keys, method = step_keys(state.numbers['seed'], state.step), run.method

  def views(raw):
    return run.expand(raw, state.numbers['seed'], state.step)

  def encode(params, batch):
    return method.encode(params, state.state, batch, key=keys.encode, step=state.step, train=True)[0]

  def encode_and_back(params, batch, cotangent):
    return jax.vjp(lambda p: encode(p, batch), params)[1](cotangent)

  def loss(params, features, batch):
    def objective(params, features):
      return method.loss(params, state.state, features, batch, key=keys.loss, step=state.step).loss

    return jax.value_and_grad(objective, (0, 1))(params, features)

  batch = jax.jit(views)(raw)
  features = jax.jit(encode)(state.params, batch)
  cotangent = jax.tree.map(jnp.ones_like, features)
  # A loss may read anything of the batch but the views.
  rest = {k: x for k, x in batch.items() if not k.startswith('view_')}

  def ready(function, *arguments):
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    return lambda: jax.block_until_ready(compiled(*arguments))

  return {
    'views': ready(views, raw),
    'encoder, forward': ready(encode, state.params, batch),
    'encoder, forward and backward': ready(encode_and_back, state.params, batch, cotangent),
    'loss, value and gradient': ready(loss, state.params, features, rest),
  }


def _loop(training: _Training, steps: int) -> tuple[float, float]:
  """(share of time waited for data, examples/s) of a loop that fetches and steps as training does."""
  import jax

  from contrastive_jax.data.pipeline import Batches
  from contrastive_jax.engine.state import batch_sharding

  run, warm = training.run, 5  # steps until the first batches have been read ahead
  batches = Batches(
    run.sources['train'],
    seed=run.seed,
    batch_size=run.batch_size,
    start=0,
    stop=warm + steps,
    put=lambda batch: jax.device_put(batch, batch_sharding(run.mesh)),
  )
  before = began = 0.0
  for step, raw in batches:
    if step == warm:
      before, began = batches.waited, time.perf_counter()
    training.step(raw)
  taken = time.perf_counter() - began
  return (batches.waited - before) / taken, steps * run.batch_size / taken


def measure_step(config) -> Step:
  """Times the step of a completed config, its parts and its loop."""
  import jax

  from contrastive_jax.data.pipeline import sweep
  from contrastive_jax.engine import setup
  from contrastive_jax.engine.state import batch_sharding

  run = setup.build(config)
  raw = jax.device_put(next(sweep(run.sources['train'], batch_size=run.batch_size)), batch_sharding(run.mesh))
  training = _Training(run)
  first = measure.seconds(lambda: training.step(raw))
  training.step(raw)
  runs = {'whole step': lambda: training.step(raw), **_parts(run, run.fresh(), raw)}
  parts = measure.interleaved(runs, budget=_BUDGET.value, least=5, most=50)
  return Step(parts, first, first - parts['whole step'].median, *_loop(training, _STEPS.value))


def measure_views(source: int, side: int, n: int) -> dict[str, Times]:
  """Times two SimCLR views each of n images: compiled for the device, and by PIL in a process for each core."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from contrastive_jax.data import views

  pixels = np.random.default_rng(0).integers(0, 256, (n, source, source, 3), np.uint8)
  preset = views.simclr(mean=(0.5,) * 3, std=(0.25,) * 3, image_size=side)
  batch = {'image': jnp.asarray(pixels), 'index': jnp.arange(n)}
  expand = jax.jit(lambda batch: views.expand(batch, preset, num_views=2, seed=0, step=0)).lower(batch).compile()
  on_host, end = host_views.pipeline(pixels, side, 2, machine.cores())
  runs = {'device': lambda: jax.block_until_ready(expand(batch)), 'host': on_host}
  for run in runs.values():
    run()
  times = measure.interleaved(runs, budget=_BUDGET.value / 2, least=5, most=30)
  end()
  return times


def _rows_of_step(step: Step) -> list[str]:
  whole = step.parts['whole step'].median
  forward, both = (step.parts[f'encoder, {name}'].median for name in ('forward', 'forward and backward'))
  seconds = {
    'views': step.parts['views'].median,
    'encoder, forward': forward,
    'encoder, backward': both - forward,
    'loss, value and gradient': step.parts['loss, value and gradient'].median,
  }
  seconds['optimiser and the rest'] = whole - sum(seconds.values())
  rows = [f'| {name} | {1e3 * s:.2f} | {s / whole:.1%} |' for name, s in seconds.items()]
  times = step.parts['whole step']
  spread = f'{1e3 * times.median:.2f} ({1e3 * times.low:.2f} to {1e3 * times.high:.2f}, {times.count} rounds)'
  return ['| part | ms | share of the step |', '|---|--:|--:|', *rows, f'| **whole step** | {spread} | |']


def document(name: str, config, step: Step, of_views: Mapping[tuple, dict[str, Times]], facts: list[str]) -> str:
  """The whole Markdown file."""
  encoder = ', '.join(f'{k}={v}' for k, v in config.encoder.items())
  lines = [
    f'# A training step of {name}',
    '',
    'Made by `python -m benchmarks.steps`; README.md beside this folder says how the parts are counted.',
    '',
    *facts,
    '',
    f'Batch {config.data.batch_size} of {config.data.source.name}, {config.data.num_views} views, encoder {encoder}.',
    '',
    *_rows_of_step(step),
    '',
    f'- waiting for data: {step.waited:.2%} of the time of the loop, which trains {step.rate:,.0f} examples/s',
    f'- first step {step.first:.1f} s, of which compilation {step.compilation:.1f} s',
    '',
    '## SimCLR views per second',
    '',
    f'Two views of each image; PIL in {machine.cores()} processes, one for each core.',
    '',
    '| image | view | on the device | by PIL on the host | ratio |',
    '|--:|--:|--:|--:|--:|',
  ]
  for (source, side, n), times in of_views.items():
    device, host = (2 * n / times[where].median for where in ('device', 'host'))
    lines.append(f'| {source} | {side} | {device:,.0f} | {host:,.0f} | {device / host:.2f} |')
  return '\n'.join(lines) + '\n'


def main(config_path: str, overrides: Mapping[str, str]):
  """Measures and writes the table."""
  import jax

  from contrastive_jax.engine import resolve

  logging.set_verbosity(logging.WARNING)  # JAX tells which backends it did not find

  load = machine.load()
  config = resolve.load(config_path, overrides)
  step = measure_step(config)
  of_views = {shape: measure_views(*shape) for shape in VIEWS}
  name = pathlib.Path(config_path.partition(':')[0]).stem
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f'steps_{name}_{jax.default_backend()}.md'
  path.write_text(document(name, config, step, of_views, machine.describe(load_before=load)))
  print(path.read_text() + f'\n{path}')


def run():
  """The command: --config, overrides, and the flags above."""
  overrides: dict[str, str] = {}

  def parse(argv):
    rest, found = split_overrides(argv)
    overrides.update(found)
    return flags.FLAGS(rest)

  app.run(lambda _: main(flags.FLAGS.config or 'configs/ssl/simclr.py', overrides), flags_parser=parse)


if __name__ == '__main__':
  run()
