"""CosFace (Wang et al., 2018): the cross-entropy of cosines with class proxies, a cosine as margin.

`:imagenet`: scale 64 and margin 0.35, as the paper has them for faces; the rest is SimCLR's.

python -m contrastive_jax.train --config=configs/metric/cosface.py --workdir=runs/cosface
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  method = dict(name='pair', loss='cosface', scale=16.0, margin=0.2)
  return common.config(variant, num_views=1, method=method, paper=dict(method=dict(scale=64.0, margin=0.35)))
