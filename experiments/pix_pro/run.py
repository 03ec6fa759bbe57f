"""PixPro and PixContrast against methods of whole views: what tells a cell of the feature map of the place it lies at?

    python -m experiments.pix_pro.run

Images are four garments of Fashion-MNIST, two by two, so that no image is of one class. Encoders learn from them
without labels; then a linear probe, fitted on cells of the feature map, tells the class of the garment at a cell's
place. Writes a table and a figure beside this file. Runs are kept in runs/pix_pro: the same command goes on where it
was interrupted. Some 12 minutes on one CPU core.

Source of the claim: Xie et al., 2021, "Propagate Yourself".
"""

import argparse
import functools
import pathlib

import jax
import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.engine import resolve, serve, setup
from contrastive_jax.evals import linear
from contrastive_jax.types import Embedded
from experiments import runs

HERE = pathlib.Path(__file__).parent
RUNS = runs.ROOT / 'runs' / 'pix_pro'
METHODS = {'PixPro': 'pix_pro', 'PixContrast': 'pix_contrast', 'BYOL': 'byol', 'SimCLR': 'simclr'}
FLOOR = 'random encoder'
SEEDS = (0, 1, 2)
SIDE, PER_SIDE = 16, 2  # pixels of a garment's place, and garments in a row and a column
PROBED = {'train': 1500, 'test': 1000}  # images, of which every cell is a row of the probe
OVERRIDES = dict(
  data__source__name='arrays',
  data__batch_size=128,
  data__views__rotate=0.0,
  data__views__shear=0.0,
  data__views__crop_scale=(0.3, 1.0),
  encoder__widths=(16, 32, 64),
  evals__knn=False,
  evals__linear=False,
  evals__geometry=False,
)


def composites(split: str):
  """Images uint8 [n, 32, 32, 1] of four garments each, every garment once, and the four classes [n, 2, 2]."""
  source = sources.fashion_mnist(split=split)
  order = np.random.default_rng(0).permutation(source.num_examples)
  fields = source.read(order[: len(order) // PER_SIDE**2 * PER_SIDE**2])
  # Halved, to the mean of four pixels, with a frame of one.
  halved = fields['image'].reshape(-1, 14, 2, 14, 2).astype(np.float32).mean((2, 4))
  framed = np.pad(np.round(halved).astype(np.uint8), ((0, 0), (1, 1), (1, 1)))
  grid = framed.reshape(-1, PER_SIDE, PER_SIDE, SIDE, SIDE).swapaxes(2, 3)
  whole = PER_SIDE * SIDE
  return grid.reshape(-1, whole, whole, 1), fields['label'].reshape(-1, PER_SIDE, PER_SIDE)


def archive() -> pathlib.Path:
  """The composites as a data set of the package, without labels."""
  path = RUNS / 'garments.npz'
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image=composites('train')[0], image_test=composites('test')[0])
  return path


def cells(run: setup.Run, encoder, params, stats, split: str) -> Embedded:
  """Every cell of the maps of some composites, with the class of the garment at its place."""
  images, classes = (x[: PROBED[split]] for x in composites(split))

  @jax.jit
  def of_images(images):
    return encoder.map(params, stats, jax.vmap(run.views.plain)(images))[0]

  maps = np.concatenate([of_images(images[i : i + 250]) for i in range(0, len(images), 250)])
  count, height, width, features = maps.shape
  label = classes.repeat(height // PER_SIDE, 1).repeat(width // PER_SIDE, 2).reshape(-1).astype(np.int32)
  rows = maps.reshape(-1, features)
  return Embedded(rows, rows, label, np.arange(count * height * width, dtype=np.int32))


def probed(run: setup.Run, config, params, state) -> float:
  """Share of cells of test images that a linear probe tells the garment of."""
  encoder = resolve.build(config.encoder, 'encoder')
  of_split = functools.partial(cells, run, encoder, params['encoder'], state['stats']['encoder'])
  evaluator = linear.make(strengths=(1e-3,), tolerance=1e-3, max_iterations=300)
  return evaluator.run(of_split)['linear/accuracy']


def measure(method: str, seed: int, epochs: float) -> float:
  """Trains a method, unless that is done, and probes its cells."""
  path = RUNS / f'{METHODS[method]}-{epochs}-{seed}'
  overrides = OVERRIDES | dict(data__source__path=archive(), seed=seed, train__epochs=epochs) | runs.LAST_STEP
  runs.train(f'ssl/{METHODS[method]}.py:fashion_mnist', path, **overrides)
  config = resolve.load(str(path))
  run = setup.build(config)
  params, state, _ = serve.restore(run, path)
  return probed(run, config, params, state)


def floor(seed: int, epochs: float) -> float:
  """The same of an encoder that is not trained."""
  config = resolve.load(str(RUNS / f'{METHODS["SimCLR"]}-{epochs}-{seed}'))
  run = setup.build(config)
  fresh = run.fresh()
  return probed(run, config, fresh.params, fresh.state)


def table(found: dict[str, np.ndarray]) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = ['| method | probe of cells |', '|---|--:|']
  return '\n'.join([*lines, *(f'| {name} | {runs.spread(values)} |' for name, values in found.items())]) + '\n'


def draw(found: dict[str, np.ndarray]) -> plt.Figure:
  """Images that are learnt from, and the accuracy of each method, every seed a point."""
  figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout='constrained', width_ratios=(1, 2))
  left.imshow(np.concatenate(composites('test')[0][:2, :, :, 0]), cmap='gray')
  left.set_axis_off()
  left.set_title('two images')
  for i, values in enumerate(found.values()):
    right.plot(np.full(len(values), i), values, 'o', color=f'C{i}')
  right.set_xticks(range(len(found)), [name.replace(' ', '\n') for name in found])
  right.set_title('linear probe of cells: accuracy')
  right.grid(axis='y', alpha=0.3)
  return figure


def main():
  """The study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--epochs', type=float, default=3.5, help='of training, 117 steps each')
  epochs = parser.parse_args().epochs
  found = {name: np.array([measure(name, seed, epochs) for seed in SEEDS]) for name in METHODS}
  found[FLOOR] = np.array([floor(seed, epochs) for seed in SEEDS])
  print(table(found))
  (HERE / 'pix_pro.md').write_text(table(found))
  draw(found).savefig(HERE / 'pix_pro.png', dpi=120)


if __name__ == '__main__':
  main()
