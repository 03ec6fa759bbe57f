"""Alignment and uniformity as the objective (Wang and Isola, 2020).

`:imagenet`: ssnl/align_uniform, examples/stl10, on the setting's encoder and head, with a cosine for the steps of its
learning rate.

python -m contrastive_jax.train --config=configs/ssl/align_uniform.py --workdir=runs/align_uniform
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  views = dict(name='moco_v2', image_size=224, crop_scale=(0.08, 1.0), jitter=1.0, colour=(0.4,) * 4, blur=0.0)
  paper = dict(
    data=dict(batch_size=768, views=views),
    schedule=dict(learning_rate=0.12, warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=1e-4, no_decay=''),
    train=dict(epochs=200),
  )
  return common.config(variant, method=dict(name='pair', loss='align_uniform'), paper=paper)
