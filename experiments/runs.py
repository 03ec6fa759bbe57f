"""Runs of a study: trained by the package as a user would, kept in a folder, read again where they are finished."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from contrastive_jax.data.sources import Source
from contrastive_jax.engine import loop, resolve, serve, setup, workdir
from contrastive_jax.evals.evaluator import Embed

ROOT = pathlib.Path(__file__).parents[1]
_COMPILED: dict[str, setup.Run] = {}
LAST_STEP = {'train__eval_every': 1_000_000, 'train__report': False}  # overrides: scores of the last step alone


class Trained(NamedTuple):
  """A run at its last step."""

  scores: dict[str, float]
  embed: Embed  # what any evaluator can be run on
  params: Any
  sources: dict[str, Source]


def train(config: str, path: pathlib.Path, **overrides) -> dict[str, float]:
  """The last scores of a config's run in `path`, which is trained, continued, or only read; '__' stands for '.'."""
  return _fit(config, path, overrides)[1]


def trained(config: str, path: pathlib.Path, **overrides) -> Trained:
  """The run that `train` trains, to be evaluated further."""
  run, scores = _fit(config, path, overrides)
  params, state, _ = serve.restore(run, path)
  return Trained(scores, run.embedder.at(params, state), params, run.sources)


def _fit(config: str, path: pathlib.Path, overrides) -> tuple[setup.Run, dict[str, float]]:
  texts = {key.replace('__', '.'): str(value) for key, value in overrides.items()}
  resolved = resolve.load(str(ROOT / 'configs' / config), texts)
  run = _compiled(resolved, setup.build(resolved))
  run.check()
  print(f'{path.name}:', flush=True)
  return run, loop.fit(run, workdir.enter(str(path), resolved, run.sources))


def _compiled(config, run: setup.Run) -> setup.Run:
  """The run with what an earlier one has compiled that differs in numbers alone, which are inputs of its step."""
  first = _COMPILED.setdefault(setup.program(config), run)
  return run._replace(step=first.step, embedder=first.embedder.of_seed(run.seed))


def spread(values: np.ndarray, digits: int = 3) -> str:
  """Mean ± standard deviation over seeds."""
  return f'{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}'
