"""SimSiam (Chen and He, 2021): predict the other view's own projection, whose gradient is stopped; no teacher.

python -m contrastive_jax.train --config=configs/ssl/simsiam.py --workdir=runs/simsiam
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='siamese', loss='normalized_mse', momentum=None, scale=0.5)
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256))
