"""Methods beside each other under several conditions: the study that trains them all, its table and its figure."""

import argparse
import functools
import pathlib
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.engine import metrics, workdir
from experiments import runs

SCORES = {'linear/accuracy': 'linear probe', 'knn/accuracy': '20-NN', 'geometry/effective_rank': 'effective rank'}
GAINS = ('linear/accuracy', 'knn/accuracy')
Found = Mapping[tuple[str, str], list[dict[str, float]]]  # scores of each seed, by method (or floor) and condition


def study(
  here: pathlib.Path,
  about: str,
  methods: Mapping[str, tuple[str, dict]],
  conditions: Mapping[str, dict],
  seeds: tuple[int, ...] = (0, 1, 2),
  *,
  setting: str = 'digits',
  logged: Mapping[str, str] | None = None,
  over: str | None = None,
):
  """Trains each method under each condition and writes HERE/NAME.md and HERE/NAME.png, NAME that of the folder.

  Args:
    here: the folder of the study; runs are kept in runs/NAME.
    about: the help of the command.
    methods: config and overrides of each, '__' for '.'.
    conditions: overrides of each.
    seeds: of training.
    setting: of configs/common.py, where the command names no other.
    logged: metrics of training that the table has too, as last logged, and what it calls them.
    over: the method over which the table has the gains of the others, seed by seed.
  """
  parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default=setting, help='of configs/common.py')
  setting = parser.parse_args().setting

  def measure(method: str, condition: str, seed: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    config, more = methods[method]
    name = f'{setting}-{method}-{condition}-{seed}'.replace(', ', '-').replace(' ', '_')
    path = runs.ROOT / 'runs' / here.name / name
    scores = runs.train(f'{config}:{setting}', path, seed=seed, **runs.LAST_STEP, **(more | conditions[condition]))
    for line in metrics.read(path):
      scores = scores | {key: line[key] for key in logged or {} if key in line}
    return scores, workdir.read_evaluations(path)['floors']

  each = {(m, c): [measure(m, c, seed) for seed in seeds] for c in conditions for m in methods}
  found = {key: [scores for scores, _ in of_seeds] for key, of_seeds in each.items()}
  text = table(found | floors(each), scores_of(found) | dict(logged or {}), over)
  print(text)
  (here / f'{here.name}.md').write_text(text)
  draw(found).savefig(here / f'{here.name}.png', dpi=120)


def scores_of(found: Found) -> dict[str, str]:
  """Those of `SCORES` that the runs have: a study may do without an evaluator."""
  return {key: label for key, label in SCORES.items() if key in next(iter(found.values()))[0]}


def floors(each) -> Found:
  """Scores of raw pixels and of the encoder before training, of the runs of the first method under each condition."""
  found: dict[tuple[str, str], list[dict[str, float]]] = {}
  first = next(iter(each))[0]
  for (method, condition), of_seeds in each.items():
    for floor in of_seeds[0][1] if method == first else ():
      found[floor, condition] = [of_seed[floor] for _, of_seed in of_seeds]
  return found


def _levels(found: Found) -> tuple[list[str], list[str]]:
  return list(dict.fromkeys(m for m, _ in found)), list(dict.fromkeys(c for _, c in found))


def table(found: Found, columns: Mapping[str, str] = SCORES, over: str | None = None) -> str:
  """Mean and standard deviation over seeds, and of the differences to the method `over` of each seed, as Markdown."""
  methods, conditions = _levels(found)
  gains = [] if over is None else [*GAINS]
  names = [*columns.values(), *(f'{columns[key]} over {over}, points' for key in gains)]
  lines = ['| condition | method | ' + ' | '.join(names) + ' |', '|---|---|' + '--:|' * len(names)]
  for condition in conditions:
    for method in methods:
      values = functools.partial(_values, found[method, condition])
      cells = [_cell(values(key)) for key in columns]
      for key in gains:
        gained = 100 * (values(key) - _values(found[over, condition], key))
        cells.append('' if method == over else _cell(gained, 1))
      lines.append(f'| {condition} | {method} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def _values(of_seeds: list[dict[str, float]], key: str) -> np.ndarray:
  return np.array([each.get(key, np.nan) for each in of_seeds])


def _cell(values: np.ndarray, digits: int = 3) -> str:
  """Nothing of what a method or floor does not have; what is the same for every seed has no deviation."""
  if np.isnan(values).any():
    return ''
  return f'{values[0]:.{digits}f}' if np.ptp(values) == 0 else runs.spread(values, digits)


def draw(found: Found) -> plt.Figure:
  """One panel a score: methods beside each other, a colour for each condition."""
  methods, conditions = _levels(found)
  scores = scores_of(found)
  figure, panels = plt.subplots(1, len(scores), figsize=(11, 3.4), layout='constrained')
  for panel, (key, label) in zip(panels, scores.items(), strict=True):
    for i, condition in enumerate(conditions):
      values = np.array([[each[key] for each in found[method, condition]] for method in methods])
      places = np.arange(len(methods)) + 0.15 * (2 * i - len(conditions) + 1)
      panel.errorbar(places, values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3, label=condition)
    panel.set_xticks(range(len(methods)), [m.replace(', ', ',\n') for m in methods], fontsize=8)
    panel.set_title(label)
  panels[0].legend()
  return figure
