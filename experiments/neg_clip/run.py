"""NegCLIP against CLIP by the protocol of ARO: attributes of variants, order of words, and what it costs.

    python -m experiments.neg_clip.run

CLIP's runs are those of `captioned.clip`; NegCLIP has the names of two variants of each emoji, in skin tone or gender,
as further candidates. Pictures of held-out concepts choose between their name and that of a variant, and between their
name and four of it in other orders of words; and names find pictures, as they are and with all words shuffled. Writes
a table and a figure beside this file. Runs are kept in runs/emoji_clip and runs/neg_clip.

Source of the claims: Yuksekgonul et al., 2023, "When and why vision-language models behave like bags-of-words, and what
to do about it?".
"""

import pathlib
import re

import jax
import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax import losses
from contrastive_jax.data import emoji
from contrastive_jax.evals import minimal_pairs, retrieval
from experiments import captioned, runs

HERE = pathlib.Path(__file__).parent
FEWEST = 25  # cases of a pair of attributes that count, as in the benchmark
WORD = re.compile(r'[\w’-]+')
# What ARO's nouns and adjectives are to captions of photographs.
ATTRIBUTE = re.compile('(medium-)?(light|dark)|medium|skin|tone|(wo)?m[ae]n|person|people')
ORDERS = ('attributes', 'others', 'inside trigrams', 'trigrams')
TRIES = 50  # to draw an order that differs
SCORES = {
  'tone': 'skin tone',
  'gender': 'gender',
  'order': 'order, strict',
  'order_published': 'order, ties won',
  'retrieval/t2i_r10': 'R@10 t→i',
  'retrieval/i2t_r10': 'R@10 i→t',
  'shuffled_t2i_r10': 'R@10 t→i, shuffled',
  'retrieval/one_per_concept/t2i_r10': 'R@10 t→i, one a concept',
  'retrieval/one_per_concept/i2t_r10': 'R@10 i→t, one a concept',
}
CHANCE = {'tone': 0.5, 'gender': 0.5, 'order': 0.2}


def _order(words: list[str], kind: str, random: np.random.Generator) -> list[int]:
  """Places of the words in another order of a kind."""
  places = np.arange(len(words))
  trigrams = [places[start : start + 3] for start in range(0, len(words), 3)]
  if kind == 'trigrams':
    return [place for k in random.permutation(len(trigrams)) for place in trigrams[k]]
  if kind == 'inside trigrams':
    return [place for each in trigrams for place in random.permutation(each)]
  moved = np.array(
    [kind == 'words' or (ATTRIBUTE.fullmatch(word) is not None) == (kind == 'attributes') for word in words]
  )
  places[moved] = random.permutation(places[moved])
  return places.tolist()


def reordered(name: str, kind: str, seed: int) -> str:
  """A name with its words in another order, its punctuation in place; itself where no other order was drawn."""
  words, random = WORD.findall(name), np.random.default_rng(seed)
  for _ in range(TRIES):
    moved = iter([words[place] for place in _order(words, kind, random)])
    found = WORD.sub(lambda _, moved=moved: next(moved), name)
    if found != name:
      return found
  return name


def of_attributes(x, t, fields) -> dict[str, float]:
  """Accuracy between the names of two variants that differ in one attribute: mean over pairs of its values."""
  found = {}
  for attribute, pairs in emoji.minimal_pairs(fields).items():
    both = np.concatenate([pairs, pairs[:, ::-1]])
    values = np.sort(fields[attribute][both], axis=1)
    group = values[:, 0] * 10 + values[:, 1]
    kept = np.bincount(group)[group] >= FEWEST
    won = minimal_pairs.choose(minimal_pairs.scores(x, t, both)).won
    found[attribute] = minimal_pairs.macro(won[kept], group[kept])
  return found


def of_order(embed, x, names: list[str]) -> dict[str, float]:
  """Accuracy between a name and four other orders of its words, where all four differ from it."""
  five = [[name, *(reordered(name, kind, row) for kind in ORDERS)] for row, name in enumerate(names)]
  rows = [row for row, (name, *others) in enumerate(five) if name not in others]
  texts = np.asarray(embed.texts([text for row in rows for text in five[row]])).reshape(len(rows), 5, -1)
  choice = minimal_pairs.choose(np.einsum('nd,nkd->nk', x[rows], texts))
  print(f'{len(rows)} of {len(names)} names in five orders, {choice.tied.sum()} ties', flush=True)
  return {'order': float(choice.won.mean()), 'order_published': float((choice.won | choice.tied).mean())}


def measure(run: runs.Trained) -> dict[str, float]:
  """Every score of a run."""
  source, test = run.sources['test'], run.embed('test')
  fields = source.read(np.arange(source.num_examples))
  names = [texts[0] for texts in source.captions.texts(np.arange(source.num_examples))]
  x, t = np.asarray(jax.device_get(test.projection)), test.texts.projection[:, 0]
  shuffled = run.embed.texts([reordered(name, 'words', row) for row, name in enumerate(names)])
  whole = np.ones(len(x), bool)
  matched = retrieval.match(x, losses.unit(np.asarray(shuffled)), whole, whole)['t2i']
  again = {'shuffled_t2i_r10': retrieval.figures(matched, whole)['r10']}
  return run.scores | of_attributes(x, t, fields) | of_order(run.embed, x, names) | again


def draw(found: captioned.Found) -> plt.Figure:
  """Choices between captions and recall, a mark for each method."""
  figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout='constrained')
  recall = ('retrieval/t2i_r10', 'shuffled_t2i_r10', 'retrieval/i2t_r10')
  for panel, keys in zip(panels, (tuple(CHANCE), recall), strict=True):
    for i, (method, seeds) in enumerate(found.items()):
      values = np.array([[seed[key] for seed in seeds] for key in keys])
      places = np.arange(len(keys)) + 0.15 * (i - 0.5)
      panel.errorbar(places, values.mean(1), values.std(1, ddof=1), fmt='o', capsize=3, label=method)
    panel.set_xticks(range(len(keys)), [SCORES[key].replace(', ', ',\n') for key in keys])
    panel.set(ylim=(0, None))
  for place, chance in enumerate(CHANCE.values()):
    panels[0].plot([place - 0.3, place + 0.3], [chance, chance], color='0.5', linestyle='--')
  panels[0].set(title='choices of the right caption (dashed: chance)')
  panels[1].set(title='recall among 10')
  panels[0].legend()
  return figure


def main():
  """The whole study."""
  epochs = captioned.epochs(__doc__, captioned.EPOCHS)
  of_methods = {
    'CLIP': captioned.clip(epochs),
    'NegCLIP': captioned.trained(HERE.name, 'neg_clip', 'multimodal/neg_clip.py', epochs),
  }
  found = {method: [measure(run) for run in of] for method, of in of_methods.items()}
  text = captioned.table(found, ['method'], SCORES)
  print(text)
  (HERE / 'neg_clip.md').write_text(text)
  draw(found).savefig(HERE / 'neg_clip.png', dpi=120)


if __name__ == '__main__':
  main()
