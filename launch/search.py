"""Guided search: settings that Optuna proposes from those that have been trained before.

`get_space()` of the sweep file says what may be varied, `{'config.method.temperature': log_uniform(0.05, 1)}`. Trials
are runs like any others: they are named by their settings, kept in the manifest in the order in which they were
proposed, and a search that is started again learns from those that are there.
"""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

from contrastive_jax.types import Refusal
from launch import definition, folder, local, machine, space
from launch.folder import Run
from launch.space import Choice, Range, Setting


def search(root: pathlib.Path, given: argparse.Namespace, common: Mapping[str, str]) -> tuple[list[Run], bool]:
  """Trains so many trials, a few at a time; returns all runs of the search, and whether a signal has stopped it.

  Raises:
    Refusal: Optuna is not installed, or the file has no space that it can search.
  """
  optuna = _optuna()
  keys = definition.called(given.sweep_file, 'get_space', dict) if given.sweep_file else None
  if not keys or not all(isinstance(options, Range | Choice) for options in keys.values()):
    raise Refusal('--search needs a --sweep_file whose get_space() returns ranges by key (see launch/space.py)')
  slots = machine.slots(given.at_once, given.memory)
  trials = folder.merged(root, [])
  if any(run.setting.keys() != keys.keys() for run in trials):
    raise Refusal(
      f"workdir '{root}' holds runs that vary something else than {', '.join(keys)}: give another --workdir"
    )
  with folder.launching(root) as held:
    # Those that were interrupted, or have failed, before anything new.
    due = [run for run in trials if not folder.finished(root, run)]
    while True:
      _, stopped = local.train(root, due, slots, held=held)
      room = min(len(slots), given.search - len(trials))
      if stopped or room <= 0:
        return trials, stopped
      scores = [_score(root, run, given.score) for run in trials]
      settings = _proposed(optuna, keys, trials, scores, room, lowest=given.lowest_first)
      known = {run.name for run in trials}
      due = [run for run in definition.runs(settings, given.config, common) if run.name not in known]
      if not due:  # a space of a few choices, all of them tried
        return trials, False
      due = definition.checked(due)
      trials += due
      folder.write_manifest(root, trials)


def _proposed(
  optuna: Any, keys: Mapping[str, Range | Choice], trials: list[Run], scores: list, number: int, *, lowest: bool
) -> list[Setting]:
  """The settings to try next. The study is made anew each time: it does not matter where a search was interrupted."""
  distributions = {key: _distribution(optuna, options) for key, options in keys.items()}
  sampler = optuna.samplers.TPESampler(seed=len(trials), constant_liar=True)
  study = optuna.create_study(direction='minimize' if lowest else 'maximize', sampler=sampler)
  for run, score in zip(trials, scores, strict=True):
    study.add_trial(_trial(optuna, run, score, keys, distributions))
  return space.chain([_setting(study.ask(distributions).params) for _ in range(number)])


def _optuna() -> Any:
  try:
    import optuna
  except ModuleNotFoundError:
    raise Refusal("--search needs Optuna: pip install -e '.[search]'") from None
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  return optuna


def _distribution(optuna: Any, options: Range | Choice) -> Any:
  if isinstance(options, Choice):
    return optuna.distributions.CategoricalDistribution(tuple(map(space.as_text, options.options)))
  if options.integer:
    return optuna.distributions.IntDistribution(int(options.low), int(options.high))
  return optuna.distributions.FloatDistribution(options.low, options.high, log=options.scale == 'log')


def _setting(params: Mapping[str, Any]) -> Setting:
  return {
    key: space.as_text(space.rounded(value) if isinstance(value, float) else value) for key, value in params.items()
  }


def _trial(optuna: Any, run: Run, score: float | None, keys: Mapping, distributions: Mapping) -> Any:
  """A run of before as Optuna knows it; one without a score has failed."""
  params = {key: _value(run.setting[key], options) for key, options in keys.items()}
  state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
  return optuna.trial.create_trial(params=params, distributions=dict(distributions), value=score, state=state)


def _value(text: str, options: Range | Choice) -> Any:
  """What a text stands for; rounding may have put it outside of the range by a little."""
  if isinstance(options, Choice):
    return text
  return int(text) if options.integer else min(max(float(text), options.low), options.high)


def _score(root: pathlib.Path, run: Run, name: str) -> float | None:
  if not folder.finished(root, run):
    return None
  scores = folder.read(folder.workdir(root, run) / 'evaluations.json')['evaluations'][-1]['scores']
  if name not in scores:
    raise Refusal(f"run '{run.name}' has no score '{name}'; it has {', '.join(sorted(scores))}")
  return scores[name]
