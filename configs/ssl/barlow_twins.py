"""Barlow Twins (Zbontar et al., 2021): the cross-correlation of two views shall be the identity.

python -m contrastive_jax.train --config=configs/ssl/barlow_twins.py --workdir=runs/barlow_twins
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='barlow_twins', off_diagonal_weight=0.005))
