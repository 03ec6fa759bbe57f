"""Hydra: whether pairs of arbitrary classes train an encoder once gates choose where they agree, and keep its rank.

    python -m experiments.hydra.run

Trains SupCon, pairs of arbitrary classes without gates, and Hydra in several forms on digits. Writes a table and a
figure beside this file. Runs are kept in runs/hydra. Some 14 minutes of one CPU core.

Source of the claims: Wu et al., 2024, "Rethinking Positive Pairs in Contrastive Learning".
"""

import pathlib

from experiments import compare

HYDRA = 'ssl/hydra.py'
METHODS = {
  'SupCon': ('ssl/sup_con.py', {}),
  'arbitrary pairs, no gate': (HYDRA, dict(method__gate='none')),
  'Hydra': (HYDRA, {}),
  'Hydra, product gate': (HYDRA, dict(method__gate='product')),
  'Hydra, distinct pairs': (HYDRA, dict(method__pairs='distinct')),
  'Hydra, cosines': (HYDRA, dict(method__renormalize=True)),
}
CONDITIONS = {'digits': dict(data__batch_size=128, train__epochs=30)}

if __name__ == '__main__':
  compare.study(pathlib.Path(__file__).parent, __doc__, METHODS, CONDITIONS)
