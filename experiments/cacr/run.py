"""CACR: weighing positives among themselves and negatives among themselves, on balanced and imbalanced digits.

    python -m experiments.cacr.run

Trains CACR, CACR with equal weights (its ablation), MV-InfoNCE with as many views and NT-Xent of two, on all training
images and on a long tail of them (a probe learns from the images that the encoder learnt from), and writes a table and
a figure beside this file. Runs are kept in runs/cacr: the same command goes on where it was interrupted. Some 15
minutes on two CPU cores. `--setting=cifar10` is for a GPU.

Source of the claims: Zheng et al., 2023, "Contrastive Attraction and Contrastive Repulsion".
"""

import pathlib

from experiments import compare

BATCH = 128  # as in the paper's small-scale experiments
METHODS = {
  'CACR': ('ssl/cacr.py', {}),
  'CACR, equal weights': ('ssl/cacr.py', {'method__t_pos': 0.0, 'method__t_neg': 0.0}),
  'MV-InfoNCE': ('ssl/mv_info_nce.py', {}),
  'NT-Xent, 2 views': ('ssl/simclr.py', {}),
}
CONDITIONS = {
  'balanced': {'data__batch_size': BATCH, 'train__epochs': 60},
  'long tail': {'data__batch_size': BATCH, 'data__imbalance': 20, 'train__epochs': 150},  # of fewer steps each
}

if __name__ == '__main__':
  compare.study(pathlib.Path(__file__).parent, __doc__, METHODS, CONDITIONS)
