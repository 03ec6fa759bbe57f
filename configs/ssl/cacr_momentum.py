"""CACR with a momentum encoder (Zheng et al., 2023): far queries are pulled harder to a teacher's key, near keys repel.

`:imagenet`: JegZheng/CACR-SSL, imagenet_pretraining, the README's command for a ResNet-50: that of MoCo v3.

python -m contrastive_jax.train --config=configs/ssl/cacr_momentum.py --workdir=runs/cacr_momentum
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; with two views and no small ones it would be MoCo v3."""
  method = dict(name='cacr_momentum', temperature=0.2, momentum=0.99)
  paper = dict(
    data=dict(num_small_views=8, views=dict(name='byol', image_size=224, crop_scale=(0.2, 1.0))),
    head=dict(hidden=4096, features=256),
    predictor=dict(hidden=4096, bias=False),
    method=dict(temperature=1.0, momentum=0.996),
    schedule=dict(warmup=0.01),
    optimiser=dict(weight_decay=1.5e-6),
    train=dict(epochs=1000),
  )
  networks = dict(head=dict(norm='batch'), predictor=dict(hidden=256))
  return common.config(variant, method=method, num_small_views=2, paper=paper, **networks)
