"""CosFace (Wang et al., 2018): the cross-entropy of cosines with class proxies, a cosine as margin.

python -m contrastive_jax.train --config=configs/metric/cosface.py --workdir=runs/cosface
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  return common.config(variant, num_views=1, method=dict(name='pair', loss='cosface', scale=16.0, margin=0.2))
