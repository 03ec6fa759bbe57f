"""AutoTCL: what a learned augmentation of series is worth beside fixed ones, and beside none.

    python -m experiments.auto_tcl.run

Trains configs/series/auto_tcl.py on a glucose sensor's readings with the learned augmentation, with the fixed ones of
CoST (a factor, an offset, noise) and with v = x, three seeds each; with the learned one also where its regularisers
weigh as little as by default in the paper's code. Writes a table and a figure beside this file: errors of a ridge
regression that forecasts the next hour. Ten minutes on one core.

Source of the claim: Zheng et al., 2024, "Parametric Augmentation for Time Series Contrastive Learning": forecasts from
encoders that were trained with the learned augmentation have lower errors than those with fixed ones.
"""

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.data.sources import glucose
from contrastive_jax.engine import workdir
from contrastive_jax.evals import targets
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
FLOORS = ('random encoder', 'raw series')
UNCHANGED = 'nothing changes'
SCORES = {'targets/mse': 'MSE', 'targets/mae': 'MAE', 'targets/r2': 'variance told'}
_FIXED = {'method__augmentation': 'views', 'data__num_views': 2, 'optimiser__rates': '()', 'optimiser__every': '()'}
CONDITIONS = {
  'learned': {},
  'learned, small weights': {'method__sparsity': 0.001, 'method__roughness': 0.001},
  'fixed': _FIXED | {'data__views__name': 'series'},
  'none': _FIXED,
}
Found = dict[str, list[dict[str, float]]]  # scores of each seed, by condition or floor


def measure(steps: int) -> Found:
  """The scores of all runs, and of what they should surpass."""
  found: Found = {name: [] for name in (UNCHANGED, *FLOORS, *CONDITIONS)}
  test = glucose(split='test', length=64)
  target = test.read(np.arange(test.num_examples))['target']
  found[UNCHANGED].append(targets.scores(np.zeros_like(target), target))
  for name, options in CONDITIONS.items():
    for seed in SEEDS:
      path = runs.ROOT / 'runs' / HERE.name / f'{name}-{steps}-{seed}'.replace(', ', '-').replace(' ', '_')
      found[name].append(
        runs.train('series/auto_tcl.py', path, seed=seed, train__steps=steps, **runs.LAST_STEP, **options)
      )
      if name == 'learned':
        floors = workdir.read_evaluations(path)['floors']
        for floor in FLOORS:
          found[floor].append(floors[floor])
  return found


def _cell(of_seeds: list[dict[str, float]], key: str) -> str:
  values, digits = np.array([each[key] for each in of_seeds]), 3 if key == 'targets/r2' else 1
  return runs.spread(values, digits) if np.ptp(values) else f'{values[0]:.{digits}f}'


def table(found: Found) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = ['| forecast from | ' + ' | '.join(SCORES.values()) + ' |', '|---|' + '--:|' * len(SCORES)]
  for name, of_seeds in found.items():
    shown = f'encoder, augmentation: {name}' if name in CONDITIONS else name
    lines.append(f'| {shown} | ' + ' | '.join(_cell(of_seeds, key) for key in SCORES) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found: Found) -> plt.Figure:
  """Errors by condition, those of the floors as lines."""
  figure, panels = plt.subplots(1, 2, figsize=(10, 3.4), layout='constrained')
  for panel, key, unit in zip(panels, SCORES, ('(mg/dL)²', 'mg/dL'), strict=False):
    values = np.array([[each[key] for each in found[name]] for name in CONDITIONS])
    panel.errorbar(range(len(CONDITIONS)), values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3)
    for name, style in zip((UNCHANGED, *FLOORS), ('-.', ':', '--'), strict=True):
      level = np.mean([each[key] for each in found[name]])
      panel.axhline(level, color='0.4', linestyle=style, linewidth=1, label=name)
    panel.set_xticks(range(len(CONDITIONS)), [name.replace(', ', ',\n') for name in CONDITIONS], fontsize=8)
    panel.set_title(f'{SCORES[key]} of the next hour, {unit}')
  panels[0].legend(fontsize=7)
  return figure


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--steps', type=int, default=400, help='of each run')
  found = measure(parser.parse_args().steps)
  print(table(found))
  (HERE / 'auto_tcl.md').write_text(table(found))
  draw(found).savefig(HERE / 'auto_tcl.png', dpi=120)


if __name__ == '__main__':
  main()
