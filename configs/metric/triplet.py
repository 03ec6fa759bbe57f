"""Triplet loss (Schroff et al., 2015) on batch-hard triplets: the farthest positive, the nearest negative.

`:imagenet`: semi-hard negatives by squared distances and margin 0.2, as in the paper; the rest is SimCLR's.

python -m contrastive_jax.train --config=configs/metric/triplet.py --workdir=runs/triplet
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  paper = dict(method=dict(mining='semi_hard', distance='squared_euclidean'))
  return common.config(variant, num_views=1, method=dict(name='pair', loss='triplet', margin=0.2), paper=paper)
