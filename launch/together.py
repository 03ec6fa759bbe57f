"""Trains runs of a sweep that differ in numbers alone in one process: `python -m launch.together SWEEP NAME NAME ...`.

As one program, if a few steps show that to be faster than one run after another (or with `--always`); else one after
another, with one compiled step for all. What the launcher starts with `--vectorize`.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from contrastive_jax.engine import loop, resolve, setup, together, workdir
from contrastive_jax.types import Refusal
from launch import folder
from launch.folder import Run


def _built(root: pathlib.Path, group: Sequence[Run]) -> tuple[list[setup.Run], list[pathlib.Path]]:
  """The functions of the runs, which read one data set, and their workdirs."""
  built, paths, sources = [], [], None
  for run in group:
    config = resolve.load(run.config, run.overrides)
    sources = setup.sources(config) if sources is None else sources
    built.append(setup.build(config, sources))
    built[-1].check()
    folder.workdir(root, run).parent.mkdir(parents=True, exist_ok=True)
    paths.append(workdir.enter(str(folder.workdir(root, run)), config, sources))
  # Their numbers are inputs: what is compiled for one is for all.
  first = built[0]
  return [each._replace(step=first.step, embedder=first.embedder.of_seed(each.seed)) for each in built], paths


def _pays(built: Sequence[setup.Run], *, always: bool) -> bool:
  """Whether to train the runs as one program, and says why."""
  try:
    together.check(built)
  except Refusal as refusal:
    print(f'one after another: {refusal}', flush=True)
    return False
  if always:
    return True
  apart, at_once = together.seconds(built)
  faster = at_once < apart
  how = 'as one program' if faster else 'one after another'
  print(
    f'a step of {len(built)} runs takes {1000 * apart:.3g} ms one after another, {1000 * at_once:.3g} ms as one '
    f'program: {how}',
    flush=True,
  )
  return faster


def _one_after_another(built: Sequence[setup.Run], paths: Sequence[pathlib.Path]):
  """What has come of each run; a signal ends all."""
  for run, path in zip(built, paths, strict=True):
    try:
      yield loop.fit(run, path)
    except Exception as error:
      yield error


def main(argv: Sequence[str]) -> int:
  """Trains the runs; a run that fails says so in its state, and does not keep the others from going on."""
  parser = argparse.ArgumentParser('python -m launch.together', description=(__doc__ or '').partition('\n')[0])
  parser.add_argument('sweep', type=pathlib.Path)
  parser.add_argument('names', nargs='+')
  parser.add_argument('--always', action='store_true', help='as one program, whatever is faster')
  given = parser.parse_args(argv)
  known = {run.name: run for run in folder.runs(given.sweep)}
  group = [known[name] for name in given.names]
  built, paths = _built(given.sweep, group)
  pays = _pays(built, always=given.always)
  ended = together.fit(built, paths) if pays else _one_after_another(built, paths)
  code = 0
  for run, found in zip(group, ended, strict=True):
    if isinstance(found, SystemExit):  # asked to stop, and saved
      continue
    if isinstance(found, BaseException):
      reason = ' '.join(f'{type(found).__name__}: {found}'.split())
      print(f'{run.name} has failed: {reason}', flush=True)
      folder.write_state(given.sweep, run, folder.state(given.sweep, run)._replace(state='failed', reason=reason))
      code = 1
    else:
      print(f'{run.name}: ' + ', '.join(f'{name} {value:.4f}' for name, value in sorted(found.items())), flush=True)
  return code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
