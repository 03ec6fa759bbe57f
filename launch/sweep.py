"""Trains one config in many settings: `python -m launch.sweep --config=FILE --sweep=KEY=A,B --seeds=3 --workdir=DIR`.

The same command continues a sweep that was stopped or has failed runs, and starts what is missing. Exit code 0: all
runs are finished (or submitted); 1: some are not; 2: the command cannot be used; 130: stopped, all runs are saved.
"""

import argparse
import pathlib
import shlex
import sys

from contrastive_jax.engine.command import split_overrides
from contrastive_jax.types import Refusal
from launch import definition, folder, local, machine
from launch.display import duration
from launch.folder import Run, State


def arguments(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
  """The flags, and the overrides of all runs."""
  rest, overrides = split_overrides(argv)
  about = __doc__ or ''
  parser = argparse.ArgumentParser(
    'python -m launch.sweep', description=about.partition('\n')[0], epilog=about.partition('\n')[2], allow_abbrev=False
  )
  add = parser.add_argument
  add('--config', help='config file of all runs, FILE.py or FILE.py:VARIANT; --config.KEY=VALUE sets a key for all')
  add(
    '--sweep', action='append', default=[], metavar='KEY=A,B', help='values of a key, config.method.temperature=0.1,1'
  )
  add('--sweep_file', metavar='FILE', help='Python file whose get_sweep() yields settings (see launch/space.py)')
  add('--seeds', type=int, metavar='N', help='every setting with config.seed 0 to N-1')
  add('--workdir', required=True, help='folder of the sweep')
  add('--dry_run', action='store_true', help="print commands and the planner's estimate, start nothing")
  add('--where', choices=('local', 'slurm'), default='local', help='this machine, or jobs of SLURM')
  add('--at_once', type=int, metavar='N', help='runs at a time; default: one a GPU, else one a core')
  add('--memory', type=float, metavar='GB', help='that each run may ask for at most')
  add(
    '--vectorize',
    choices=('faster', 'always'),
    nargs='?',
    const='faster',
    metavar='always',
    help='train runs that differ in seed, temperature and learning rate alone as one program, where that is faster',
  )
  add('--search', type=int, metavar='N', help='N trials that Optuna proposes, in the get_space() of --sweep_file')
  add('--score', default='linear/accuracy', help='that the search is for')
  add('--lowest_first', action='store_true', help='of that score less is better')
  of_slurm = parser.add_argument_group('with --where=slurm')
  add = of_slurm.add_argument
  add('--minutes', type=int, default=60, help='time limit of a job, after which it is queued again and continues')
  add('--requeues', type=int, default=10, help='how often it may reach that limit')
  add('--save_seconds', type=int, default=90, help='that a run has to save before the limit')
  add('--nodes', type=int, default=1, help='nodes of each run')
  add('--tasks', type=int, default=1, help='processes of each run on each node')
  add('--cpus', type=int, help='cores of each process')
  add('--gpus', type=int, help='GPUs of each node')
  add('--partition', help='of SLURM')
  add('--slurm', action='append', default=[], metavar='OPTION=VALUE', help='any other option of sbatch, account=lab')
  add('--wait', action='store_true', help='stay until all runs have ended')
  return parser.parse_args(rest), overrides


def main(argv: list[str]) -> int:
  """Runs the command; returns its exit code.

  Raises:
    Refusal: it cannot be used; nothing has been started or written.
  """
  given, overrides = arguments(argv)
  root = pathlib.Path(given.workdir)
  if not given.dry_run:
    definition.on_cpu()
  common = definition.common(given.sweep_file, overrides)
  if given.search is not None:
    return _searched(root, given, common)
  found = definition.settings(given.sweep_file, given.sweep, given.seeds)
  wanted = definition.checked(definition.runs(found, given.config, common))
  folder.merged(root, wanted)
  if given.dry_run:
    _rehearse(root, wanted, given)
    return 0
  if given.where == 'slurm':
    from launch import slurm

    return slurm.sweep(root, wanted, given)
  return _here(root, wanted, given)


def _here(root: pathlib.Path, wanted: list[Run], given: argparse.Namespace) -> int:
  """Trains on this machine what is not finished."""
  slots = machine.slots(given.at_once, given.memory)
  try:
    with folder.launching(root) as held:
      folder.write_manifest(root, folder.merged(root, wanted))
      due = [run for run in wanted if not _done(root, run)]
      print(f'{len(wanted)} runs, {len(wanted) - len(due)} finished before; {len(slots)} at a time', flush=True)
      groups = definition.alike(due) if given.vectorize else None
      states, stopped = local.train(root, due, slots, held=held, groups=groups, always=given.vectorize == 'always')
  except OSError as error:
    raise Refusal(f"workdir '{root}' cannot be used: {error}") from None
  return summary(root, wanted, states, stopped=stopped)


def _searched(root: pathlib.Path, given: argparse.Namespace, common: dict[str, str]) -> int:
  from launch import search

  if given.dry_run or given.where != 'local' or given.sweep or given.seeds:
    raise Refusal('--search proposes settings as it learns: no --dry_run, --where=slurm, --sweep or --seeds with it')
  try:
    trials, stopped = search.search(root, given, common)
  except OSError as error:
    raise Refusal(f"workdir '{root}' cannot be used: {error}") from None
  return summary(root, trials, {}, stopped=stopped)


def _done(root: pathlib.Path, run: Run) -> bool:
  return folder.state(root, run).state == 'finished' and folder.finished(root, run)


def summary(root: pathlib.Path, wanted: list[Run], states: dict[str, State], *, stopped: bool = False) -> int:
  """Makes the report, says how the runs stand, those that have failed last; returns the exit code."""
  now = {run.name: states.get(run.name) or folder.state(root, run) for run in wanted}
  if any(each.state == 'finished' for each in now.values()):
    from launch import report

    try:
      print(f'\n{report.build(root)}\nreport: {root / report.PAGE}')
    except OSError as error:
      print(f'the report cannot be written: {error}')
  print(folder.counts(now))
  failed = [run for run in wanted if now[run.name].state == 'failed']
  for run in failed:
    print(f'failed: {run.name}: {now[run.name].reason}\n        {folder.log(root, run)}')
  sys.stdout.flush()
  if stopped:
    return 130
  return 1 if any(each.state in ('failed', 'stopped') for each in now.values()) else 0


def _rehearse(root: pathlib.Path, wanted: list[Run], given: argparse.Namespace):
  """Prints what would be started, and the least that it will take."""
  due = [run for run in wanted if not _done(root, run)]
  for group in definition.alike(due) if given.vectorize else [[run] for run in due]:
    command = (
      local.command(root, group[0])
      if len(group) == 1
      else local.together(root, group, always=given.vectorize == 'always')
    )
    print(shlex.join(['python', *command[1:]]))
  at_once = len(machine.slots(given.at_once, given.memory)) if given.where == 'local' else 1
  print(f'\n{len(wanted)} runs, {len(wanted) - len(due)} finished before; {at_once} at a time')
  total = 0.0
  for group, planned in definition.estimates(due):
    of_group = planned.step.seconds * sum(run.steps for run in group)
    total += of_group
    print(
      f'{len(group)} like {group[0].name}: {group[0].steps} steps of {planned.batch} x {planned.views} views, '
      f'at least {1000 * planned.step.seconds:.3g} ms each'
    )
  print(
    f'at least {duration(total)} of this machine in all: the products of the steps alone, at the rate measured now '
    f'(small encoders on a CPU take 3 to 4 times as long); starting, compiling and evaluating come on top'
  )


def run():
  """The command."""
  try:
    code = main(sys.argv[1:])
  except Refusal as refusal:
    print('error: ' + ' '.join(str(refusal).split()), file=sys.stderr)
    code = 2
  sys.exit(code)


if __name__ == '__main__':
  run()
