"""Multi-similarity loss (Wang et al., 2019): pairs weigh by their similarity, both ways.

`:imagenet`: pairs are mined with the margin of the paper and of its code, msight-tech/research-ms-loss; the rest is
SimCLR's.

python -m contrastive_jax.train --config=configs/metric/multi_similarity.py --workdir=runs/multi_similarity
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  paper = dict(method=dict(mining_margin=0.1))
  return common.config(variant, num_views=1, method=dict(name='pair', loss='multi_similarity'), paper=paper)
