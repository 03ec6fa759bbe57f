"""k-means on the device against scikit-learn: seconds from the same centroids, and the inertia that is reached.

python -m benchmarks.kmeans [--data=directions,fashion_mnist,normal] [--clusters=1000] [--iterations=10,100]
"""

import argparse
import pathlib
import time

import jax
import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from benchmarks import machine, measure
from contrastive_jax.data import sources
from contrastive_jax.memory import clusters

RESULTS = pathlib.Path(__file__).parent / 'results'


ROWS, DIM = 60_000, 128


def directions(rng) -> np.ndarray:
  """Unit vectors around a few hundred directions, as an encoder's are."""
  centres = rng.normal(size=(300, DIM))
  x = centres[rng.integers(len(centres), size=ROWS)] + rng.normal(size=(ROWS, DIM))
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def fashion_mnist(rng) -> np.ndarray:
  """The principal components of the training images."""
  del rng
  images = sources.fashion_mnist().read(np.arange(ROWS))['image'].reshape(ROWS, -1) / np.float32(255)
  return PCA(DIM, random_state=0).fit_transform(images)


def normal(rng) -> np.ndarray:
  """No clusters at all: what bounds save the least of."""
  return rng.normal(size=(ROWS, DIM))


DATA = {make.__name__: make for make in (directions, fashion_mnist, normal)}


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


def measured(name: str, clusters: int, iterations: int, rounds: int) -> list[str]:
  """Lines of the table."""
  x = np.ascontiguousarray(DATA[name](np.random.default_rng(0)), np.float32)
  runs = contenders(x, x[:clusters], iterations)
  inertia = {by: run() for by, run in runs.items()}  # the untimed calls
  seconds: dict[str, list[float]] = {by: [] for by in runs}
  for number in range(rounds):
    for by in list(runs)[:: 1 if number % 2 else -1]:
      time.sleep(0.2)  # thread pools go on spinning
      seconds[by].append(measure.seconds(runs[by]))
  ours = np.median(seconds['contrastive_jax'])
  lines = []
  for by, each in seconds.items():
    median = np.median(each)
    cells = (name, iterations, by, f'{median:.2f}', f'{min(each):.2f}', f'{max(each):.2f}')
    lines.append(f'| {" | ".join(map(str, cells))} | {median / ours:.2f} | {inertia[by]:.6g} |')
  return lines


def main():
  """Times both in rounds and writes results/kmeans_BACKEND.md."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', default=','.join(DATA))
  parser.add_argument('--iterations', default='10,100')
  parser.add_argument('--clusters', type=int, default=1000)
  parser.add_argument('--rounds', type=int, default=5)
  flags = parser.parse_args()
  before = machine.load()
  lines = [
    f'# k-means: {ROWS} x {DIM}, k = {flags.clusters}',
    '',
    *machine.describe(load_before=before),
    f'- scikit-learn {machine.version("scikit-learn")}, Lloyd, float32, all cores; the same first centroids and at '
    f'most as many iterations, each until no label changes; without our compiling; medians of {flags.rounds} rounds',
    '',
    '| data | iterations | by | seconds, median | least | greatest | times ours | inertia |',
    '|---|--:|---|--:|--:|--:|--:|--:|',
  ]
  for name in flags.data.split(','):
    for iterations in map(int, flags.iterations.split(',')):
      lines += measured(name, flags.clusters, iterations, flags.rounds)
  text = '\n'.join(lines) + '\n'
  print(text)
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / f'kmeans_{jax.default_backend()}.md').write_text(text)


if __name__ == '__main__':
  main()
