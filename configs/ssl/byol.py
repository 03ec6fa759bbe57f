"""BYOL (Grill et al., 2020): predict a teacher's projection of another view; no negatives.

`:imagenet`: google-deepmind/deepmind-research, byol/configs/byol.py, for 1,000 epochs.

python -m contrastive_jax.train --config=configs/ssl/byol.py --workdir=runs/byol
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='siamese', loss='normalized_mse', momentum=0.99)
  paper = dict(
    data=dict(views=dict(name='byol', image_size=224)),
    head=dict(hidden=4096, features=256, norm_last=False, bias=False),
    predictor=dict(hidden=4096, bias=False),
    method=dict(momentum=0.996),
    schedule=dict(learning_rate=0.2, warmup=0.01),
    optimiser=dict(weight_decay=1.5e-6),
    train=dict(epochs=1000),
  )
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256), paper=paper)
