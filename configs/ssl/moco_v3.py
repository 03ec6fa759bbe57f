"""MoCo v3 (Chen, Xie and He, 2021): InfoNCE of a student's predictions against a teacher's keys, both ways.

`:imagenet`: facebookresearch/moco-v3, CONFIG.md, ResNet-50 for 1,000 epochs, at temperature 1.

python -m contrastive_jax.train --config=configs/ssl/moco_v3.py --workdir=runs/moco_v3
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the scale, 4 temperature, is the paper's sum of 2 tau per order."""
  method = dict(name='siamese', loss='info_nce', temperature=0.2, momentum=0.99, scale=0.8)
  paper = dict(
    data=dict(views=dict(name='byol', image_size=224, crop_scale=(0.2, 1.0))),
    head=dict(hidden=4096, features=256),
    predictor=dict(hidden=4096, bias=False),
    method=dict(temperature=1.0, momentum=0.996, scale=4.0),
    schedule=dict(warmup=0.01),
    optimiser=dict(weight_decay=1.5e-6),
    train=dict(epochs=1000),
  )
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256), paper=paper)
