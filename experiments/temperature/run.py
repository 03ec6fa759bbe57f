"""Temperature as hardness: what it does to uniformity, tolerance, the weight of hard negatives, and accuracy.

    python -m experiments.temperature.run

Trains SimCLR (NT-Xent) and its hard variant (HardCL: a share of the negatives alone, the hardest) on digits at several
temperatures and seeds, and writes a table and a figure beside this file. Runs are kept in runs/temperature: the same
command goes on where it was interrupted. Some 40 minutes on one CPU core. `--setting=cifar10` is for a GPU.

Source of the claims: Wang and Liu, 2021, "Understanding the Behaviour of Contrastive Loss".
"""

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
# By name in the table: config, its options, temperatures.
LOSSES = {
  'NT-Xent': ('simclr', {}, (0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0)),
  'HardCL, hardest 30 %': ('hard_nce', dict(method__alpha=0.3), (0.1, 0.3, 0.5, 1.0)),
  'HardCL, hardest 8.19 %': ('hard_nce', dict(method__alpha=0.0819), (0.1, 0.3, 0.5, 1.0)),  # the paper's share
}
EPOCHS = 100


def measure(loss: str, temperature: float, seed: int, setting: str) -> dict[str, float]:
  """Scores of one run, with the entropy of the softmax over negatives at its own temperature."""
  file, options, _ = LOSSES[loss]
  name = '-'.join([setting, file, *(f'{value:g}' for value in options.values()), f'{temperature:g}', f'{seed}'])
  scores = runs.train(
    f'ssl/{file}.py:{setting}',
    runs.ROOT / 'runs' / 'temperature' / name,
    seed=seed,
    method__temperature=temperature,
    evals__health=True,
    evals__health__temperatures=f'({temperature},)',
    train__epochs=EPOCHS,
    **options,
    **runs.LAST_STEP,
  )
  return scores | {'entropy': scores[f'health/penalty_entropy@{temperature:g}']}


SHOWN = {
  'geometry/uniformity': 'uniformity (low is uniform)',
  'geometry/tolerance': 'tolerance',
  'entropy': 'penalty entropy',
  'linear/accuracy': 'linear probe',
  'knn/accuracy': '20-NN',
}


def table(found) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = ['| loss | temperature | ' + ' | '.join(SHOWN.values()) + ' |', '|---|--:|' + '--:|' * len(SHOWN)]
  for loss, (_, _, temperatures) in LOSSES.items():
    for temperature in temperatures:
      cells = [runs.spread([each[key] for each in found[loss, temperature]]) for key in SHOWN]
      lines.append(f'| {loss} | {temperature:g} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found):
  """One panel a score, over temperature."""
  figure, panels = plt.subplots(1, len(SHOWN), figsize=(15, 3.5), layout='constrained')
  ticks = LOSSES['NT-Xent'][2]
  for panel, (key, label) in zip(panels, SHOWN.items(), strict=True):
    for loss, (_, _, temperatures) in LOSSES.items():
      values = np.array([[each[key] for each in found[loss, t]] for t in temperatures])
      panel.errorbar(temperatures, values.mean(1), values.std(1, ddof=1), marker='o', capsize=3, label=loss)
    panel.set(xscale='log', xlabel='temperature', title=label)
    panel.set_xticks(ticks, [f'{t:g}' for t in ticks], rotation=60)
    panel.minorticks_off()
  figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=len(LOSSES))
  figure.savefig(HERE / 'temperature.png', dpi=120)


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default='digits', help='of configs/common.py')
  setting = parser.parse_args().setting
  cells = [(loss, temperature) for loss, (_, _, temperatures) in LOSSES.items() for temperature in temperatures]
  found = {cell: [measure(*cell, seed, setting) for seed in SEEDS] for cell in cells}
  print(table(found))
  (HERE / 'temperature.md').write_text(table(found))
  draw(found)


if __name__ == '__main__':
  main()
