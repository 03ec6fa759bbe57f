"""1-to-K: captions in four languages at once against pairs of one language, and against English as a pivot.

    python -m experiments.one_to_k.run

Trains two small towers on pictures of emoji and their names in English, German, Japanese and Chinese: by 1-to-K, as
released and with its divisor on one direction alone; by CLIP in each language by itself, all of them at every step or
one that is drawn; and by CLIP of images and English, and of English and each other language. Writes recall in every
language and the spread of ranks over languages, among pictures of held-out concepts, and a figure, beside this file.
Runs are kept in runs/one_to_k: the same command goes on where it was interrupted. Needs the packages that source
`emoji` names.

Source of the claims: Nie et al., 2024, "Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with 1-to-K
Contrastive Learning".
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments import captioned

HERE = pathlib.Path(__file__).parent
EPOCHS = 20
LANGUAGES = {'en': 'English', 'de': 'German', 'ja': 'Japanese', 'zh': 'Chinese'}
CONFIG = 'multimodal/one_to_k.py'
PAIRS = {'method__loss': 'symmetric_info_nce'}
METHODS = {
  '1-to-K': {},
  '1-to-K, balanced': {'method__balanced': True},
  'pairwise': PAIRS,
  'pairwise, one language a step': PAIRS | {'data__num_captions': 1},
  'English as pivot': PAIRS | {'method__pivot': True},
}
SCORES = {
  'retrieval/t2i_r10': 'R@10 t→i',
  **{f'retrieval/{slot}/t2i_r10': f'{name} t→i' for slot, name in LANGUAGES.items()},
  'retrieval/i2t_r10': 'R@10 i→t',
  **{f'retrieval/{slot}/i2t_r10': f'{name} i→t' for slot, name in LANGUAGES.items()},
  'retrieval/t2i_rank_spread': 'rank spread t→i',
  'retrieval/i2t_rank_spread': 'rank spread i→t',
}


def draw(found: captioned.Found) -> plt.Figure:
  """Recall by language, and the spread of ranks, a mark for each method."""
  figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout='constrained')
  for i, (method, seeds) in enumerate(found.items()):
    shift = 0.12 * (i - (len(found) - 1) / 2)
    for panel, direction in zip(panels, ('t2i', 'i2t'), strict=False):
      values = np.array([[seed[f'retrieval/{slot}/{direction}_r10'] for seed in seeds] for slot in LANGUAGES])
      places = np.arange(len(LANGUAGES)) + shift
      panel.errorbar(places, values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3, label=method)
    spreads = np.array([[seed[f'retrieval/{d}_rank_spread'] for seed in seeds] for d in ('t2i', 'i2t')])
    panels[2].errorbar(np.arange(2) + shift, spreads.mean(1), spreads.std(1, ddof=1), fmt='o', capsize=3)
  for panel, title in zip(panels, ('R@10, text to image', 'R@10, image to text'), strict=False):
    panel.set(title=title, ylim=(0, None))
    panel.set_xticks(range(len(LANGUAGES)), LANGUAGES.values())
  panels[2].set(title='spread of ranks over languages', ylim=(0, None))
  panels[2].set_xticks(range(2), ['text to image', 'image to text'])
  figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper center', ncols=5)
  return figure


def main():
  """The whole study."""
  epochs = captioned.epochs(__doc__, EPOCHS)
  found = {}
  for method, overrides in METHODS.items():
    name = method.replace(', ', '-').replace(' ', '_')
    found[method] = captioned.train(HERE, name, CONFIG, epochs, **overrides)
  text = captioned.table(found, ['method'], SCORES)
  print(text)
  (HERE / 'one_to_k.md').write_text(text)
  draw(found).savefig(HERE / 'one_to_k.png', dpi=120)


if __name__ == '__main__':
  main()
