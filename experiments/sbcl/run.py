"""SBCL: does splitting frequent classes into subclasses help the rare ones, against SupCon on the same long tail?

    python -m experiments.sbcl.run
    python -m experiments.sbcl.run --setting=fashion_mnist

Trains SupCon and SBCL, whole and without its second term, on an exponentially imbalanced training set, each class
having its rank drawn anew for every seed, and measures the accuracy of frequent, medium and rare classes on a test set
that has all classes alike. Probes are fitted on the long tail, or on all classes alike, which tells a poor
representation of rare classes from a probe that has seen few of them. Writes a table and a figure beside this file.
Runs are kept in runs/sbcl: the same command goes on where it was interrupted. Some ten minutes of CPU on digits;
`--setting=fashion_mnist` is for a GPU.

Source of the claim: Hou et al., 2023, "Subclass-balancing Contrastive Learning for Long-tailed Recognition".
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.engine import workdir
from experiments import runs
from experiments.long_tail import run as long_tail

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
METHODS = {
  'SupCon': ('ssl/sup_con.py', {}),
  'SBCL': ('ssl/sbcl.py', {}),
  'SBCL, subclasses alone': ('ssl/sbcl.py', {'method__beta': 0.0}),
}
# Of `configs.common`: the tail, and how long and how small it is trained.
SETTINGS = {
  'digits': dict(data__imbalance=10, data__imbalance_largest=139, data__batch_size=128, train__epochs=200),
  'fashion_mnist': dict(data__imbalance=100, data__imbalance_largest=1000, data__batch_size=256, train__epochs=60),
}


# Of SBCL: an epoch of the thinned garments is nine steps, for which the warm-up of the whole setting is too short.
PERIODS = {'digits': {}, 'fashion_mnist': dict(method__warmup_epochs=10, method__every_epochs=10)}


def measure(name: str, seed: int, setting: str, epochs: float | None) -> dict:
  """Accuracies by group of probes fitted on the tail and on all classes alike, and of raw pixels."""
  path = runs.ROOT / 'runs' / 'sbcl' / f'{setting}-{name.replace(", ", "-").replace(" ", "_")}-{seed}'
  record = path / 'sbcl.json'
  if record.exists():
    return json.loads(record.read_text())
  config, more = METHODS[name]
  options = SETTINGS[setting] | more | dict(seed=seed, data__imbalance_seed=seed, **runs.LAST_STEP)
  options |= dict(evals__linear=False, evals__geometry=False) | (PERIODS[setting] if config == 'ssl/sbcl.py' else {})
  runs.train(f'{config}:{setting}', path, **(options if epochs is None else options | dict(train__epochs=epochs)))
  ratio, largest = (SETTINGS[setting][f'data__{key}'] for key in ('imbalance', 'imbalance_largest'))
  tail, whole = (dict(data__imbalance=each, data__imbalance_largest=largest) for each in (ratio, 1))
  ranked = np.argsort(-np.bincount(long_tail.labels(long_tail.data(path, **tail)[1])))
  found = {}
  for rows, overrides in (('tail', tail), ('whole', whole)):
    run, params, state = long_tail.restored(path, **overrides)
    found[rows] = long_tail.accuracies(run.embedder.at(params, state), ranked)
    if name == 'SupCon':
      found[f'{rows}, raw pixels'] = long_tail.accuracies(run.floors(run.fresh())['raw pixels'], ranked)
  workdir.write_json(record, found)
  return found


def gains(found: dict[str, list[dict]]) -> str:
  """Points over SupCon, seed by seed, as Markdown."""
  lines = ['| gain over SupCon | probe | fitted on | frequent | medium | rare | all |', '|---|---|---|--:|--:|--:|--:|']
  for name in [name for name in found if name != 'SupCon']:
    for probe, title in long_tail.PROBES.items():
      for rows, of_rows in long_tail.ROWS.items():
        cells = []
        for group in (*long_tail.GROUPS, 'all'):
          ours, theirs = (np.array([each[rows][f'{probe}/{group}'] for each in found[m]]) for m in (name, 'SupCon'))
          cells.append(runs.spread(100 * (ours - theirs), 1))
        lines.append(f'| {name} | {title} | {of_rows} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found: dict[str, list[dict]]) -> plt.Figure:
  """Accuracy by group, a panel for each probe and rows that it is fitted on."""
  figure, panels = plt.subplots(1, 4, figsize=(15, 3.4), layout='constrained')
  cases = [(probe, rows) for probe in long_tail.PROBES for rows in long_tail.ROWS]
  for panel, (probe, rows) in zip(panels, cases, strict=True):
    for i, name in enumerate(found):
      values = 100 * np.array([[each[rows][f'{probe}/{group}'] for group in long_tail.GROUPS] for each in found[name]])
      places = np.arange(len(long_tail.GROUPS)) + 0.12 * (i - 1)
      panel.errorbar(places, values.mean(0), values.std(0, ddof=1), fmt='o', capsize=3, label=name)
    panel.set_xticks(range(len(long_tail.GROUPS)), [*long_tail.GROUPS])
    panel.set_title(f'{long_tail.PROBES[probe]} fitted on {long_tail.ROWS[rows]}', fontsize=9)
  panels[0].set_ylabel('accuracy, %')
  panels[0].legend(fontsize=8)
  return figure


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default='digits', choices=SETTINGS)
  parser.add_argument('--epochs', type=float, help='instead of those of the setting, to try it')
  given = parser.parse_args()
  found = {name: [measure(name, seed, given.setting, given.epochs) for seed in SEEDS] for name in METHODS}
  text = long_tail.accuracy_table(found) + '\n' + gains(found)
  print(text)
  (HERE / f'{given.setting}.md').write_text(text)
  draw(found).savefig(HERE / f'{given.setting}.png', dpi=120)


if __name__ == '__main__':
  main()
