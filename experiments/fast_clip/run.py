"""Small batches: SigLIP, and the running denominators of SogCLR, iSogCLR and FastCLIP, against CLIP.

    python -m experiments.fast_clip.run

Trains two small towers on pictures of emoji and their English names in batches of 32 and of 256, for the same number of
epochs and at the same rate. Writes retrieval among pictures of held-out concepts, and a figure, beside this file. Runs
are kept in runs/fast_clip, those of CLIP in batches of 256 in runs/emoji_clip.

Source of the claims: Yuan et al., 2022 (SogCLR); Qiu et al., 2023 (iSogCLR); Wei et al., 2024, "FastCLIP";
Zhai et al., 2023 (SigLIP).
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments import captioned

HERE = pathlib.Path(__file__).parent
EPOCHS = 10
BATCHES = (32, 256)
CLIP, SOG, FAST = (f'multimodal/{name}.py' for name in ('clip', 'sog_clip', 'fast_clip'))
# Each starts at CLIP's temperature, but SigLIP, which starts at its own with a bias of -10.
METHODS = {
  'CLIP': (CLIP, {}),
  'SigLIP': ('multimodal/siglip.py', {}),
  'SogCLR': (SOG, {}),
  'iSogCLR': (SOG, {'method__loss': 'isog_clip'}),
  'FastCLIP v3': (FAST, {}),
}
SCORES = {
  f'retrieval/{d}_{r}': f'R@{r[1:]} {where}' for d, where in (('t2i', 't→i'), ('i2t', 'i→t')) for r in ('r1', 'r10')
}


def train(method: str, batch: int, epochs: float) -> list[dict[str, float]]:
  """The last scores of each seed."""
  config, overrides = METHODS[method]
  if config == CLIP and batch == 256:
    return [run.scores for run in captioned.clip(epochs)]
  if config == FAST:
    overrides = overrides | {'method__gamma_epochs': epochs / 2}
  name = f'{method.replace(" ", "_")}-{batch}'
  return captioned.train(HERE, name, config, epochs, data__batch_size=batch, **captioned.NAMES, **overrides)


def draw(found: captioned.Found) -> plt.Figure:
  """Recall of each method, a mark for each batch."""
  figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
  for panel, key in zip(panels, ('retrieval/t2i_r10', 'retrieval/i2t_r10'), strict=True):
    for i, batch in enumerate(BATCHES):
      values = np.array([[seed[key] for seed in found[_row(batch, method)]] for method in METHODS])
      places = np.arange(len(METHODS)) + 0.15 * (i - 0.5)
      panel.errorbar(places, values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3, label=f'batches of {batch}')
    panel.set(title=SCORES[key], ylim=(0, None))
    panel.set_xticks(range(len(METHODS)), METHODS)
  panels[0].legend()
  return figure


def _row(batch: int, method: str) -> str:
  return f'{batch} | {method}'


def main():
  """The whole study."""
  epochs = captioned.epochs(__doc__, EPOCHS)
  found = {_row(batch, method): train(method, batch, epochs) for batch in BATCHES for method in METHODS}
  text = captioned.table(found, ['batch', 'method'], SCORES)
  print(text)
  (HERE / 'fast_clip.md').write_text(text)
  draw(found).savefig(HERE / 'fast_clip.png', dpi=120)


if __name__ == '__main__':
  main()
