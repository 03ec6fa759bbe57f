"""Methods beside each other under several conditions: the study that trains them all, its table and its figure."""

import argparse
import pathlib
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np

from experiments import runs

SCORES = {'linear/accuracy': 'linear probe', 'knn/accuracy': '20-NN', 'geometry/effective_rank': 'effective rank'}
Found = Mapping[tuple[str, str], list[dict[str, float]]]  # scores of each seed, by method and condition


def study(
  here: pathlib.Path,
  about: str,
  methods: Mapping[str, tuple[str, dict]],
  conditions: Mapping[str, dict],
  seeds: tuple[int, ...] = (0, 1, 2),
):
  """Trains each method under each condition and writes HERE/NAME.md and HERE/NAME.png, NAME that of the folder.

  Args:
    here: the folder of the study; runs are kept in runs/NAME.
    about: the help of the command.
    methods: config and overrides of each, '__' for '.'.
    conditions: overrides of each.
    seeds: of training.
  """
  parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default='digits', help='of configs/common.py')
  setting = parser.parse_args().setting

  def measure(method: str, condition: str, seed: int) -> dict[str, float]:
    config, more = methods[method]
    name = f'{setting}-{method}-{condition}-{seed}'.replace(', ', '-').replace(' ', '_')
    path = runs.ROOT / 'runs' / here.name / name
    return runs.train(f'{config}:{setting}', path, seed=seed, **runs.LAST_STEP, **(more | conditions[condition]))

  found = {(m, c): [measure(m, c, seed) for seed in seeds] for c in conditions for m in methods}
  print(table(found))
  (here / f'{here.name}.md').write_text(table(found))
  draw(found).savefig(here / f'{here.name}.png', dpi=120)


def _levels(found: Found) -> tuple[list[str], list[str]]:
  return list(dict.fromkeys(m for m, _ in found)), list(dict.fromkeys(c for _, c in found))


def table(found: Found) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  methods, conditions = _levels(found)
  lines = ['| condition | method | ' + ' | '.join(SCORES.values()) + ' |', '|---|---|' + '--:|' * len(SCORES)]
  for condition in conditions:
    for method in methods:
      cells = [runs.spread([each[key] for each in found[method, condition]]) for key in SCORES]
      lines.append(f'| {condition} | {method} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found: Found) -> plt.Figure:
  """One panel a score: methods beside each other, a colour for each condition."""
  methods, conditions = _levels(found)
  figure, panels = plt.subplots(1, len(SCORES), figsize=(11, 3.4), layout='constrained')
  for panel, (key, label) in zip(panels, SCORES.items(), strict=True):
    for i, condition in enumerate(conditions):
      values = np.array([[each[key] for each in found[method, condition]] for method in methods])
      places = np.arange(len(methods)) + 0.15 * (2 * i - len(conditions) + 1)
      panel.errorbar(places, values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3, label=condition)
    panel.set_xticks(range(len(methods)), [m.replace(', ', ',\n') for m in methods], fontsize=8)
    panel.set_title(label)
  panels[0].legend()
  return figure
