"""Temperature as hardness: what it does to uniformity, tolerance, the weight of hard negatives, and accuracy.

    python -m experiments.temperature.run

Trains SimCLR (NT-Xent) and its hard variant (HardCL: the hardest 8.19 % of the negatives alone) on digits at several
temperatures and seeds, and writes a table and a figure beside this file. Runs are kept in runs/temperature: the same
command goes on where it was interrupted. Some 25 minutes on two CPU cores. `--setting=cifar10` is for a GPU.

Source of the claims: Wang and Liu, 2021, "Understanding the Behaviour of Contrastive Loss".
"""

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
TEMPERATURES = {'nt_xent': (0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0), 'hard_nce': (0.1, 0.3, 0.5, 1.0)}
NAMES = {'nt_xent': 'NT-Xent', 'hard_nce': 'HardCL'}
EPOCHS = 100


def measure(loss: str, temperature: float, seed: int, setting: str) -> dict[str, float]:
  """Scores of one run, with the entropy of the softmax over negatives at its own temperature."""
  file = {'nt_xent': 'simclr', 'hard_nce': 'hard_nce'}[loss]
  scores = runs.train(
    f'ssl/{file}.py:{setting}',
    runs.ROOT / 'runs' / 'temperature' / f'{setting}-{loss}-{temperature:g}-{seed}',
    seed=seed,
    method__temperature=temperature,
    evals__health=True,
    evals__health__temperatures=f'({temperature},)',
    train__epochs=EPOCHS,
    **runs.LAST_STEP,
  )
  return scores | {'entropy': scores[f'health/penalty_entropy@{temperature:g}']}


SHOWN = {
  'geometry/uniformity': 'uniformity (lower is more uniform)',
  'geometry/tolerance': 'tolerance',
  'entropy': 'penalty entropy',
  'linear/accuracy': 'linear probe',
  'knn/accuracy': '20-NN',
}


def table(found) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = ['| loss | temperature | ' + ' | '.join(SHOWN.values()) + ' |', '|---|--:|' + '--:|' * len(SHOWN)]
  for loss, temperatures in TEMPERATURES.items():
    for temperature in temperatures:
      cells = [runs.spread([each[key] for each in found[loss, temperature]]) for key in SHOWN]
      lines.append(f'| {NAMES[loss]} | {temperature:g} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found):
  """One panel a score, over temperature."""
  figure, panels = plt.subplots(1, len(SHOWN), figsize=(15, 3.2), layout='constrained')
  for panel, (key, label) in zip(panels, SHOWN.items(), strict=True):
    for loss, temperatures in TEMPERATURES.items():
      values = np.array([[each[key] for each in found[loss, t]] for t in temperatures])
      panel.errorbar(temperatures, values.mean(1), values.std(1, ddof=1), marker='o', capsize=3, label=NAMES[loss])
    panel.set(xscale='log', xlabel='temperature', title=label)
    panel.set_xticks(TEMPERATURES['nt_xent'], [f'{t:g}' for t in TEMPERATURES['nt_xent']], rotation=60)
    panel.minorticks_off()
  panels[0].legend()
  figure.savefig(HERE / 'temperature.png', dpi=120)


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default='digits', help='of configs/common.py')
  setting = parser.parse_args().setting
  cells = [(loss, temperature) for loss, temperatures in TEMPERATURES.items() for temperature in temperatures]
  found = {cell: [measure(*cell, seed, setting) for seed in SEEDS] for cell in cells}
  print(table(found))
  (HERE / 'temperature.md').write_text(table(found))
  draw(found)


if __name__ == '__main__':
  main()
