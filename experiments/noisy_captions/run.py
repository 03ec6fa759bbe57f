"""Noisy captions: label smoothing, as ALIGN has it, against CLIP with a growing share of wrong captions.

    python -m experiments.noisy_captions.run

Trains two small towers on pictures of emoji and their English names, of which a share is exchanged between training
pictures, by CLIP and by the same loss with smoothed labels; nothing else differs. Writes retrieval among pictures of
held-out concepts, whose names are right, and a figure, beside this file. Runs are kept in runs/noisy_captions: the same
command goes on where it was interrupted. Needs the packages that source `emoji` names.

Source of the claim: Jia et al., 2021, "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text
Supervision", which smooths labels by 0.1 on captions that are hardly filtered.
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments import captioned

HERE = pathlib.Path(__file__).parent
EPOCHS = 20
CONFIG = 'multimodal/clip.py'
SHARES = (0.0, 0.3, 0.6)
METHODS = {'CLIP': 0.0, 'smoothed by 0.1': 0.1}
SCORES = {
  'retrieval/t2i_r10': 'R@10 t→i',
  'retrieval/i2t_r10': 'R@10 i→t',
  'retrieval/t2i_r1': 'R@1 t→i',
  'retrieval/i2t_r1': 'R@1 i→t',
  'retrieval/t2i_median_rank': 'median rank t→i',
}


def draw(found: captioned.Found) -> plt.Figure:
  """Recall over the share of wrong captions, a line for each method."""
  figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained', sharex=True)
  for panel, key in zip(panels, ('retrieval/t2i_r10', 'retrieval/i2t_r10'), strict=True):
    for method in METHODS:
      values = np.array([[seed[key] for seed in found[_row(share, method)]] for share in SHARES])
      panel.errorbar(SHARES, values.mean(1), values.std(1, ddof=1), marker='o', capsize=3, label=method)
    panel.set(title=SCORES[key], xlabel='share of wrong captions', ylim=(0, None))
  panels[0].legend()
  return figure


def _row(share: float, method: str) -> str:
  return f'{share:g} | {method}'


def main():
  """The whole study."""
  epochs = captioned.epochs(__doc__, EPOCHS)
  found = {}
  for share in SHARES:
    for method, smoothing in METHODS.items():
      given = {'method__label_smoothing': smoothing, 'data__source__wrong': share, 'data__source__keywords': False}
      name = f'{share:g}-{method.replace(" ", "_")}'
      found[_row(share, method)] = captioned.train(HERE, name, CONFIG, epochs, **given)
  text = captioned.table(found, ['wrong captions', 'method'], SCORES)
  print(text)
  (HERE / 'noisy_captions.md').write_text(text)
  draw(found).savefig(HERE / 'noisy_captions.png', dpi=120)


if __name__ == '__main__':
  main()
