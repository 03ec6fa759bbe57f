"""What a config will cost and what fits: `python -m contrastive_jax.plan --config=configs/ssl/simclr.py --measure`."""

from absl import flags

from contrastive_jax.engine import command

_MEMORY = flags.DEFINE_float('memory', None, 'GB that a device may use; default: what it says, on a CPU what is free.')
_MEASURE = flags.DEFINE_bool('measure', False, 'Run the loss and a few steps too, and compare.')


def main(config, workdir: str | None):
  """Prints the plan of a config, or of the run in `workdir`; nothing is written."""
  import jax

  from contrastive_jax.engine import measured, plan, processes, setup
  from contrastive_jax.types import Refusal

  del workdir  # its config has been read
  if _MEMORY.value is not None and not _MEMORY.value > 0:
    raise Refusal(f'--memory must be a positive number of GB, but it is {_MEMORY.value}')
  if _MEASURE.value and jax.process_count() > 1:
    raise Refusal('--measure is for one process: several would measure for different times, and wait for each other')
  run = setup.build(config)
  run.check()
  fold = config.method.get('fold')
  name = fold if fold is None or isinstance(fold, str) else fold['name']
  made = plan.make(run, None if _MEMORY.value is None else 1e9 * _MEMORY.value, fold=name)
  if processes.first():
    print(plan.as_text(made), flush=True)
  if _MEASURE.value:
    print(measured.as_text(made, measured.measure(run)))


def run():
  """The console script."""
  command.run(main, config_from_workdir=True, needs_workdir=False)


if __name__ == '__main__':
  run()
