"""Alignment and uniformity as the objective (Wang and Isola, 2020).

python -m contrastive_jax.train --config=configs/ssl/align_uniform.py --workdir=runs/align_uniform
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='align_uniform'))
