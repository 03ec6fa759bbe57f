"""MCL: is a feature that the first stage suppresses learned in a later one?

    python -m experiments.mcl.run

Images are garments with a digit pasted at a random place, two features that an encoder may use. Trains MCL, and the
same stages without clusters (SimCLR, whose weights at the same moments are put side by side), and fits linear probes
for garment and digit on the features of each stage and of all. Writes a table, with the share of the images that each
stage has batches of, and a figure beside this file. Runs are kept in runs/mcl. Some 20 minutes on one CPU core.

Source of the claim: Zhang et al., 2024, "Learning the Unlearned: Mitigating Feature Suppression in Contrastive
Learning".
"""

import argparse
import functools
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.engine import resolve, serve, workdir
from contrastive_jax.evals import linear
from contrastive_jax.evals.evaluator import Embed
from contrastive_jax.types import Embedded
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2, 3, 4)
STAGES = 3
BLOCKS = [*(f'stage {s + 1}' for s in range(STAGES)), 'all stages']
LABELS = {'base': 'garment', 'pasted': 'digit'}
METHODS = {'MCL, 10 clusters': 10, 'without clusters': 1}
TRAIN, TEST = 8000, 4000
STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)


class Columns:
  """`embed` of some of the features."""

  def __init__(self, embed: Embed, columns: slice):
    self.label_names, self.texts, self._embed, self._columns = embed.label_names, embed.texts, embed, columns

  def __call__(self, split: str, view: int | None = None) -> Embedded:
    """A split, with these features alone."""
    whole = self._embed(split, view)
    return whole._replace(features=np.asarray(whole.features)[:, self._columns])


@functools.cache
def data(label: str) -> dict[str, sources.Source]:
  """The splits with one of their labels."""
  return {
    split: sources.composite(split=split, label=label, train_size=TRAIN, test_size=TEST) for split in sources.SPLITS
  }


def probes(path: pathlib.Path) -> dict[str, dict[str, float]]:
  """Accuracy of linear probes on the features of each stage and of all, by label."""
  found: dict[str, dict[str, float]] = {}
  for label, name in LABELS.items():
    config = resolve.load(str(path), {'data.source.label': label})
    run = serve.build(config, data(label), path)
    embed = run.embedder.at(*serve.restore(run, path)[:2])
    width = embed('train').features.shape[1] // STAGES
    blocks = dict(zip(BLOCKS, [*(slice(s * width, (s + 1) * width) for s in range(STAGES)), slice(None)], strict=True))
    for block, columns in blocks.items():
      probe = linear.make(strengths=STRENGTHS).run(Columns(embed, columns))
      found.setdefault(block, {})[name] = probe['linear/accuracy']
  return found


def used(clusters: int, seed: int, epochs: int) -> list[float]:
  """By stage, the share of the rows that a pass has batches of: whole ones of a cluster, read from the last plan."""
  path = folder(clusters, seed, epochs)
  config = resolve.load(str(path))
  run = serve.build(config, data('base'), path)
  group = np.asarray(serve.restore(run, path)[1]['plan']['group'])
  # The numbers are mixed-radix: without their last digits they are those of an earlier stage.
  counts = [np.bincount(group // clusters ** (STAGES - 1 - s)) for s in range(STAGES)]
  return [float((count // run.batch_size).sum() * run.batch_size / len(group)) for count in counts]


def folder(clusters: int, seed: int, epochs: int) -> pathlib.Path:
  """Where a run lies."""
  return runs.ROOT / 'runs' / 'mcl' / f'{clusters}-{epochs}-{seed}'


def measure(clusters: int, seed: int, epochs: int) -> dict[str, dict[str, float]]:
  """Accuracies of a run by stage and label."""
  path = folder(clusters, seed, epochs)
  record = path / 'mcl.json'
  if record.exists():
    return json.loads(record.read_text())
  runs.train(
    'ssl/mcl.py:fashion_mnist',
    path,
    seed=seed,
    method__clusters=clusters,
    method__stages=STAGES,
    data__source__name='composite',
    data__views__crop_scale=(0.5, 1.0),
    data__views__erase=0.0,
    data__batch_size=64,
    train__epochs=epochs,
    train__keep_best=0,
    evals__linear=False,
    evals__knn=False,
    evals__geometry=False,
    data__source__train_size=TRAIN,
    data__source__test_size=TEST,
    **runs.LAST_STEP,
  )
  found = probes(path)
  workdir.write_json(record, found)
  return found


def floor(seed: int, epochs: int) -> dict[str, float]:
  """Accuracies of the encoder before training, by label."""
  path = folder(1, seed, epochs)
  record = path / 'floor.json'
  if record.exists():
    return json.loads(record.read_text())
  found = {}
  for label, name in LABELS.items():
    config = resolve.load(str(path), {'data.source.label': label})
    run = serve.build(config, data(label), path)
    embed = run.floors(run.fresh())['random encoder']
    width = embed('train').features.shape[1] // STAGES
    found[name] = linear.make(strengths=STRENGTHS).run(Columns(embed, slice(width)))['linear/accuracy']
  workdir.write_json(record, found)
  return found


def gains(found: dict[str, list[dict]]) -> str:
  """What clusters add, seed by seed: mean and standard deviation in points, and in how many seeds it is a gain."""
  lines = ['| points that clusters add | ' + ' | '.join(LABELS.values()) + ' |', '|---|--:|--:|']
  for block in BLOCKS:
    cells = []
    for name in LABELS.values():
      with_, without = (np.array([each[block][name] for each in found[method]]) for method in METHODS)
      cells.append(f'{runs.spread(100 * (with_ - without), 1)} ({(with_ > without).sum()} of {len(SEEDS)})')
    lines.append(f'| {block} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def table(found: dict[str, list[dict]]) -> str:
  """Mean and standard deviation over seeds, in percent, as Markdown."""
  lines = ['| training | features | ' + ' | '.join(LABELS.values()) + ' |', '|---|---|--:|--:|']
  for method, scores in found.items():
    for block in (each for each in BLOCKS if each in scores[0]):
      cells = [runs.spread(100 * np.array([each[block][name] for each in scores]), 1) for name in LABELS.values()]
      lines.append(f'| {method} | {block} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def shares(found: dict[str, list[list[float]]]) -> str:
  """Mean and standard deviation over seeds of the rows in batches, in percent, as Markdown."""
  lines = ['| rows in batches, % | ' + ' | '.join(f'stage {s + 1}' for s in range(STAGES)) + ' |', '|---|--:|--:|--:|']
  for method, of_seeds in found.items():
    cells = [runs.spread(100 * np.array(of_stage), 1) for of_stage in zip(*of_seeds, strict=True)]
    lines.append(f'| {method} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found: dict[str, list[dict]]) -> plt.Figure:
  """A panel a label: accuracy by stage, a line for each way to train."""
  figure, panels = plt.subplots(1, len(LABELS), figsize=(9, 3.4), layout='constrained')
  for panel, name in zip(panels, LABELS.values(), strict=True):
    for method, scores in found.items():
      values = np.array([[100 * each[block][name] for block in BLOCKS] for each in scores])
      panel.errorbar(BLOCKS, values.mean(0), values.std(0, ddof=1), marker='o', capsize=3, label=method)
    panel.set(title=name, ylabel='linear probe, %')
  panels[0].legend()
  return figure


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--epochs', type=int, default=9, help='of all stages together')
  epochs = parser.parse_args().epochs
  found = {method: [measure(clusters, seed, epochs) for seed in SEEDS] for method, clusters in METHODS.items()}
  untrained = {'before training': [{'stage 1': floor(seed, epochs)} for seed in SEEDS]}
  of_rows = {method: [used(clusters, seed, epochs) for seed in SEEDS] for method, clusters in METHODS.items()}
  text = '\n'.join([table(found | untrained), gains(found), shares(of_rows)])
  print(text)
  (HERE / 'mcl.md').write_text(text)
  draw(found).savefig(HERE / 'mcl.png', dpi=120)


if __name__ == '__main__':
  main()
