"""Hardness-weighted InfoNCE (Robinson et al., 2021); debiased alone with --config.method.beta=0.

python -m contrastive_jax.train --config=configs/ssl/hardness_nce.py --workdir=runs/hardness_nce
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='hardness_nce', temperature=0.5, tau_plus=0.1, beta=1.0))
