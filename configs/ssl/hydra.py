"""Hydra, SimLAP (Wu et al., 2024): any two classes are positives behind the gate of their pair. Uses labels.

python -m contrastive_jax.train --config=configs/ssl/hydra.py --workdir=runs/hydra
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the paper's gate is 512-1024-256 wide, with batch norm."""
  return common.config(
    variant,
    method=dict(name='hydra', pairs='arbitrary', temperature=0.1),
    predictor=dict(hidden=128, norm='layer'),
  )
