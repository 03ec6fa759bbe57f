"""VICReg (Bardes et al., 2022): views agree, features vary and do not repeat each other.

python -m contrastive_jax.train --config=configs/ssl/vicreg.py --workdir=runs/vicreg
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='vicreg'))
