"""CACR (Zheng et al., 2023): far positives attract more, near negatives repel more.

python -m contrastive_jax.train --config=configs/ssl/cacr.py --workdir=runs/cacr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, num_views=4, method=dict(name='pair', loss='cacr'))
