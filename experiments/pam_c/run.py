"""PamC against the contrast with all nodes: what embeddings of a real graph tell, and what each costs over its size.

    python -m experiments.pam_c.run

Trains configs/graph/pam_c.py on 1,280 of Debian's packages (what apt knows: eight sections, linked by dependencies)
with the negatives of PamC for several numbers of clusters, and with all other nodes; three seeds. Then measures value
and gradient of both losses, and the memory that they are compiled to need, on random graphs of 1,000 to 64,000 nodes.
Writes tables and a figure beside this file. Ten minutes on a CPU.

Source of the claims: Kulatilleke et al., 2022: accuracy close to that of full contrast at a fraction of time and
memory.
"""

import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from contrastive_jax import losses
from contrastive_jax.engine import workdir
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
METHODS = {
  'all nodes': {'method__contrast': 'nodes'},
  'PamC, 8 clusters': {'method__clusters': 8},
  'PamC, 64 clusters': {'method__clusters': 64},
  'PamC, 256 clusters': {'method__clusters': 256},
}
OPTIONS = {'data__source__nodes': 160, 'data__batch_size': 1280, 'train__steps': 100, 'method__beta': 0.0}
OPTIONS |= {'encoder__widths': '(256, 64, 16)', 'schedule__learning_rate': 2e-3} | runs.LAST_STEP
FLOORS = ('raw vector', 'random encoder')
SCORES = {'linear/accuracy': 'linear probe', 'clusters/accuracy': 'k-means', 'clusters/nmi': 'mutual information'}
SIZES, WIDTH, NEIGHBOURS, CLUSTERS = (1000, 4000, 16000, 64000), 16, 16, 64
CONTRASTS = {
  'all nodes, whole matrix': lambda z, n, w, a: losses.neighbour_nce(z, n, w, fold=losses.dense()),
  'all nodes, tiles': lambda z, n, w, a: losses.neighbour_nce(z, n, w, fold=losses.chunked()),
  'PamC': lambda z, n, w, a: losses.pam_c(z, n, w, a, clusters=CLUSTERS),
}
MOST = 2 * 10**9  # bytes beyond which a loss is not run
Found = dict[str, list[dict[str, float]]]
Costs = dict[str, list[tuple[float, float]]]  # seconds and bytes of each size


def measure() -> Found:
  """The scores of every method and seed, and of the floors."""
  found: Found = {name: [] for name in (*FLOORS, *METHODS)}
  for name, options in METHODS.items():
    for seed in SEEDS:
      path = runs.ROOT / 'runs' / HERE.name / f'{name}-{seed}'.replace(', ', '-').replace(' ', '_')
      found[name].append(runs.train('graph/pam_c.py', path, seed=seed, **OPTIONS, **options))
      if name == 'all nodes':
        floors = workdir.read_evaluations(path)['floors']
        for floor in FLOORS:
          found[floor].append(floors[floor])
  return found


def cost(contrast, size: int) -> tuple[float, float]:
  """Seconds of value and gradient, the least of three, and bytes of memory; no seconds where it needs too many."""
  rng = np.random.default_rng(0)
  z, assignment = (
    rng.standard_normal((size, WIDTH)).astype(np.float32),
    rng.integers(0, CLUSTERS, size).astype(np.int32),
  )
  neighbour = rng.integers(0, size, (size, NEIGHBOURS)).astype(np.int32)
  given = jax.device_put((z, neighbour, np.full(neighbour.shape, 1 / NEIGHBOURS, np.float32), assignment))
  both = jax.jit(jax.value_and_grad(lambda *each: jnp.mean(contrast(*each)))).lower(*given).compile()
  needed = both.memory_analysis().temp_size_in_bytes
  if needed > MOST:
    return float('nan'), needed
  seconds = []
  for _ in range(4):  # the first warms up
    began = time.perf_counter()
    jax.block_until_ready(both(*given))
    seconds.append(time.perf_counter() - began)
  return min(seconds[1:]), needed


def table(found: Found) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = ['| negatives | ' + ' | '.join(SCORES.values()) + ' |', '|---|' + '--:|' * len(SCORES)]
  for name, of_seeds in found.items():
    cells = [runs.spread(np.array([each[key] for each in of_seeds])) for key in SCORES]
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def table_of_costs(costs: Costs) -> str:
  """Milliseconds and megabytes, as Markdown."""
  lines = ['| nodes | ' + ' | '.join(costs) + ' |', '|--:|' + '--:|' * len(costs)]
  for i, size in enumerate(SIZES):
    cells = [
      f'{1e3 * seconds:,.1f} ms, {needed / 1e6:,.1f} MB' for seconds, needed in (each[i] for each in costs.values())
    ]
    lines.append(f'| {size:,} | ' + ' | '.join(cells).replace('nan ms', 'not run') + ' |')
  return '\n'.join(lines) + '\n'


def draw(costs: Costs) -> plt.Figure:
  """Time and memory over the number of nodes."""
  figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
  for name, of_sizes in costs.items():
    for panel, values in zip(panels, np.array(of_sizes).T, strict=True):
      panel.plot(SIZES, values, 'o-', label=name)
  for panel, title in zip(panels, ('seconds of value and gradient', 'bytes of temporary memory'), strict=True):
    panel.set(xscale='log', yscale='log', xlabel='nodes', title=title)
    panel.legend()
  return figure


def main():
  """The whole study."""
  costs = {name: [cost(contrast, size) for size in SIZES] for name, contrast in CONTRASTS.items()}
  found = measure()
  both = table(found) + '\n' + table_of_costs(costs)
  print(both)
  (HERE / 'pam_c.md').write_text(both)
  draw(costs).savefig(HERE / 'pam_c.png', dpi=120)


if __name__ == '__main__':
  main()
