"""BECLR: do neighbours from its memory help few-shot recognition, and does optimal transport at test time?

    python -m experiments.beclr.run

Trains BYOL, BECLR without a memory (BYOL and a term of uniformity) and BECLR with neighbours from its clustered memory,
and scores each on few-shot episodes of test images: 5 of 10 classes, 1 or 5 known images of each, 15 to be recognised,
by the nearest prototype, as it is or moved by optimal transport (OpTA). Writes a table and a figure beside this file.
Runs are kept in runs/beclr: the same command goes on where it was interrupted. Some ten minutes of CPU;
`--setting=fashion_mnist` and `--setting=cifar10` are for a GPU.

Source of the claims: Poulakakis-Daktylidis and Jamali-Rad, 2024.
"""

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.engine import workdir
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
METHODS = {
  'BYOL': ('ssl/byol.py', {}),
  'BECLR, no memory': ('ssl/beclr.py', {'method__neighbours': 0}),
  'BECLR, 5 neighbours': ('ssl/beclr.py', {}),
}
SCORES = {
  'episodes/1_shot': '1 shot',
  'episodes/1_shot_opta': '1 shot, OpTA',
  'episodes/5_shot': '5 shots',
  'episodes/5_shot_opta': '5 shots, OpTA',
}
# Of `configs.common`: how long and how small it is trained.
SETTINGS = {
  'digits': dict(train__epochs=60, encoder__widths=(16, 32)),
  'fashion_mnist': dict(train__epochs=30),
  'cifar10': dict(train__epochs=200),
}


def measure(name: str, seed: int, setting: str, epochs: float | None) -> tuple[dict[str, float], dict[str, dict]]:
  """Scores of the last step, and those of raw pixels and of the encoder before training."""
  config, more = METHODS[name]
  path = runs.ROOT / 'runs' / 'beclr' / f'{setting}-{name.replace(", ", "-").replace(" ", "_")}-{seed}'
  options = SETTINGS[setting] | more | dict(seed=seed, evals__episodes=True, evals__geometry=False, **runs.LAST_STEP)
  options |= {} if epochs is None else {'train__epochs': epochs}
  if config == 'ssl/beclr.py':  # whose own epochs are shares of longer runs, or of shorter ones
    third = int(options['train__epochs']) // 3
    options |= dict(method__memory_epochs=third, method__every_epochs=max(third, 1))
  scores = runs.train(f'{config}:{setting}', path, **options)
  return scores, workdir.read_evaluations(path)['floors']


def table(found: dict[str, list[dict]]) -> str:
  """Mean and standard deviation over seeds, in percent, and what OpTA adds, seed by seed, as Markdown."""
  lines = ['| | ' + ' | '.join(SCORES.values()) + ' | OpTA adds, 1 shot | OpTA adds, 5 shots |', '|---|' + '--:|' * 6]
  for name, scores in found.items():
    cells = [100 * np.array([each[key] for each in scores]) for key in SCORES]
    cells += [cells[1] - cells[0], cells[3] - cells[2]]
    lines.append(f'| {name} | ' + ' | '.join(runs.spread(each, 1) for each in cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found: dict[str, list[dict]]) -> plt.Figure:
  """Accuracies beside each other."""
  figure, panel = plt.subplots(figsize=(8, 3.6), layout='constrained')
  for i, (name, scores) in enumerate(found.items()):
    values = 100 * np.array([[each[key] for key in SCORES] for each in scores])
    places = np.arange(len(SCORES)) + 0.1 * (i - (len(found) - 1) / 2)
    panel.errorbar(places, values.mean(0), values.std(0, ddof=1), fmt='o', capsize=3, label=name)
  panel.set_xticks(range(len(SCORES)), [*SCORES.values()])
  panel.set_ylabel('accuracy of 5-way episodes, %')
  panel.legend(fontsize=8)
  return figure


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default='digits', choices=SETTINGS)
  parser.add_argument('--epochs', type=float, help='instead of those of the setting, to try it')
  given = parser.parse_args()
  each = {name: [measure(name, seed, given.setting, given.epochs) for seed in SEEDS] for name in METHODS}
  found = {name: [scores for scores, _ in of_seeds] for name, of_seeds in each.items()}
  for floor in next(iter(each.values()))[0][1]:
    found[floor] = [floors[floor] for _, floors in each['BYOL']]
  text = table(found)
  print(text)
  (HERE / f'{given.setting}.md').write_text(text)
  draw(found).savefig(HERE / f'{given.setting}.png', dpi=120)


if __name__ == '__main__':
  main()
