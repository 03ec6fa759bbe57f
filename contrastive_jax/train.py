"""Trains an encoder: `python -m contrastive_jax.train --config=configs/ssl/simclr.py --workdir=runs/simclr`."""

import os
import pathlib
import time

from absl import flags

from contrastive_jax.engine import command

_PROFILE = flags.DEFINE_bool('profile', False, 'Write a profile of a few steps to WORKDIR/profile.')


def main(config, workdir: str):
  """Trains, or continues, the config's run in `workdir`."""
  from contrastive_jax.engine import loop, measured, metrics, processes, setup
  from contrastive_jax.engine.warmstart import warm_start
  from contrastive_jax.engine.workdir import CONFIG

  run = setup.build(config)
  run.check()
  if run.options.init_from is not None and not os.path.exists(os.path.join(workdir, CONFIG)):
    warm_start(run.fresh(), run.options.init_from, run.options.init_skip)  # what it refuses, it refuses here
  if run.options.wandb is not None:
    metrics.weights_and_biases()  # it is refused before anything is written
  path = _entered(workdir, config, run.sources)
  if processes.first():
    _say_if_random(config)
  planned, began = measured.before(run, path), time.time()
  scores = loop.fit(run, path, profile=_PROFILE.value)
  measured.after(planned, path, began)
  if not processes.first():
    return
  for name, value in sorted(scores.items()):
    print(f'{name:32s} {value:.4f}')


def _say_if_random(config):
  """What is never trained should have been loaded, or else is a random function: a control, or an oversight."""
  locked = [regex for regex, rate in config.optimiser.get('rates', ()) if rate == 0]
  if locked and config.train.get('init_from') is None:
    print(
      f'note: config.optimiser.rates never trains {" and ".join(locked)}, and config.train.init_from loads nothing: '
      'that stays as random as it starts'
    )


def _entered(workdir: str, config, sources) -> pathlib.Path:
  """The directory of the run, which can be written."""
  from contrastive_jax.engine.workdir import enter
  from contrastive_jax.types import Refusal

  try:
    path = enter(workdir, config, sources)
  except OSError as error:
    raise Refusal(f"workdir '{workdir}' cannot be used: {error}") from None
  if not os.access(path, os.W_OK | os.X_OK):
    raise Refusal(f"workdir '{workdir}' cannot be written: permission is missing")
  return path


def run():
  """The console script."""
  command.run(main)


if __name__ == '__main__':
  run()
