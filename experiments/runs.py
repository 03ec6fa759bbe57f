"""Runs of a study: trained by the package as a user would, kept in a folder, read again where they are finished."""

import json
import pathlib

import numpy as np

from contrastive_jax.engine import loop, resolve, setup, workdir

ROOT = pathlib.Path(__file__).parents[1]
_COMPILED: dict[str, setup.Run] = {}
LAST_STEP = {'train__eval_every': 1_000_000, 'train__report': False}  # overrides: scores of the last step alone


def train(config: str, path: pathlib.Path, **overrides) -> dict[str, float]:
  """The last scores of a config's run in `path`, which is trained, continued, or only read; '__' stands for '.'."""
  texts = {key.replace('__', '.'): str(value) for key, value in overrides.items()}
  resolved = resolve.load(str(ROOT / 'configs' / config), texts)
  run = _compiled(resolved, setup.build(resolved))
  run.check()
  print(f'{path.name}:', flush=True)
  return loop.fit(run, workdir.enter(str(path), resolved, run.sources))


def _compiled(config, run: setup.Run) -> setup.Run:
  """The run with what an earlier one has compiled that differs in numbers alone, which are inputs of its step."""
  rest = json.loads(config.to_json())
  del rest['seed']
  for path in setup.NUMBERS:
    section, key = path.split('.')
    rest[section].pop(key, None)
  first = _COMPILED.setdefault(json.dumps(rest, sort_keys=True), run)
  return run._replace(step=first.step, embedder=first.embedder.of_seed(run.seed))


def spread(values: np.ndarray, digits: int = 3) -> str:
  """Mean ± standard deviation over seeds."""
  return f'{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}'
