"""DCL (Yeh et al., 2022): NT-Xent without the positives in its denominator; DCLW with --config.method.sigma=0.5.

python -m contrastive_jax.train --config=configs/ssl/dcl.py --workdir=runs/dcl
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='decoupled', temperature=0.2))
