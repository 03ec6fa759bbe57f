"""Trains an encoder: `python -m contrastive_jax.train --config=configs/ssl/simclr.py --workdir=runs/simclr`."""

import pathlib

from absl import flags

from contrastive_jax.engine import command

_PROFILE = flags.DEFINE_bool('profile', False, 'Write a profile of a few steps to WORKDIR/profile.')


def main(config, workdir: str):
  """Trains, or continues, the config's run in `workdir`."""
  from contrastive_jax.engine import loop, processes, setup
  from contrastive_jax.engine.warmstart import warm_start
  from contrastive_jax.engine.workdir import CONFIG, enter

  run = setup.build(config)
  run.check()
  if run.options.init_from and not pathlib.Path(workdir, CONFIG).exists():
    warm_start(run.fresh(), run.options.init_from, run.options.init_skip)  # what it refuses, it refuses here
  scores = loop.fit(run, enter(workdir, config, run.sources), profile=_PROFILE.value)
  if not processes.first():
    return
  for name, value in sorted(scores.items()):
    print(f'{name:32s} {value:.4f}')


def run():
  """The console script."""
  command.run(main)


if __name__ == '__main__':
  run()
