"""W-MSE (Ermolov et al., 2021): views agree after each was whitened over sub-batches.

python -m contrastive_jax.train --config=configs/ssl/w_mse.py --workdir=runs/w_mse
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='w_mse'))
