"""SwAV: does it suffer less than NT-Xent from a small batch, and what do small views and a queue add?

    python -m experiments.swav.run

Trains SwAV (two views; with four small views too; with a queue too) and NT-Xent on digits at two batch sizes, and
writes a table and a figure beside this file. Runs are kept in runs/swav: the same command goes on where it was
interrupted. Some 20 minutes of one CPU core. `--setting=cifar10` is for a GPU.

Source of the claims: Caron et al., 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments".
"""

import pathlib

from experiments import compare

METHODS = {
  'NT-Xent': ('ssl/simclr.py', {}),
  'SwAV, 2 views': ('ssl/swav.py', {'data__num_small_views': 0}),
  'SwAV, 2 + 4 views': ('ssl/swav.py', {}),
  'SwAV, 2 + 4 views, queue': ('ssl/swav.py', {'method__queue_size': 512}),
}
CONDITIONS = {
  f'batch {size}': {'data__batch_size': size, 'schedule__scaling': 'sqrt', 'train__epochs': 60} for size in (64, 256)
}

if __name__ == '__main__':
  compare.study(pathlib.Path(__file__).parent, __doc__, METHODS, CONDITIONS)
