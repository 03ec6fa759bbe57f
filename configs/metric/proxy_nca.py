"""ProxyNCA (Movshovitz-Attias et al., 2017): distances to one learnable proxy a class.

`:imagenet`: the own class is not in the sum, as in the paper; the rest is SimCLR's.

python -m contrastive_jax.train --config=configs/metric/proxy_nca.py --workdir=runs/proxy_nca
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  paper = dict(method=dict(include_positive=False))
  return common.config(variant, num_views=1, method=dict(name='pair', loss='proxy_nca'), paper=paper)
