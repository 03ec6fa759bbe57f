"""SIRL: what embeddings of paths tell of the features that people look at, by the number of answered queries.

    python -m experiments.sirl.run

Trains configs/metric/sirl.py on 50 to 2,000 simulated answers to "which two of these three paths are alike?", three
seeds each, and writes a table and a figure beside this file. Some eight minutes on a CPU.

Source of the claims: Bobu et al., 2023, "SIRL": the embedding tells true features that it was never shown, and rewards
are learned on it from fewer preferences.
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neural_network import MLPRegressor

from contrastive_jax.engine import evaluation, resolve, setup, workdir
from experiments import runs

HERE = pathlib.Path(__file__).parent
QUERIES, SEEDS = (50, 100, 200, 500, 1000, 2000), (0, 1, 2)
AUTOENCODER = 'autoencoder'
FLOORS = {'random encoder': ':', 'raw series': '--', AUTOENCODER: '-.'}
SCORES = {'targets/error': 'error of the true features'}
SCORES |= {f'preferences/accuracy@{n}': f'accuracy after {n} preferences' for n in (10, 30, 100)}
OPTIONS = {'data__batch_size': 32, 'train__steps': 2000} | runs.LAST_STEP
Found = dict[str | int, list[dict[str, float]]]  # scores of each seed, by floor or number of queries


def measure() -> Found:
  """The scores of all runs. A seed is one of paths, answers and encoder."""
  found: Found = {name: [] for name in FLOORS}
  for queries in QUERIES:
    found[queries] = []
    for seed in SEEDS:
      path = runs.ROOT / 'runs' / HERE.name / f'{queries}-{seed}'
      of_data = {'data__source__queries': queries, 'data__source__seed': seed}
      found[queries].append(runs.train('metric/sirl.py', path, seed=seed, **OPTIONS, **of_data))
      if queries == QUERIES[0]:
        floors = workdir.read_evaluations(path)['floors']
        for name in floors:
          found[name].append(floors[name])
  found[AUTOENCODER] = [autoencoded(seed) for seed in SEEDS]
  return found


def autoencoded(seed: int) -> dict[str, float]:
  """The scores of an autoencoder of all paths of the most queries, as wide and as narrow as the encoder."""
  of_data = {'data.source.queries': str(QUERIES[-1]), 'data.source.seed': str(seed)}
  run = setup.build(resolve.load(str(runs.ROOT / 'configs' / 'metric' / 'sirl.py'), of_data))
  queries = run.sources['train'].read(np.arange(QUERIES[-1]))
  paths = np.concatenate([queries[name] for name in ('series', 'partner', 'odd')]).reshape(3 * QUERIES[-1], -1)
  middle, scale = paths.mean(0), paths.std(0)
  scaled = (paths - middle) / scale
  # The bottleneck has the layers' activation, too; of these tanh loses nothing but a range.
  network = MLPRegressor(
    hidden_layer_sizes=(128, 128, 6, 128, 128), activation='tanh', early_stopping=True, random_state=seed
  )
  network.fit(scaled, scaled)

  def embed(split: str, view: int | None = None):
    embedded = run.pixels.at({}, {})(split, view)
    h = (np.asarray(embedded.features) - middle) / scale
    for kernel, bias in zip(network.coefs_[:3], network.intercepts_[:3], strict=True):
      h = np.tanh(h @ kernel + bias)
    return embedded._replace(features=h.astype(np.float32))

  return evaluation.scores(run.evaluators, embed)


def table(found: Found) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = ['| embedding | ' + ' | '.join(SCORES.values()) + ' |', '|---|' + '--:|' * len(SCORES)]
  for name, of_seeds in found.items():
    cells = [runs.spread(np.array([each[key] for each in of_seeds])) for key in SCORES]
    lines.append(f'| {name if name in FLOORS else f"{name} queries"} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found: Found) -> plt.Figure:
  """Error of the features, and accuracy of preferences, over the number of queries."""
  figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
  for key, label in SCORES.items():
    panel = panels[int(key != 'targets/error')]
    values = np.array([[each[key] for each in found[queries]] for queries in QUERIES])
    (line, *_) = panel.errorbar(QUERIES, values.mean(1), values.std(1, ddof=1), fmt='o-', capsize=3, label=label)
    for name, style in FLOORS.items():
      level = np.mean([each[key] for each in found[name]])
      panel.axhline(level, color=line.get_color(), linestyle=style, linewidth=1)
  panels[0].set_title('error of the true features (1: their mean)')
  panels[1].set_title('accuracy on new preferences')
  for panel in panels:
    panel.set(xscale='log', xlabel='answered queries')
    for name, style in FLOORS.items():
      panel.plot([], [], color='grey', linestyle=style, label=name)
  figure.legend(*panels[1].get_legend_handles_labels(), loc='outside lower center', ncols=5, fontsize=8)
  return figure


def main():
  """The whole study."""
  found = measure()
  print(table(found))
  (HERE / 'sirl.md').write_text(table(found))
  draw(found).savefig(HERE / 'sirl.png', dpi=120)


if __name__ == '__main__':
  main()
