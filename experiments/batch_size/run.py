"""Batch size: how much accuracy losses of different denominators lose in small batches.

    python -m experiments.batch_size.run

Trains NT-Xent, DCL, DCLW and SogCLR on digits with batches of 32 to 1,024 examples for as many epochs each, the
learning rate scaled by the root of the batch, and writes a table and a figure beside this file. Runs are kept in
runs/batch_size: the same command goes on where it was interrupted. Some 50 minutes of one CPU core.
`--setting=cifar10` is for a GPU.

Source of the claims: Yeh et al., 2022 (DCL, DCLW); Yuan et al., 2022 (SogCLR): they lose less at small batches.
"""

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
BATCHES = (32, 64, 128, 256, 512, 1024)
METHODS = {
  'NT-Xent': ('ssl/simclr.py', {}),
  'DCL': ('ssl/dcl.py', {}),
  'DCLW': ('ssl/dcl.py', {'method__sigma': 0.5}),
  'SogCLR': ('ssl/sog_clr.py', {}),
}
TEMPERATURE, EPOCHS = 0.1, 60
SCORES = {'linear/accuracy': 'linear probe', 'knn/accuracy': '20-NN'}


def measure(method: str, batch: int, seed: int, setting: str) -> dict[str, float]:
  """Scores of one run."""
  config, more = METHODS[method]
  return runs.train(
    f'{config}:{setting}',
    runs.ROOT / 'runs' / 'batch_size' / f'{setting}-{method}-{batch}-{seed}',
    seed=seed,
    data__batch_size=batch,
    method__temperature=TEMPERATURE,
    schedule__scaling='sqrt',
    train__epochs=EPOCHS,
    **runs.LAST_STEP,
    **more,
  )


def loss_of(found, method: str, key: str) -> np.ndarray:
  """Points of accuracy lost at the smallest batch against the method's best batch, by seed."""
  values = np.array([[each[key] for each in found[method, batch]] for batch in BATCHES])
  return values[values.mean(1).argmax()] - values[0]


def table(found) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = []
  for key, name in SCORES.items():
    lines += [f'| {name} | ' + ' | '.join(map(str, BATCHES)) + ' | best batch - smallest |']
    lines += ['|---|' + '--:|' * (len(BATCHES) + 1)]
    for method in METHODS:
      cells = [runs.spread([each[key] for each in found[method, batch]]) for batch in BATCHES]
      lines.append(f'| {method} | ' + ' | '.join([*cells, runs.spread(loss_of(found, method, key))]) + ' |')
    lines.append('')
  return '\n'.join(lines)


def draw(found):
  """One panel a score, over the batch."""
  figure, panels = plt.subplots(1, len(SCORES), figsize=(9, 3.4), layout='constrained')
  for panel, (key, label) in zip(panels, SCORES.items(), strict=True):
    for method in METHODS:
      values = np.array([[each[key] for each in found[method, batch]] for batch in BATCHES])
      panel.errorbar(BATCHES, values.mean(1), values.std(1, ddof=1), marker='o', capsize=3, label=method)
    panel.set(xscale='log', xlabel='batch', title=label)
    panel.set_xticks(BATCHES, map(str, BATCHES))
    panel.minorticks_off()
  figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=len(METHODS))
  figure.savefig(HERE / 'batch_size.png', dpi=120)


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default='digits', help='of configs/common.py')
  setting = parser.parse_args().setting
  found = {(m, batch): [measure(m, batch, seed, setting) for seed in SEEDS] for m in METHODS for batch in BATCHES}
  print(table(found))
  (HERE / 'batch_size.md').write_text(table(found))
  draw(found)


if __name__ == '__main__':
  main()
