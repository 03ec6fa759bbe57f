"""BYOL (Grill et al., 2020): predict a teacher's projection of another view; no negatives.

python -m contrastive_jax.train --config=configs/ssl/byol.py --workdir=runs/byol
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='siamese', loss='normalized_mse', momentum=0.99)
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256))
