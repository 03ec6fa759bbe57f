"""CLOSE: a probe that is trained on texts and tested on images, over the noise that the texts are given.

    python -m experiments.close.run

Nothing is trained beyond the runs of `captioned.clip` and `experiments.emoji_gap`. A linear probe of the group of an
emoji ('Food & Drink', of nine) is fitted on names of the training split, one of each concept, and scored on pictures of
held-out concepts: with Gaussian noise added to the names, with their mean moved to that of the pictures, and with both.
Models with a gap between the clouds (CLIP) and with less of one (CUA) say whether the gap is why noise helps. Writes a
table and a figure beside this file.

Source of the claims: Gu et al., 2023, "I Can't Believe There's No Images! Learning Visual Tasks Using only Language
Supervision".
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.evals import close, gap, linear
from experiments import captioned
from experiments.emoji_gap.run import trained

HERE = pathlib.Path(__file__).parent
MODELS = ('CLIP', 'CUA')
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
STRENGTHS = (1e-3,)  # of the penalty of all probes
STILL = {'close/accuracy': 'neither', 'close/shift_accuracy': 'shift'}
NOISY = {'close/noise_accuracy': 'noise', 'close/shift_noise_accuracy': 'noise and shift'}
WIDTH = captioned.SMALL['head__features']


def measure(embed, seed: int) -> dict[str, float]:
  """Accuracies by adapter and sigma, that of a probe of images, how far apart pairs are, and the gap."""
  thinned = captioned.one_per_concept(embed)
  found = {}
  for sigma in SIGMAS:
    scores = close.make(sigma=sigma, strengths=STRENGTHS, seed=seed).run(thinned)
    found |= {key: scores[key] for key in STILL} | {f'{key} {sigma:g}': scores[key] for key in NOISY}
  probe = linear.make(strengths=STRENGTHS, representation='projection', normalise='none', seed=seed)
  test = thinned('test')
  apart = np.linalg.norm(test.projection - test.texts.projection[:, 0], axis=1).mean()
  largest = np.bincount(test.label).max() / len(test.label)
  found |= {'images': probe.run(thinned)['linear/accuracy'], 'apart': float(apart), 'largest class': float(largest)}
  return found | gap.make().run(embed)


def draw(found: captioned.Found) -> plt.Figure:
  """Accuracy over sigma, a panel for each model."""
  figure, panels = plt.subplots(1, len(found), figsize=(10, 3.8), layout='constrained', sharey=True)
  for panel, (model, seeds) in zip(panels, found.items(), strict=True):
    for key, label in NOISY.items():
      values = np.array([[seed[f'{key} {sigma:g}'] for seed in seeds] for sigma in SIGMAS])
      panel.errorbar(SIGMAS, values.mean(1), values.std(1, ddof=1), marker='o', capsize=3, label=label)
    for key, label, style in (
      ('close/accuracy', 'neither', '--'),
      ('close/shift_accuracy', 'shift', '-.'),
      ('images', 'probe of images', ':'),
    ):
      panel.axhline(np.mean([seed[key] for seed in seeds]), color='0.4', linestyle=style, label=label)
    panel.axvline(np.mean([seed['apart'] for seed in seeds]) / WIDTH**0.5, color='0.85', linewidth=6, zorder=0)
    distance = np.mean([seed['gap/centroid_distance'] for seed in seeds])
    panel.set(title=f'{model}: centroids {distance:.2f} apart', xlabel='sigma of the noise', xscale='log')
  panels[0].set_ylabel('accuracy on pictures')
  panels[0].legend(fontsize=7)
  return figure


def main():
  """The whole study."""
  epochs = captioned.epochs(__doc__, captioned.EPOCHS)
  found = {
    m: [measure(run.embed, seed) for seed, run in zip(captioned.SEEDS, trained(m, epochs), strict=True)] for m in MODELS
  }
  over_sigma = {f'{key} {sigma:g}': f'{label} {sigma:g}' for key, label in NOISY.items() for sigma in SIGMAS}
  facts = {'gap/centroid_distance': 'centroid distance', 'gap/separability': 'separability', 'apart': 'pair distance'}
  more = {'images': 'probe of images', 'largest class': 'largest class'}
  text = captioned.table(found, ['model'], facts | more | STILL)
  text += '\n' + captioned.table(found, ['model'], over_sigma)
  print(text)
  (HERE / 'close.md').write_text(text)
  draw(found).savefig(HERE / 'close.png', dpi=120)


if __name__ == '__main__':
  main()
