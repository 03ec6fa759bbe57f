"""k-means on the device against scikit-learn: seconds of an iteration from the same centroids, and what is reached.

python -m benchmarks.kmeans [--rows=60000] [--dim=128] [--clusters=1000] [--iterations=10]
"""

import argparse
import pathlib
import time

import jax
import numpy as np
from sklearn.cluster import KMeans

from benchmarks import machine, measure
from contrastive_jax.memory import clusters

RESULTS = pathlib.Path(__file__).parent / 'results'


def embeddings(rows: int, dim: int, seed: int = 0) -> np.ndarray:
  """Unit vectors around a few hundred directions, as an encoder's are."""
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(300, dim))
  x = centres[rng.integers(len(centres), size=rows)] + rng.normal(size=(rows, dim))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def contenders(x: np.ndarray, init: np.ndarray, iterations: int):
  """By name, a call that returns the inertia and waits for it."""
  given, first = jax.device_put(x), jax.device_put(init)

  def ours():
    options = dict(num_clusters=len(init), init=first, iterations=iterations, tolerance=0.0)
    return float(clusters.kmeans(given, **options).inertia)

  def theirs():
    options = dict(n_clusters=len(init), init=init, n_init=1, max_iter=iterations, tol=0, algorithm='lloyd')
    return float(KMeans(**options).fit(x).inertia_)

  return {'contrastive_jax': ours, 'scikit-learn': theirs}


def main():
  """Times both in rounds and writes results/kmeans_BACKEND.md."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name, value in dict(rows=60_000, dim=128, clusters=1000, iterations=10, rounds=5).items():
    parser.add_argument(f'--{name}', type=int, default=value)
  flags = parser.parse_args()
  before = machine.load()
  x = embeddings(flags.rows, flags.dim)
  runs = contenders(x, x[: flags.clusters], flags.iterations)
  inertia = {name: run() for name, run in runs.items()}  # the untimed calls
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for number in range(flags.rounds):
    for name in list(runs)[:: 1 if number % 2 else -1]:
      time.sleep(0.2)  # thread pools go on spinning
      seconds[name].append(measure.seconds(runs[name]))
  median = {name: float(np.median(each)) for name, each in seconds.items()}
  lines = [
    f'# k-means: {flags.rows} x {flags.dim}, k = {flags.clusters}, {flags.iterations} iterations',
    '',
    *machine.describe(load_before=before),
    f'- scikit-learn {machine.version("scikit-learn")}, Lloyd, float32, all cores; the same first centroids',
    '',
    '| by | seconds, median | least | greatest | times ours | inertia |',
    '|---|--:|--:|--:|--:|--:|',
  ]
  for name, each in seconds.items():
    ratio = median[name] / median['contrastive_jax']
    cells = (f'{median[name]:.2f}', f'{min(each):.2f}', f'{max(each):.2f}', f'{ratio:.2f}', f'{inertia[name]:.6g}')
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  text = '\n'.join(lines) + '\n'
  print(text)
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / f'kmeans_{jax.default_backend()}.md').write_text(text)


if __name__ == '__main__':
  main()
