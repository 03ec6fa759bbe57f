"""CACR (Zheng et al., 2023): far positives attract more, near negatives repel more.

`:imagenet`: JegZheng/CACR-SSL, small_scale_experiments, the command for STL-10, on the setting's encoder and head, with
a cosine for the steps of its learning rate. What it does on ImageNet is `cacr_momentum`.

python -m contrastive_jax.train --config=configs/ssl/cacr.py --workdir=runs/cacr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  views = dict(name='moco_v2', image_size=224, crop_scale=(0.08, 1.0), jitter=1.0, colour=(0.4,) * 4, blur=0.0)
  paper = dict(
    data=dict(batch_size=128, num_views=5, views=views),
    schedule=dict(learning_rate=0.12, warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=1e-4, no_decay=''),
    train=dict(epochs=200),
  )
  return common.config(variant, num_views=4, method=dict(name='pair', loss='cacr'), paper=paper)
