"""DINO (Caron et al., 2021): a student's crops match a teacher's centred and sharpened outputs for other crops.

`:imagenet`: facebookresearch/dino, the README's command for a ResNet-50: batch 512, 100 epochs. There, the gradient of
each parameter is clipped by itself, here all together, and the head has GELU.

python -m contrastive_jax.train --config=configs/ssl/dino.py --workdir=runs/dino
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; two views and four small ones.

  The head's batch norm is the code's option for convolutional nets: without it the targets of digits stay near uniform.
  """
  method = dict(name='dino', prototypes=64, momentum=0.99)
  small = dict(name='dino', image_size=96, crop_scale=(0.14, 1.0), small_scale=(0.05, 0.14))
  paper = dict(
    data=dict(batch_size=512, num_small_views=8, views=small | dict(image_size=224), small_views=small),
    head=dict(hidden=2048, features=256, norm='none', norm_last=False),
    method=dict(prototypes=65536, momentum=0.996),
    schedule=dict(learning_rate=0.03, final=1e-6 / 0.06),
    optimiser=dict(name='sgd', weight_decay=1e-4, clip_norm=3.0),
  )
  return common.config(variant, method=method, num_small_views=4, head=dict(layers=3, norm='batch'), paper=paper)
