"""Contrastive gap: two encoders trained by CLIP's loss, with and without terms that spread and align their embeddings.

    python -m experiments.contrastive_gap.run
    python -m experiments.contrastive_gap.run --setting=fashion_mnist

Two encoders of their own initial parameters embed either the same images (one modality, identical pairs; the second
tower is shifted so that the clouds have one centre before training) or the upper and the lower halves of images. Both
are trained by CLIP, by CUA (with alignment and uniformity) and by CUAXU (with cross-uniformity too) in embeddings of
several widths. Prints the metrics of the gap, retrieval and nearest neighbours, all on held-out images, and writes them
and a figure beside this file. Some 12 minutes of CPU on digits.

Source of the claims: Fahim et al., 2024, "It's Not a Modality Gap".
"""

import argparse
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from contrastive_jax import losses
from contrastive_jax.data import sources
from contrastive_jax.evals import gap, knn
from contrastive_jax.models import mlp
from contrastive_jax.types import Embedded
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
WIDTHS = (3, 8, 32, 128, 512)
HIDDEN = (256,)
TEMPERATURE, BATCH, LEARNING_RATE = 0.01, 64, 1e-3
WEIGHTS = {
  'CLIP': dict(align_weight=0.0, uniform_weight=0.0, cross_weight=0.0),
  'CUA': dict(align_weight=1.0, uniform_weight=1.0, cross_weight=0.0),
  'CUAXU': dict(align_weight=1.0, uniform_weight=1.0, cross_weight=1.0),
}
UNTRAINED = 'before training'
PAIRS = {'same': 'the same image twice', 'halves': 'upper and lower half'}
SHOWN = {
  'gap/centroid_distance': 'centroid distance',
  'gap/separability': 'separability',
  'gap/alignment': 'alignment',
  'gap/uniformity': 'uniformity',
  'gap/cross_uniformity': 'cross-uniformity',
  'recall': 'R@1',
  'knn/accuracy': '20-NN',
}
SETTINGS = {'digits': (None, None, 2_000), 'fashion_mnist': (10_000, 1_000, 3_000)}  # training, test examples, steps


class Data(NamedTuple):
  """Pairs of a split and their labels."""

  x: jax.Array
  y: jax.Array
  label: np.ndarray


def pairs(setting: str, split: str, count: int | None, kind: str) -> Data:
  """The first `count` images of a split, normalised, as pairs."""
  source = getattr(sources, setting)(split=split)
  batch = source.read(np.arange(source.num_examples if count is None else count))
  image = ((batch['image'] / 255 - source.mean) / source.std).astype(np.float32)
  x, y = (image, image) if kind == 'same' else np.split(image, 2, axis=1)
  return Data(jnp.asarray(x), jnp.asarray(y), batch['label'])


def encoder(width: int):
  """Of either tower."""
  return mlp.make(widths=(*HIDDEN, width))


def init(key, data: Data, width: int, kind: str):
  """Parameters of two towers, and of the second a shift: to the centre of the first where both see the same."""
  keys = jax.random.split(key)
  towers = [encoder(width).init(k, side)[0] for k, side in zip(keys, (data.x, data.y), strict=True)]
  params = {'x': towers[0], 'y': towers[1], 'shift': jnp.zeros(width)}
  for _ in range(100 if kind == 'same' else 0):
    x, y = embed(params, data.x, data.y, width)
    params['shift'] += x.mean(0) - y.mean(0)
  return params


def embed(params, x, y, width: int):
  """Unit-norm embeddings of both sides."""
  (x, _), (y, _) = (encoder(width).apply(params[k], {}, side) for k, side in (('x', x), ('y', y)))
  return losses.unit(x), losses.unit(losses.unit(y) + params['shift'])


@functools.partial(jax.jit, static_argnames=('width', 'kind', 'name', 'steps'))
def train(key, data: Data, *, width: int, kind: str, name: str, steps: int):
  """Parameters after training, or before it, where there is no loss of that name."""
  of_model, of_steps = jax.random.split(key)
  params = init(of_model, data, width, kind)
  if name == UNTRAINED:
    return params
  optimiser = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, steps), weight_decay=0.1)

  def objective(params, x, y):
    sides = embed(params, x, y, width)
    return losses.clip_with_geometry(*sides, temperature=TEMPERATURE, **WEIGHTS[name]).mean()

  def step(carry, key):
    params, state = carry
    rows = jax.random.choice(key, data.x.shape[0], (BATCH,), replace=False)
    gradient = jax.grad(objective)(params, data.x[rows], data.y[rows])
    updates, state = optimiser.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(of_steps, steps))
  return params


def measure(params, data: dict[str, Data], width: int) -> dict[str, float]:
  """What is shown, of the test split."""
  of_split = {split: jax.jit(embed, static_argnums=3)(params, each.x, each.y, width) for split, each in data.items()}
  x, y = of_split['test']
  own = np.arange(len(x))
  cosine = np.asarray(x @ y.T)
  recall = np.mean([(cosine.argmax(1) == own).mean(), (cosine.argmax(0) == own).mean()])

  def embedded(split):
    x, label = of_split[split][0], data[split].label
    return Embedded(features=x, projection=x, label=label, index=np.arange(len(label), dtype=np.int32))

  return gap.modality_gap(x, y) | {'recall': float(recall)} | knn.make().run(embedded)


def table(found) -> str:
  """Mean and standard deviation over seeds, as Markdown: a block a kind of pairs."""
  blocks = []
  for kind, title in PAIRS.items():
    lines = [f'| {title} | width | ' + ' | '.join(SHOWN.values()) + ' |', '|---|--:|' + '--:|' * len(SHOWN)]
    for name in (UNTRAINED, *WEIGHTS):
      for width in WIDTHS:
        cells = [runs.spread([each[key] for each in found[kind, name, width]]) for key in SHOWN]
        lines.append(f'| {name} | {width} | ' + ' | '.join(cells) + ' |')
    blocks.append('\n'.join(lines))
  return '\n\n'.join(blocks) + '\n'


def draw(found, setting: str):
  """A panel a metric over the width, a row a kind of pairs."""
  keys = ('gap/centroid_distance', 'gap/separability', 'gap/uniformity', 'recall', 'knn/accuracy')
  figure, panels = plt.subplots(len(PAIRS), len(keys), figsize=(15, 6), layout='constrained', sharex=True)
  for row, (kind, title) in zip(panels, PAIRS.items(), strict=True):
    for panel, key in zip(row, keys, strict=True):
      for name in (UNTRAINED, *WEIGHTS):
        values = np.array([[each[key] for each in found[kind, name, width]] for width in WIDTHS])
        style = dict(color='0.6', linestyle='--') if name == UNTRAINED else dict(marker='o')
        panel.errorbar(WIDTHS, values.mean(1), values.std(1, ddof=1), capsize=3, label=name, **style)
      panel.set(xscale='log', title=SHOWN[key])
      panel.set_xticks(WIDTHS, map(str, WIDTHS))
      panel.minorticks_off()
    row[0].set_ylabel(title)
  for panel in panels[-1]:
    panel.set_xlabel('width')
  figure.legend(*panels[0, 0].get_legend_handles_labels(), loc='outside upper center', ncols=4)
  figure.savefig(HERE / f'{setting}.png', dpi=120)


def main():
  """The whole study."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--setting', default='digits', choices=SETTINGS)
  setting = parser.parse_args().setting
  train_count, test_count, steps = SETTINGS[setting]
  found = {}
  for kind in PAIRS:
    data = {split: pairs(setting, split, n, kind) for split, n in (('train', train_count), ('test', test_count))}
    arrays = data['train']._replace(label=None)  # no loss sees labels
    for name in (UNTRAINED, *WEIGHTS):
      for width in WIDTHS:
        found[kind, name, width] = []
        for seed in SEEDS:
          params = train(jax.random.key(seed), arrays, width=width, kind=kind, name=name, steps=steps)
          found[kind, name, width].append(measure(params, data, width))
        print(kind, name, width, found[kind, name, width][0], flush=True)
  print(table(found))
  (HERE / f'{setting}.md').write_text(table(found))
  draw(found, setting)


if __name__ == '__main__':
  main()
