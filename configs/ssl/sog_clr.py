"""SogCLR (Yuan et al., 2022): a running denominator of each image in place of a large batch.

python -m contrastive_jax.train --config=configs/ssl/sog_clr.py --workdir=runs/sog_clr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='sog_clr', loss='sog_clr', temperature=0.2))
