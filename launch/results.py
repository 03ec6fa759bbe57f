"""What a sweep has found so far: its runs gathered by setting, seeds aggregated, two sweeps compared."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from contrastive_jax.engine import metrics
from contrastive_jax.types import Refusal, nearest
from launch import folder, slurm
from launch.folder import Run, State, stem
from launch.space import CONFIG, SEED

# What a sweep is judged by unless it is said: the first of these that the runs have.
JUDGES = ('linear/accuracy', 'knn/accuracy')
CONFIDENCE = 0.95  # of the intervals of differences


class Result(NamedTuple):
  """One run, as far as it is."""

  run: Run
  state: State
  evaluations: list[tuple[int, dict[str, float]]]  # step and scores, oldest first
  losses: list[tuple[int, float]]
  floors: dict[str, dict[str, float]]  # scores of raw pixels and of the encoder before training

  @property
  def scores(self) -> dict[str, float]:
    """Of the last step; none before the run is finished, since scores of different steps cannot be averaged."""
    return self.evaluations[-1][1] if self.state.state == 'finished' and self.evaluations else {}


class Spread(NamedTuple):
  """A score over seeds."""

  mean: float
  deviation: float  # of the sample; nan for one seed
  number: int


class Group(NamedTuple):
  """A setting: runs that differ in their seed only."""

  values: dict[str, str]  # by axis; '' where the setting does not say
  results: list[Result]

  def spread(self, score: str) -> Spread | None:
    """The score over the finished seeds; None where none is."""
    found = [result.scores[score] for result in self.results if score in result.scores]
    if not found:
      return None
    return Spread(float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else np.nan, len(found))


class Sweep(NamedTuple):
  """All that a sweep has found so far."""

  name: str
  axes: list[str]  # keys of which its settings have several values, seeds left out
  groups: list[Group]

  @property
  def results(self) -> list[Result]:
    """The runs of all settings."""
    return [result for group in self.groups for result in group.results]

  @property
  def scores(self) -> list[str]:
    """The names of all scores that some finished run has."""
    return sorted({name for result in self.results for name in result.scores})


def load(root: pathlib.Path) -> Sweep:
  """Reads a sweep, which may still be running.

  Raises:
    Refusal: the folder holds none.
  """
  runs = folder.runs(root)
  try:
    states = slurm.settled(root, runs)
  except Refusal:  # read on a machine that knows nothing of the cluster
    states = {run.name: folder.state(root, run) for run in runs}
  if not folder.launched(root):  # what a killed launcher has left behind runs no more
    states = {
      name: state._replace(state='stopped') if state.state == 'running' and not state.job else state
      for name, state in states.items()
    }
  settings = [{key: value for key, value in run.setting.items() if key != SEED} for run in runs]
  keys = dict.fromkeys(key for setting in settings for key in setting)
  axes = _independent([key for key in keys if len({setting.get(key, '') for setting in settings}) > 1], settings)
  groups: dict[tuple, Group] = {}
  for run, setting in zip(runs, settings, strict=True):
    values = {axis: setting.get(axis, '') for axis in axes}
    groups.setdefault(tuple(values.items()), Group(values, [])).results.append(_result(root, run, states[run.name]))
  return Sweep(root.resolve().name, axes, list(groups.values()))


def _independent(axes: Sequence[str], settings: Sequence[Mapping[str, str]]) -> list[str]:
  """The axes without those that follow from another: where batches shrink as views are added, views say it all."""

  def values(*keys: str) -> int:
    return len({tuple(setting.get(key, '') for key in keys) for setting in settings})

  kept: list[str] = []
  for axis in axes:
    # An axis with a value of its own in each setting, as in a random search, would tell every other.
    if not any(values(other, axis) == values(other) < values(*axes) for other in kept):
      kept.append(axis)
  return kept


def _result(root: pathlib.Path, run: Run, state: State) -> Result:
  path = folder.workdir(root, run)
  evaluated = folder.read(path / 'evaluations.json')
  return Result(
    run,
    state,
    [(each['step'], each['scores']) for each in evaluated.get('evaluations', [])],
    [(line['step'], line['loss']) for line in metrics.read(path) if 'loss' in line],
    evaluated.get('floors', {}),
  )


def judge(sweeps: Iterable[Sweep], asked: str | None) -> str:
  """The score that settings are ordered by; '' while there is none.

  Raises:
    Refusal: no finished run has the one that is asked for.
  """
  known = sorted({name for sweep in sweeps for name in sweep.scores})
  if asked is not None and known and asked not in known:
    raise Refusal(f"no finished run has the score '{asked}'{nearest(asked, known)}")
  return asked or next((name for name in (*JUDGES, *known) if name in known), '')


def ordered(groups: Sequence[Group], score: str, *, lowest: bool = False) -> list[Group]:
  """The best setting first, those without the score last."""

  def key(group: Group) -> tuple[bool, float]:
    found = group.spread(score)
    return (found is None, 0.0 if found is None else found.mean if lowest else -found.mean)

  return sorted(groups, key=key)


# --- names that people read ---


def label(axis: str, axes: Sequence[str]) -> str:
  """The last part of a key, or so many as tell it from the others."""
  parts = axis.split('.')
  for number in range(1, len(parts)):
    short = '.'.join(parts[-number:])
    if sum(f'.{other}'.endswith(f'.{short}') for other in axes) == 1:
      return short
  return axis


def written(axis: str, value: str) -> str:
  """A value as a table shows it: of a config file, its name."""
  return (stem(value) if axis == CONFIG else value) or '–'


def described(values: Mapping[str, str]) -> str:
  """'temperature 0.1, num_views 4'."""
  axes = list(values)
  told = (written(a, v) if a == CONFIG else f'{label(a, axes)} {written(a, v)}' for a, v in values.items())
  return ', '.join(told) or 'the only setting'


# --- two sweeps ---


class Difference(NamedTuple):
  """One setting of two sweeps: the second less the first."""

  values: dict[str, str]
  first: Spread
  second: Spread
  mean: float
  margin: float  # half of the 95 % confidence interval (Welch); nan where a side has one seed

  @property
  def clear(self) -> bool:
    """Whether the interval leaves out zero."""
    return bool(abs(self.mean) > self.margin)


def differences(first: Sweep, second: Sweep, score: str) -> list[Difference]:
  """Of the settings that both have, the largest gain first."""
  axes = [axis for axis in first.axes if axis in second.axes]
  others = {_values(group, axes): group for group in second.groups}
  for sweep in (first, second):
    if len({_values(group, axes) for group in sweep.groups}) < len(sweep.groups):
      alone = ', '.join(axis for axis in sweep.axes if axis not in axes)
      raise Refusal(f"the two sweeps cannot be set side by side: only '{sweep.name}' varies {alone}")
  found = []
  for group in first.groups:
    other = others.get(_values(group, axes))
    one, two = group.spread(score), other.spread(score) if other else None
    if one is not None and two is not None:
      values = {axis: group.values[axis] for axis in axes}
      found.append(Difference(values, one, two, two.mean - one.mean, margin(one, two)))
  return sorted(found, key=lambda each: -each.mean)


def margin(one: Spread, two: Spread) -> float:
  """Half of the confidence interval of a difference of means, without assuming equal variances (Welch, 1947)."""
  if min(one.number, two.number) < 2:
    return float('nan')
  parts = [each.deviation**2 / each.number for each in (one, two)]
  if not sum(parts):
    return 0.0
  freedom = sum(parts) ** 2 / sum(p**2 / (each.number - 1) for p, each in zip(parts, (one, two), strict=True))
  return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * sum(parts) ** 0.5)


def _values(group: Group, axes: Sequence[str]) -> tuple[str, ...]:
  return tuple(group.values[axis] for axis in axes)
