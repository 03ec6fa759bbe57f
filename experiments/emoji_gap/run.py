"""The contrastive gap between pictures and names: CLIP with and without terms that spread and align both clouds.

    python -m experiments.emoji_gap.run

`experiments/contrastive_gap` has one modality twice and halves of digits; this has images and texts. CLIP's runs are
those of `captioned.clip`; CUA and CUAXU differ from it in their terms alone. Writes the metrics of the gap and
retrieval among pictures of held-out concepts, and a figure, beside this file. Runs are kept in runs/emoji_clip and
runs/emoji_gap.

Source of the claims: Fahim et al., 2024, "It's Not a Modality Gap".
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.evals import gap
from experiments import captioned, runs

HERE = pathlib.Path(__file__).parent
CONFIG = 'multimodal/contrastive_gap.py'
METHODS = {'CLIP': {}, 'CUA': {'method__cross_weight': 0.0}, 'CUAXU': {}}
METRICS = {key: key.removeprefix('gap/').replace('_', ' ') for key in gap.GLOSSARY}
RECALL = {
  f'retrieval/{d}_{r}': f'R@{r[1:]} {where}' for d, where in (('t2i', 't→i'), ('i2t', 'i→t')) for r in ('r1', 'r10')
}


def trained(method: str, epochs: float) -> list[runs.Trained]:
  """The runs of a method."""
  if method == 'CLIP':
    return captioned.clip(epochs)
  return captioned.trained(HERE.name, method.lower(), CONFIG, epochs, **captioned.NAMES, **METHODS[method])


def draw(found: captioned.Found) -> plt.Figure:
  """A panel for each metric of the gap and one for recall, a mark for each method."""
  figure, panels = plt.subplots(2, 3, figsize=(10, 6), layout='constrained')
  places, methods = np.arange(len(found)), list(found)
  for panel, (key, title) in zip(panels.flat, METRICS.items(), strict=False):
    values = np.array([[seed[key] for seed in seeds] for seeds in found.values()])
    panel.errorbar(places, values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3)
    panel.set(title=title)
  for i, (key, label) in enumerate(RECALL.items()):
    values = np.array([[seed[key] for seed in seeds] for seeds in found.values()])
    panels[1, 2].errorbar(
      places + 0.1 * (i - 1.5), values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3, label=label
    )
  panels[1, 2].set(title='recall', ylim=(0, None))
  panels[1, 2].legend(fontsize=7)
  for panel in panels.flat:
    panel.set_xticks(places, methods)
    panel.set_xlim(-0.5, len(methods) - 0.5)
  return figure


def main():
  """The whole study."""
  measure, epochs = gap.make().run, captioned.epochs(__doc__, captioned.EPOCHS)
  found = {method: [run.scores | measure(run.embed) for run in trained(method, epochs)] for method in METHODS}
  text = captioned.table(found, ['method'], METRICS | RECALL)
  print(text)
  (HERE / 'emoji_gap.md').write_text(text)
  draw(found).savefig(HERE / 'emoji_gap.png', dpi=120)


if __name__ == '__main__':
  main()
