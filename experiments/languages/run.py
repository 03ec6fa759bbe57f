"""One text tower for every language: recall among pictures of emoji in each of the languages that have names for them.

    python -m experiments.languages.run

Trains CLIP on pictures of emoji and their names in all languages in which CLDR names more than 1,500 of them, two drawn
for each picture at every step, and CLIP on English names alone, and writes recall in every language, among pictures of
held-out concepts, and a figure, beside this file. Runs are kept in runs/languages: the same command goes on where it
was interrupted. Needs the packages that source `emoji` names.
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments import captioned, runs

HERE = pathlib.Path(__file__).parent
EPOCHS = 40
CONFIG = 'multimodal/clip.py'
ALL = {'data__source__languages': 'all', 'data__source__vocabulary': 16384, 'data__num_captions': 2}
METHODS = {'all languages': ALL, 'English alone': {}}


def languages(scores) -> list[str]:
  """The slots of a run, the best found first."""
  ends = '/t2i_r10'
  slots = [key.split('/')[1] for key in scores[0] if key.endswith(ends) and key.count('/') == 2]
  slots = [slot for slot in slots if slot != 'one_per_concept']
  return sorted(slots, key=lambda slot: -np.mean([seed[f'retrieval/{slot}{ends}'] for seed in scores]))


def table(found: captioned.Found) -> str:
  """Recall by language, and of English by what was trained on."""
  several = found['all languages']
  lines = ['| language | R@10 t→i | one picture a concept | R@10 i→t |', '|---|--:|--:|--:|']
  for slot in languages(several):
    keys = [f'retrieval/{slot}/{key}' for key in ('t2i_r10', 'one_per_concept/t2i_r10', 'i2t_r10')]
    lines.append(f'| {slot} | ' + ' | '.join(runs.spread([seed[key] for seed in several]) for key in keys) + ' |')
  keys = ['retrieval/t2i_r10', 'retrieval/one_per_concept/t2i_r10', 'retrieval/i2t_r10']
  english = [runs.spread([seed[key] for seed in found['English alone']]) for key in keys]
  return '\n'.join([*lines, '| en, of the runs on English alone | ' + ' | '.join(english) + ' |']) + '\n'


def draw(found: captioned.Found) -> plt.Figure:
  """Recall of every language, a bar each, beside English alone and chance."""
  several = found['all languages']
  slots = languages(several)
  values = np.array([[seed[f'retrieval/{slot}/t2i_r10'] for slot in slots] for seed in several])
  figure, panel = plt.subplots(figsize=(15, 3.6), layout='constrained')
  colours = ['tab:orange' if slot == 'en' else 'tab:blue' for slot in slots]
  panel.bar(range(len(slots)), values.mean(0), yerr=values.std(0, ddof=1), color=colours)
  alone = np.mean([seed['retrieval/t2i_r10'] for seed in found['English alone']])
  panel.axhline(alone, color='tab:orange', linestyle='--', label='English, trained on English alone')
  panel.axhline(10 / 864, color='grey', linestyle=':', label='chance')
  panel.set_xticks(range(len(slots)), slots, rotation=90, fontsize=6)
  panel.set(title='text to image, R@10 among 864 pictures of held-out concepts', xlim=(-1, len(slots)))
  panel.legend()
  return figure


def main():
  """The whole study."""
  epochs = captioned.epochs(__doc__, EPOCHS)
  given = captioned.NAMES | {'evals__retrieval__per_concept': True}
  found = {
    method: captioned.train(HERE, method.replace(' ', '_'), CONFIG, epochs, **(given | more))
    for method, more in METHODS.items()
  }
  text = table(found)
  print(text)
  (HERE / 'languages.md').write_text(text)
  draw(found).savefig(HERE / 'languages.png', dpi=120)


if __name__ == '__main__':
  main()
