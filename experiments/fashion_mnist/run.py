"""Fashion-MNIST: do methods with state, queues, teachers and moments pass raw pixels and the random encoder?

    python -m experiments.fashion_mnist.run
    python -m experiments.fashion_mnist.run --epochs=200 --encoder=convnet --labelled=6000

Trains nine methods on the 60,000 training images, without labels, with one recipe: what differs is the method's own
section and networks. Scores the features on all 10,000 test images with a linear probe and 20 nearest neighbours, both
given 1,000 labelled training images of each class, beside the pixels and the same encoder before training; and their
effective rank, which falls towards 1 where a method collapses. Writes a table and a figure beside this file. Runs are
kept in runs/fashion_mnist: the same command goes on where it was interrupted. Some 60 minutes on one busy CPU core; the
second command is for a GPU.
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.engine import resolve, serve, workdir
from contrastive_jax.evals import geometry, knn, linear
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
METHODS: dict[str, tuple[str, dict]] = {
  'SimCLR': ('simclr', {}),
  'MoCo v2': ('moco_v2', {}),
  'NNCLR': ('nnclr', {}),
  'BYOL': ('byol', {}),
  'SimSiam': ('simsiam', {}),
  'SwAV': ('swav', dict(data__num_small_views=0)),
  'DINO': ('dino', dict(data__num_small_views=0, method__freeze_last_epochs=0.2)),
  'Barlow Twins': ('barlow_twins', {}),
  'VICReg': ('vicreg', {}),
}
# A guess: garments lie in the middle, upright, shoes to the left, so views change little and mirror nothing. Stronger
# views were not compared at this length.
VIEWS = dict(crop_scale=(0.6, 1.0), flip=0.0, rotate=0.0, shear=0.0, erase=0.0)
ENCODERS = {
  'mlp': dict(name='mlp', widths=(1024, 256)),
  'convnet': dict(name='convnet', widths=(64, 128, 256), pool='flatten', features=256),
}
SCORES = {
  'linear': 'linear probe, %',
  'knn': '20-NN, %',
  'features_rank': 'effective rank of features',
  'projection_rank': 'of projections',
}
FLOORS = ('raw pixels', 'random encoder')


def recipe(encoder: str, epochs: float) -> dict:
  """Options that all methods share; scores are taken here, so that runs measure none."""
  views = {f'data__views__{key}': value for key, value in VIEWS.items()}
  networks = {f'encoder__{key}': value for key, value in ENCODERS[encoder].items()}
  none = dict(evals__knn=False, evals__linear=False, evals__geometry=False, train__report=False, train__keep_best=0)
  return views | networks | none | dict(data__batch_size=256, train__epochs=epochs)


def measure(name: str, seed: int, options: argparse.Namespace) -> dict:
  """Scores of a method's run of one seed, and of its floors where it is the first method."""
  config, more = METHODS[name]
  kept = f'{options.encoder}-{options.epochs:g}-{name.replace(" ", "_")}-{seed}'
  path = runs.ROOT / 'runs' / 'fashion_mnist' / kept
  record = path / f'scores-{options.labelled}.json'
  if record.exists():
    return json.loads(record.read_text())
  runs.train(f'ssl/{config}.py:fashion_mnist', path, seed=seed, **recipe(options.encoder, options.epochs) | more)
  few = {'data.imbalance': '1.0', 'data.imbalance_largest': str(options.labelled)}
  resolved = resolve.load(str(path), few)
  run = serve.build(resolved, serve.sources(resolved, str(path)), path)
  found = {'trained': scores(run.embedder.at(*serve.restore(run, path)[:2]))}
  if name == next(iter(METHODS)):
    # Pixels are the same for every seed.
    floors = {k: v for k, v in run.floors(run.fresh()).items() if k == 'random encoder' or seed == SEEDS[0]}
    found |= {floor: scores(embed) for floor, embed in floors.items()}
  workdir.write_json(record, found)
  print(f'{kept}: {found}', flush=True)
  return found


def scores(embed) -> dict[str, float]:
  """Accuracies in percent, ranks of the test images' embeddings."""
  probe = linear.make(strengths=(1e-1, 1e-2, 1e-3), max_iterations=300).run(embed)
  found = {'linear': 100 * probe['linear/accuracy'], 'knn': 100 * knn.make().run(embed)['knn/accuracy']}
  test = embed('test')
  for kind in ('features', 'projection'):
    found[f'{kind}_rank'] = geometry.effective_rank(geometry.spectrum(getattr(test, kind), centre=False))
  return found


def table(found: dict[str, list[dict]]) -> str:
  """Mean and standard deviation over seeds, and the margin over the better floor, as Markdown."""
  best = {key: max(np.mean([each[key] for each in found[floor]]) for floor in FLOORS) for key in ('linear', 'knn')}
  lines = ['| method | ' + ' | '.join(SCORES.values()) + ' | linear probe over the better floor | 20-NN over it |']
  lines.append('|---|' + '--:|' * (len(SCORES) + 2))
  for name, measured in found.items():
    cells = [cell([each[key] for each in measured]) for key in SCORES]
    cells += [f'{np.mean([each[key] for each in measured]) - best[key]:+.1f}' for key in ('linear', 'knn')]
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def cell(values: list[float]) -> str:
  """Mean ± standard deviation; what is no matter of the seed has none."""
  return runs.spread(np.array(values), 1) if len(values) > 1 else f'{values[0]:.1f}'


def draw(found: dict[str, list[dict]]) -> plt.Figure:
  """Accuracies with the floors as lines, and ranks."""
  figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout='constrained')
  names = [name for name in found if name not in FLOORS]
  for panel, key in zip(panels, ('linear', 'knn', 'features_rank'), strict=True):
    values = np.array([[each[key] for each in found[name]] for name in names])
    panel.errorbar(values.mean(1), range(len(names)), xerr=values.std(1, ddof=1), fmt='o', capsize=3)
    for style, floor in zip(('--', ':'), FLOORS, strict=True):
      if key != 'features_rank' or floor != 'raw pixels':
        panel.axvline(np.mean([each[key] for each in found[floor]]), color='0.4', linestyle=style, label=floor)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlabel(SCORES[key])
  figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=len(FLOORS))
  return figure


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--epochs', type=float, default=4.0, help='passes over the 60,000 training images')
  parser.add_argument('--encoder', default='mlp', choices=ENCODERS)
  parser.add_argument('--labelled', type=int, default=1000, help='training images of each class that probes are given')
  parser.add_argument('--seeds', type=int, default=len(SEEDS), help='how many; the table needs two')
  options = parser.parse_args()
  each = {name: [measure(name, seed, options) for seed in SEEDS[: options.seeds]] for name in METHODS}
  first = each[next(iter(METHODS))]
  found = {floor: [one[floor] for one in first if floor in one] for floor in FLOORS}
  found |= {name: [one['trained'] for one in measured] for name, measured in each.items()}
  text = table(found)
  print(text)
  (HERE / f'{options.encoder}.md').write_text(text)
  draw(found).savefig(HERE / f'{options.encoder}.png', dpi=120)


if __name__ == '__main__':
  main()
