"""Hubness: scores that punish hubs against plain similarity, on the runs of CLIP that other studies use too.

    python -m experiments.hubness.run

Nothing is trained beyond `captioned.clip`. Retrieval between pictures of held-out emoji and their names is ranked by
the cosine and by what each normalisation of `evals.hubness` makes of it, with pictures and names of the training split
as banks. Writes recall and the skewness of how often each candidate is among the 10 nearest, both directions, and both
over the scale beta of the inverted softmax, beside this file.

Source of the claims: Wang et al., 2023, "Balance Act: Mitigating Hubness in Cross-Modal Retrieval with Query and
Gallery Banks"; Bogolin et al., 2022 (dynamic inverted softmax).
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax.evals import retrieval
from experiments import captioned

HERE = pathlib.Path(__file__).parent
PLAIN = 'plain'
RULES = {
  PLAIN: {},
  'inverted softmax': dict(normalise='inverted_softmax'),
  'inverted softmax, bank of the test queries': dict(normalise='inverted_softmax', bank='test'),
  'dual': dict(normalise='dual_inverted_softmax'),
  'dynamic': dict(normalise='dynamic_inverted_softmax'),
  'dynamic dual': dict(normalise='dynamic_dual_inverted_softmax'),
  'CSLS': dict(normalise='csls', neighbours=10),
}
BETAS = (1.0, 3.0, 10.0, 20.0, 50.0, 100.0)
BANKS = {'train': 'bank of the training split', 'test': 'bank of the test queries'}
DIRECTIONS = {'t2i': 't→i', 'i2t': 'i→t'}
FIGURES = {'r1': 'R@1', 'r10': 'R@10', 'hubness': 'skewness', 'largest_hub': 'largest hub'}
SCORES = {f'{d}_{f}': f'{name} {where}' for d, where in DIRECTIONS.items() for f, name in FIGURES.items()}


def measure(embed, **options) -> dict[str, float]:
  """The scores under a rule."""
  found = retrieval.make(per_slot=False, **options).run(embed)
  return {key: found[f'retrieval/{"normalised/" if options else ""}{key}'] for key in SCORES}


def draw(plain, swept) -> plt.Figure:
  """Recall and skewness over beta, a line for each bank; dashed is the plain similarity."""
  figure, panels = plt.subplots(2, 2, figsize=(9, 6), layout='constrained', sharex=True)
  for row, key in zip(panels, ('r10', 'hubness'), strict=True):
    for panel, (direction, where) in zip(row, DIRECTIONS.items(), strict=True):
      name = f'{direction}_{key}'
      for bank, label in BANKS.items():
        values = np.array([[seed[name] for seed in swept[bank, beta]] for beta in BETAS])
        panel.errorbar(BETAS, values.mean(1), values.std(1, ddof=1), marker='o', capsize=3, label=label)
      panel.axhline(np.mean([seed[name] for seed in plain]), color='0.5', linestyle='--', label='plain similarity')
      panel.set(title=f'{FIGURES[key]} {where}', xscale='log')
  for panel in panels[1]:
    panel.set_xlabel('beta of the inverted softmax')
  panels[0, 0].legend()
  return figure


def main():
  """The whole study."""
  embeds = [run.embed for run in captioned.clip(captioned.epochs(__doc__, captioned.EPOCHS))]
  found = {rule: [measure(embed, **options) for embed in embeds] for rule, options in RULES.items()}
  text = captioned.table(found, ['scores'], SCORES)
  print(text, flush=True)
  (HERE / 'hubness.md').write_text(text)
  swept = {
    (bank, beta): [measure(embed, normalise='inverted_softmax', bank=bank, beta=beta) for embed in embeds]
    for bank in BANKS
    for beta in BETAS
  }
  draw(found[PLAIN], swept).savefig(HERE / 'hubness.png', dpi=120)


if __name__ == '__main__':
  main()
