"""Triplet loss (Schroff et al., 2015) on batch-hard triplets: the farthest positive, the nearest negative.

python -m contrastive_jax.train --config=configs/metric/triplet.py --workdir=runs/triplet
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  return common.config(variant, num_views=1, method=dict(name='pair', loss='triplet', margin=0.2))
