"""Proxy-Anchor (Kim et al., 2020): every class proxy against the batch.

Alpha and delta are the paper's in every setting. `:imagenet` is SimCLR's with this loss: the paper tunes networks that
were trained on ImageNet.

python -m contrastive_jax.train --config=configs/metric/proxy_anchor.py --workdir=runs/proxy_anchor
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  return common.config(variant, num_views=1, method=dict(name='pair', loss='proxy_anchor'))
