"""SepCLR: whether a digit pasted on garments is told from the salient head only, and the garment from the common one.

    python -m experiments.sep_clr.run

The background are garments, the targets garments with a digit pasted at a random place. Trains SepCLR with both heads,
without the joint entropy, and SimCLR, and fits linear probes for the garment and, on targets, for the digit on each
head's output. Writes a table and a figure beside this file. Runs are kept in runs/sep_clr. Some 14 minutes of one CPU
core.

Source of the claims: Louiset et al., 2024, "Separating common from salient patterns with Contrastive Representation
Learning".
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.data.sources import Source
from contrastive_jax.engine import resolve, serve, workdir
from contrastive_jax.evals import linear
from contrastive_jax.evals.evaluator import Embed
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
SPACES = {'common head': 'common', 'salient head': 'salient'}
LABELS = {'base': 'garment', 'pasted': 'digit'}
DATA = dict(
  data__source__name='composite',
  data__source__label='pasted',
  data__source__pasted_share=0.5,
  data__source__train_size=4000,
  data__source__test_size=1000,
  data__views__name='weak',
  data__views__flip=0.0,
  data__batch_size=128,
  encoder__widths=(16, 32, 64),
  head__features=16,
)
METHODS = {
  'SepCLR': ('ssl/sep_clr.py', dict(method__background=(-1,))),
  'SepCLR, no joint entropy': ('ssl/sep_clr.py', dict(method__background=(-1,), method__joint_weight=0.0)),
  'SimCLR': ('ssl/simclr.py', {}),
}
STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)


def embeds(found: runs.Trained, path: pathlib.Path, method: str) -> dict[str, Embed]:
  """What each head makes of the images, as features, by its name."""
  if method == 'SimCLR':
    return {'its only head': lambda split: found.embed(split)._replace(features=found.embed(split).projection)}
  of_heads = {}
  for name, space in SPACES.items():
    run = serve.build(resolve.load(str(path), {'method.space': space}), found.sources, path)
    of_heads[name] = run.embedder.at(*serve.restore(run, path)[:2])
  return of_heads


def accuracy(embed: Embed, sources: dict[str, Source], label: str) -> float:
  """Of a linear probe for one of the two labels on the targets alone: salient vectors of the others are driven to 0."""

  def labelled(split: str):
    rows = sources[split].read(np.arange(sources[split].num_examples))
    return embed(split)._replace(label=np.where(rows['label_pasted'] < 0, -1, rows[f'label_{label}']))

  return linear.make(strengths=STRENGTHS).run(labelled)['linear/accuracy']


def measure(method: str, seed: int, epochs: float, size: int) -> dict[str, dict[str, float]]:
  """Accuracies of a run by what is probed, and for which label."""
  config, options = METHODS[method]
  name = method.replace(', ', '-').replace(' ', '_')
  path = runs.ROOT / 'runs' / 'sep_clr' / f'{name}-{size}-{epochs:g}-{seed}'
  record = path / 'sep_clr.json'
  if record.exists():
    return json.loads(record.read_text())
  unseen = {f'evals__{evaluator}': False for evaluator in ('linear', 'knn', 'geometry')}
  given = dict(seed=seed, train__epochs=epochs, train__keep_best=0, **runs.LAST_STEP, **unseen)
  given['data__source__pasted_size'] = size
  found = runs.trained(f'{config}:fashion_mnist', path, **given, **DATA, **options)
  scores = {
    space: {label: accuracy(embed, found.sources, label) for label in LABELS}
    for space, embed in embeds(found, path, method).items()
  }
  workdir.write_json(record, scores)
  return scores


def table(found: dict[str, list[dict]]) -> str:
  """Mean and standard deviation over seeds, in percent, as Markdown."""
  lines = ['| method | probed | ' + ' | '.join(LABELS.values()) + ' |', '|---|---|--:|--:|']
  for method, scores in found.items():
    for space in scores[0]:
      cells = [runs.spread([100 * each[space][label] for each in scores], 1) for label in LABELS]
      lines.append(f'| {method} | {space} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found: dict[str, list[dict]]):
  """A panel a method: accuracy for both labels by what is probed."""
  figure, panels = plt.subplots(1, len(found), figsize=(11, 3.2), sharey=True, layout='constrained')
  for panel, (method, scores) in zip(panels, found.items(), strict=True):
    names = list(scores[0])
    for shift, (label, title) in zip((-0.2, 0.2), LABELS.items(), strict=True):
      values = np.array([[100 * each[space][label] for space in names] for each in scores])
      panel.bar(np.arange(len(names)) + shift, values.mean(0), 0.38, yerr=values.std(0, ddof=1), capsize=3, label=title)
    panel.axhline(10, color='grey', linestyle=':')
    panel.set_xticks(range(len(names)), names)
    panel.set_title(method)
  panels[0].set_ylabel('linear probe, %')
  panels[0].legend()
  figure.savefig(HERE / 'sep_clr.png', dpi=120)


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--epochs', type=float, default=15)
  parser.add_argument('--pasted_size', type=int, default=24, help='height and width of the digits, in pixels')
  flags = parser.parse_args()
  found = {method: [measure(method, seed, flags.epochs, flags.pasted_size) for seed in SEEDS] for method in METHODS}
  print(table(found))
  (HERE / 'sep_clr.md').write_text(table(found))
  draw(found)


if __name__ == '__main__':
  main()
