"""MMCR (Yerxa et al., 2023): the centroids of the instances span as much as they can.

python -m contrastive_jax.train --config=configs/ssl/mmcr.py --workdir=runs/mmcr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='mmcr'), num_views=4)
