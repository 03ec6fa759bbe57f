"""Runs of a study: trained by the package as a user would, kept in a folder, read again where they are finished."""

import pathlib

import numpy as np

from contrastive_jax.engine import loop, resolve, setup, workdir

ROOT = pathlib.Path(__file__).parents[1]
LAST_STEP = {'train__eval_every': 1_000_000, 'train__report': False}  # overrides: scores of the last step alone


def train(config: str, path: pathlib.Path, **overrides) -> dict[str, float]:
  """The last scores of a config's run in `path`, which is trained, continued, or only read; '__' stands for '.'."""
  texts = {key.replace('__', '.'): str(value) for key, value in overrides.items()}
  resolved = resolve.load(str(ROOT / 'configs' / config), texts)
  run = setup.build(resolved)
  run.check()
  print(f'{path.name}:', flush=True)
  return loop.fit(run, workdir.enter(str(path), resolved, run.sources))


def spread(values: np.ndarray, digits: int = 3) -> str:
  """Mean ± standard deviation over seeds."""
  return f'{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}'
