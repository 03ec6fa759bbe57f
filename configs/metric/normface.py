"""NormFace (Wang et al., 2017): the cross-entropy of cosines with one learnable proxy a class.

`:imagenet` is SimCLR's with this loss, at the scale of digits: the paper learns it.

python -m contrastive_jax.train --config=configs/metric/normface.py --workdir=runs/normface
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  return common.config(variant, num_views=1, method=dict(name='pair', loss='normface'))
