"""Symile against pairwise CLIP on pictures of emoji with their names in two languages.

    python -m experiments.emoji_symile.run

Trains two small towers on tuples of a picture, its English and its German name: by Symile, which scores the three at
once, and by CLIP of all three pairs. The two languages share the text tower. Held-out pictures are looked for by one
name, and by both together: by Symile's product of three and by the sum of the pairs' products. Writes recall and a
figure beside this file. Runs are kept in runs/emoji_symile.

Source of the claims: Saporta et al., 2024, "Contrasting with Symile: Simple Model-Agnostic Representation Learning for
Unlimited Modalities".
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax import losses
from contrastive_jax.evals import retrieval
from experiments import captioned, runs

HERE = pathlib.Path(__file__).parent
CONFIG = 'multimodal/symile.py'
METHODS = {
  'Symile': {},
  'pairwise CLIP': dict(method__loss='pairwise_clip', method__temperature=0.07, method__lowest_temperature=0.01),
}
QUERIES = {'en': 'English', 'de': 'German', 'sum': 'both, sum of pairs', 'product': 'both, product of three'}
SCORES = {
  f'{query} {key}': f'{name}: {key.upper().replace("R", "R@")}'
  for query, name in QUERIES.items()
  for key in ('r1', 'r10')
}


def measure(run: runs.Trained) -> dict[str, float]:
  """Recall of the picture by each kind of query; of two names every score of a picture is its product with one row."""
  test = run.embed('test')
  x, texts = np.asarray(test.projection), test.texts
  english, german = texts.projection[:, 0], texts.projection[:, 1]
  rows = {'en': english, 'de': german, 'sum': english + german, 'product': english * german}
  images, there = np.ones(len(x), bool), texts.mask.all(1)
  found = {}
  for query, of_query in rows.items():
    # A query's norm changes no rank.
    matched = retrieval.match(x, losses.unit(of_query), images, there)['t2i']
    scores = retrieval.figures(matched, images)
    found |= {f'{query} {key}': scores[key] for key in ('r1', 'r10')}
  return found


def draw(found: captioned.Found) -> plt.Figure:
  """Recall by query, a mark for each method."""
  figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout='constrained')
  for panel, key in zip(panels, ('r1', 'r10'), strict=True):
    for i, (method, seeds) in enumerate(found.items()):
      values = np.array([[seed[f'{query} {key}'] for seed in seeds] for query in QUERIES])
      places = np.arange(len(QUERIES)) + 0.15 * (i - 0.5)
      panel.errorbar(places, values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3, label=method)
    panel.set(title=f'R@{key[1:]} of the picture', ylim=(0, None))
    panel.set_xticks(range(len(QUERIES)), [name.replace(', ', ',\n') for name in QUERIES.values()])
  panels[0].legend()
  return figure


def main():
  """The whole study."""
  epochs, found = captioned.epochs(__doc__, captioned.EPOCHS), {}
  for method, overrides in METHODS.items():
    of_seeds = captioned.trained(HERE.name, method.replace(' ', '_'), CONFIG, epochs, **overrides)
    found[method] = [measure(run) for run in of_seeds]
  text = captioned.table(found, ['method'], SCORES)
  print(text)
  (HERE / 'emoji_symile.md').write_text(text)
  draw(found).savefig(HERE / 'emoji_symile.png', dpi=120)


if __name__ == '__main__':
  main()
