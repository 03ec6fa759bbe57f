"""Long tail: whether iSogCLR gives frequent classes higher temperatures, and whether that helps the rare ones.

    python -m experiments.long_tail.run
    python -m experiments.long_tail.run --setting=fashion_mnist

Trains SimCLR, SogCLR and iSogCLR on an exponentially imbalanced training set, each class having its rank drawn anew for
every seed, and measures the accuracy of classes that were frequent, medium and rare in training, on a test set that has
all classes alike. The probes are fitted on the long-tailed training set, as in the official code of iSogCLR, or on as
many examples of every class as the most frequent has, which tells a poor representation of the rare classes from a
probe that has seen few of them. As a control iSogCLR is trained on as many examples, all classes alike. Writes tables
and a figure beside this file. Runs are kept in runs/long_tail: the same command goes on where it was interrupted. Some
16 minutes of CPU on digits; `--setting=cifar10` is for a GPU.

Source of the claims: Qiu et al., 2023, "Not All Semantics are Created Equal".
"""

import argparse
import json
import pathlib
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.engine import resolve, serve, workdir
from contrastive_jax.evals import knn, linear
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
GROUPS = {'frequent': slice(0, 3), 'medium': slice(3, 7), 'rare': slice(7, 10)}  # ranks of ten classes
PROBES = {'linear': 'linear probe', 'knn': '20-NN'}
ROWS = {'tail': 'the long tail', 'whole': 'all classes alike'}
CONTROL, TWIN = 'iSogCLR, balanced', 'iSogCLR, rho 0.4'  # of the default rho both


class Setting(NamedTuple):
  """Of `configs.common`, with the imbalance; `balanced` examples a class are about as many in all."""

  imbalance: float
  largest: int | None
  balanced: int
  batch: int
  epochs: int
  temperatures: tuple[float, ...]  # of SimCLR and SogCLR
  rhos: tuple[float, ...]  # of iSogCLR


SETTINGS = {
  'digits': Setting(10, 139, 57, 128, 200, (0.1, 0.2, 0.5), (0.2, 0.4, 0.8)),
  'fashion_mnist': Setting(100, 1000, 248, 256, 60, (0.2,), (0.4,)),
  'cifar10': Setting(100, None, 1240, 128, 400, (0.1, 0.2, 0.5), (0.2, 0.4, 0.8)),
}


def methods(setting: Setting) -> dict[str, tuple[str, dict]]:
  """Config and options of every method by its name in the tables."""
  tail = dict(data__imbalance=setting.imbalance, data__imbalance_largest=setting.largest)
  alike = dict(data__imbalance=1, data__imbalance_largest=setting.balanced)
  found = {}
  for name, config in (('SimCLR', 'simclr'), ('SogCLR', 'sog_clr')):
    for t in setting.temperatures:
      found[f'{name}, temperature {t:g}'] = f'ssl/{config}.py', tail | dict(method__temperature=t)
  for rho in setting.rhos:
    found[f'iSogCLR, rho {rho:g}'] = 'ssl/isog_clr.py', tail | dict(method__rho=rho)
  return found | {CONTROL: ('ssl/isog_clr.py', alike)}


def measure(name: str, config: str, options: dict, seed: int, setting: str) -> dict:
  """What one run shows: of iSogCLR the temperature of each class by its rank in the tail; accuracies by group."""
  path = runs.ROOT / 'runs' / 'long_tail' / f'{setting}-{name.replace(", ", "-").replace(" ", "")}-{seed}'
  record = path / 'long_tail.json'
  if record.exists():
    return json.loads(record.read_text())
  of_setting = SETTINGS[setting]
  runs.train(
    f'{config}:{setting}',
    path,
    seed=seed,
    data__imbalance_seed=seed,
    data__batch_size=of_setting.batch,
    train__epochs=of_setting.epochs,
    train__eval_every=1_000_000,  # the last step alone
    train__report=False,
    evals__linear=False,
    evals__geometry=False,
    **options,
  )
  tail = dict(data__imbalance=of_setting.imbalance, data__imbalance_largest=of_setting.largest)
  whole = dict(data__imbalance=1, data__imbalance_largest=of_setting.largest)
  counts = np.bincount(labels(data(path, **tail)[1]))
  ranked = np.argsort(-counts)
  found = {'counts': counts[ranked].tolist(), 'temperature': temperatures(*restored(path), ranked)}
  if name != CONTROL:
    for rows, overrides in (('tail', tail), ('whole', whole)):
      run, params, state = restored(path, **overrides)
      found[rows] = accuracies(run.embedder.at(params, state), ranked)
      if name == next(iter(methods(of_setting))):
        found[f'{rows}, raw pixels'] = accuracies(run.floors(run.fresh())['raw pixels'], ranked)
  workdir.write_json(record, found)
  return found


def data(path: pathlib.Path, **overrides):
  """The config of a run, its data changed, and these data."""
  config = resolve.load(str(path), {key.replace('__', '.'): str(value) for key, value in overrides.items()})
  return config, serve.sources(config, str(path))


def restored(path: pathlib.Path, **overrides):
  """The run of a workdir, its data changed, with its last parameters and state."""
  run = serve.build(*data(path, **overrides), path)
  return run, *serve.restore(run, path)[:2]


def labels(sources) -> np.ndarray:
  """Of every training row."""
  return sources['train'].read(np.arange(sources['train'].num_examples))['label']


def temperatures(run, params, state, ranked: np.ndarray) -> list[float] | None:
  """The mean temperature of the examples of each class, where every example has its own."""
  if 'per_sample' not in state or state['per_sample'].temperature is None:
    return None
  tau, label = np.asarray(state['per_sample'].temperature), labels(run.sources)
  return [float(tau[label == k].mean()) for k in ranked]


def accuracies(embed, ranked: np.ndarray) -> dict[str, float]:
  """Accuracy by 'probe/group'; the strength of the linear probe is chosen once, and all groups have the same probe."""
  strength = linear.make().run(embed)['linear/l2']
  probes = {'linear': linear.make(strengths=(strength,)), 'knn': knn.make()}
  found = {}
  for group, members in (GROUPS | {'all': slice(None)}).items():
    of_group = only(embed, ranked[members])
    found |= {f'{name}/{group}': probe.run(of_group)[f'{name}/accuracy'] for name, probe in probes.items()}
  return found


def only(embed, classes):
  """`embed` whose test rows of other classes have no label, so that evaluators do not count them."""

  def of_classes(split):
    found = embed(split)
    if split == 'train':
      return found
    return found._replace(label=np.where(np.isin(found.label, classes), found.label, -1))

  return of_classes


def accuracy_table(found: dict[str, list[dict]]) -> str:
  """Mean and standard deviation over seeds, in percent, as Markdown: a block a probe and the rows it is fitted on."""
  names = [name for name in found if name != CONTROL]
  blocks = []
  for probe, title in PROBES.items():
    for rows, of_rows in ROWS.items():
      lines = [f'| {title} fitted on {of_rows} | frequent | medium | rare | all |', '|---|--:|--:|--:|--:|']
      cells = {name: [each[rows] for each in found[name]] for name in names}
      cells['raw pixels'] = [each[f'{rows}, raw pixels'] for each in found[names[0]]]
      for name, scores in cells.items():
        values = [runs.spread([100 * each[f'{probe}/{group}'] for each in scores], 1) for group in (*GROUPS, 'all')]
        lines.append(f'| {name} | ' + ' | '.join(values) + ' |')
      blocks.append('\n'.join(lines))
  return '\n\n'.join(blocks) + '\n'


def gain_table(found: dict[str, list[dict]]) -> str:
  """Points that iSogCLR gains, each method the mean of its settings, seed by seed, as Markdown."""
  lines = ['| iSogCLR gains | probe | fitted on | frequent | medium | rare | all |', '|---|---|---|--:|--:|--:|--:|']
  for other in ('SimCLR', 'SogCLR'):
    for probe, title in PROBES.items():
      for rows, of_rows in ROWS.items():
        cells = []
        for group in (*GROUPS, 'all'):
          ours, theirs = (mean_of_settings(found, method, rows, f'{probe}/{group}') for method in ('iSogCLR', other))
          cells.append(runs.spread(100 * (ours - theirs), 1))
        lines.append(f'| over {other} | {title} | {of_rows} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def mean_of_settings(found: dict[str, list[dict]], method: str, rows: str, score: str) -> np.ndarray:
  """The score of each seed, the mean over the temperatures or values of rho of a method."""
  names = [name for name in found if name.startswith(f'{method},') and name != CONTROL]
  return np.mean([[each[rows][score] for each in found[name]] for name in names], axis=0)


def temperature_table(found: dict[str, list[dict]]) -> str:
  """How temperatures of iSogCLR go with the size of classes, as Markdown.

  The last row is of the differences to the control: a class has the same rank there, but as many examples as others.
  """
  lines = [
    '| temperature | frequent | medium | rare | rise with ten times the examples | correlation with log size |',
    '|---|--:|--:|--:|--:|--:|',
  ]
  tau = {
    name: np.array([each['temperature'] for each in measured])
    for name, measured in found.items()
    if individual(measured)
  }
  tau[f'{TWIN}, less {CONTROL}'] = tau[TWIN] - tau[CONTROL]
  log_size = np.log10([each['counts'] for each in found[TWIN]])
  for name, of_name in tau.items():
    cells = [runs.spread(of_name[:, members].mean(1)) for members in GROUPS.values()]
    cells.append(runs.spread([np.polyfit(x, t, 1)[0] for x, t in zip(log_size, of_name, strict=True)]))
    cells.append(runs.spread([np.corrcoef(x, t)[0, 1] for x, t in zip(log_size, of_name, strict=True)], 2))
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def individual(measured: list[dict]) -> bool:
  """Whether every example has its own temperature in these runs."""
  return measured[0]['temperature'] is not None


def draw(found: dict[str, list[dict]], setting: str):
  """Temperatures over the size of classes, and accuracies by group of two of the probes."""
  figure, panels = plt.subplots(1, 3, figsize=(16, 4), layout='constrained')
  for number, name in enumerate([name for name in found if individual(found[name])]):
    tau = np.array([each['temperature'] for each in found[name]])
    counts = np.array([each['counts'] for each in found[name]])
    colour = '0.6' if name == CONTROL else f'C{number}'
    panels[0].scatter(counts, tau, s=10, color=colour, alpha=0.5)
    panels[0].plot(counts.mean(0), tau.mean(0), color=colour, label=name)
  panels[0].set(xscale='log', xlabel='examples of the class in the long tail', ylabel='mean temperature of the class')
  panels[0].set_xticks(sizes := np.geomspace(counts.min(), counts.max(), 4).astype(int), map(str, sizes))
  panels[0].minorticks_off()
  panels[0].legend()
  names = [name for name in found if name != CONTROL]
  for panel, (rows, probe) in zip(panels[1:], (('tail', 'knn'), ('whole', 'linear')), strict=True):
    for number, name in enumerate(names):
      values = np.array([[100 * each[rows][f'{probe}/{group}'] for group in GROUPS] for each in found[name]])
      at = np.arange(len(GROUPS)) + (number - (len(names) - 1) / 2) * 0.08
      panel.errorbar(at, values.mean(0), values.std(0, ddof=1), marker='o', linestyle='', capsize=2, label=name)
    panel.set_xticks(range(len(GROUPS)), GROUPS)
    panel.set(ylabel='accuracy, %', title=f'{PROBES[probe]} fitted on {ROWS[rows]}')
  figure.legend(*panels[2].get_legend_handles_labels(), loc='outside right center')
  figure.savefig(HERE / f'{setting}.png', dpi=120)


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default='digits', choices=SETTINGS)
  setting = parser.parse_args().setting
  found = {
    name: [measure(name, config, options, seed, setting) for seed in SEEDS]
    for name, (config, options) in methods(SETTINGS[setting]).items()
  }
  text = '\n'.join([temperature_table(found), gain_table(found), accuracy_table(found)])
  print(text)
  (HERE / f'{setting}.md').write_text(text)
  draw(found, setting)


if __name__ == '__main__':
  main()
