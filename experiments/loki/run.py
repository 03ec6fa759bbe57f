"""Loki: prediction by the Fréchet mean against the likeliest label, with a share of the labels observed.

    python -m experiments.loki.run

Nothing is trained beyond `captioned.clip`. Labels are the subgroups of Unicode's list ('food-fruit', 'cat-face'), the
leaves of a tree of groups and subgroups. The text of a subgroup is the mean embedding of the names of its training
emoji, and a picture's probabilities over the observed subgroups are CLIP's softmax over cosines, at the temperature
that it learned. Pictures of held-out concepts belong to observed and unobserved subgroups alike. Distances are edges of
the tree, or between the texts of the subgroups. Writes squared distances and accuracies over the share observed, and a
figure, beside this file.

Source of the claims: Roberts et al., 2023, "Geometry-Aware Adaptation for Pretrained Models".
"""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.special
from jaxtyping import Float, Int

from contrastive_jax.data import annotations, emoji, emoji_list
from contrastive_jax.evals import loki
from experiments import captioned, runs

HERE = pathlib.Path(__file__).parent
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the subgroups that are observed
DRAWS = 20  # of them, for each share and seed
LIKELIEST = 'likeliest'
RULES = {
  LIKELIEST: 'likeliest label',
  'leaves': 'Loki among subgroups',
  'nodes': 'Loki among subgroups, groups and the root',
  'names': 'Loki among subgroups, distances of their texts',
}
SCORES = {
  'squared': 'squared tree distance',
  'squared_names': 'squared distance of texts',
  'accuracy': 'accuracy',
  'accuracy_unseen': 'accuracy, unobserved',
  'unseen': 'predicted, unobserved',
}


class Tree(NamedTuple):
  """Subgroups are the first nodes, then their groups, then the root."""

  leaves: int
  distances: Float[np.ndarray, 'm m']  # edges


class Problem(NamedTuple):
  """Pictures to classify, one of each held-out concept."""

  tree: Tree
  texts: Float[np.ndarray, 'k p']  # of the subgroups, unit norm
  images: Float[np.ndarray, 'n p']
  label: Int[np.ndarray, ' n']
  temperature: float


def listed() -> dict[str, tuple[str, str]]:
  """Group and subgroup of every emoji, by its English name."""
  names, found, group, subgroup = annotations.read(pathlib.Path(emoji.ANNOTATIONS), emoji.REFERENCE), {}, '', ''
  for line in pathlib.Path(emoji.EMOJI_TEST).read_text('utf-8').splitlines():
    if line.startswith('# group: '):
      group = line.partition(': ')[2].strip()
    elif line.startswith('# subgroup: '):
      subgroup = line.partition(': ')[2].strip()
    elif match := emoji_list.LINE.fullmatch(line):
      sign = ''.join(chr(int(code, 16)) for code in match[1].split()).replace(emoji_list.PRESENTATION, '')
      found[names.get(sign, annotations.Annotation()).name] = (group, subgroup)
  return found


def problem(run: runs.Trained) -> Problem:
  """The tree of the subgroups that have training emoji, their texts, and the pictures of held-out concepts in them."""
  known, embed = listed(), captioned.one_per_concept(run.embed)
  of_split, places = {}, {}
  for split in ('train', 'test'):
    of_split[split] = embed(split)
    captions = run.sources[split].captions
    places[split] = [known[texts[0]] for texts in captions.texts(of_split[split].index)]
  subgroups = sorted({*places['train']})
  groups = sorted({group for group, _ in subgroups})
  root = len(subgroups) + len(groups)
  parent = [len(subgroups) + groups.index(group) for group, _ in subgroups] + [root] * len(groups) + [-1]
  label = np.array([subgroups.index(place) for place in places['train']])
  rows = of_split['train'].texts.projection[:, 0]
  texts = np.stack([rows[label == k].mean(0) for k in range(len(subgroups))])
  texts /= np.linalg.norm(texts, axis=1, keepdims=True)
  kept = np.array([place in subgroups for place in places['test']])
  of_test = np.array([subgroups.index(place) for place in places['test'] if place in subgroups])
  print(f'{len(subgroups)} subgroups of {len(groups)} groups, {kept.sum()} of {len(kept)} pictures', flush=True)
  temperature = float(np.exp(run.params['temperature']))
  tree = Tree(len(subgroups), loki.tree_distances(tuple(parent)))
  return Problem(tree, texts, of_split['test'].projection[kept], of_test, temperature)


def predict(of: Problem, observed: Int[np.ndarray, ' k']) -> dict[str, Int[np.ndarray, ' n']]:
  """Nodes of the tree by each rule, which sees the probabilities of the observed subgroups alone."""
  shares = scipy.special.softmax(of.images @ of.texts[observed].T / of.temperature, axis=1)
  metrics = {'nodes': of.tree.distances, 'leaves': of.tree.distances[:, : of.tree.leaves], 'names': between(of.texts)}
  found = {rule: np.asarray(loki.frechet(jnp.asarray(shares), jnp.asarray(d[observed]))) for rule, d in metrics.items()}
  return {LIKELIEST: observed[shares.argmax(1)]} | found


def between(texts: Float[np.ndarray, 'k p']) -> Float[np.ndarray, 'k k']:
  """Euclidean distances."""
  return np.linalg.norm(texts[:, None] - texts[None], axis=-1)


def scores(of: Problem, predicted: Int[np.ndarray, ' n'], observed: Int[np.ndarray, ' k']) -> dict[str, float]:
  """Scores of one rule for one set of observed subgroups; nan where there is nothing to score."""
  right, unseen = predicted == of.label, ~np.isin(of.label, observed)
  leaves = predicted.max() < of.tree.leaves
  squared = loki.mean_squared_distance(predicted, of.label, between(of.texts)) if leaves else np.nan
  return {
    'squared': loki.mean_squared_distance(predicted, of.label, of.tree.distances),
    'squared_names': squared,
    'accuracy': float(right.mean()),
    'accuracy_unseen': float(right[unseen].mean()) if unseen.any() else np.nan,
    'unseen': float((~np.isin(predicted, observed) & (predicted < of.tree.leaves)).mean()),
  }


def measure(of: Problem, share: float, seed: int) -> dict[str, dict[str, float]]:
  """Means over draws of the observed subgroups, by rule."""
  random, drawn = np.random.default_rng([seed, round(100 * share)]), []
  for _ in range(DRAWS):
    observed = np.sort(random.permutation(of.tree.leaves)[: max(2, round(share * of.tree.leaves))])
    drawn.append({rule: scores(of, nodes, observed) for rule, nodes in predict(of, observed).items()})
  return {rule: {key: float(np.mean([each[rule][key] for each in drawn])) for key in SCORES} for rule in RULES}


def draw(found: captioned.Found) -> plt.Figure:
  """Squared distance in the tree and between texts, and accuracy, over the share observed."""
  figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout='constrained')
  for panel, key in zip(panels, ('squared', 'squared_names', 'accuracy'), strict=True):
    for rule, label in RULES.items():
      values = np.array([[seed[key] for seed in found[row(share, rule)]] for share in SHARES])
      panel.errorbar(SHARES, values.mean(1), values.std(1, ddof=1), marker='o', capsize=3, label=label)
    panel.set(title=SCORES[key], xlabel='share of subgroups observed')
  figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper center', ncols=2)
  return figure


def row(share: float, rule: str) -> str:
  """Of the table."""
  return f'{share:g} | {RULES[rule]}'


def main():
  """The whole study."""
  problems = [problem(run) for run in captioned.clip(captioned.epochs(__doc__, captioned.EPOCHS))]
  found = {}
  for share in SHARES:
    of_seeds = [measure(of, share, seed) for seed, of in enumerate(problems)]
    found |= {row(share, rule): [each[rule] for each in of_seeds] for rule in RULES}
  text = captioned.table(found, ['observed', 'prediction'], SCORES)
  print(text)
  (HERE / 'loki.md').write_text(text)
  draw(found).savefig(HERE / 'loki.png', dpi=120)


if __name__ == '__main__':
  main()
