"""MMCR (Yerxa et al., 2023): the centroids of the instances span as much as they can.

`:imagenet`: ThomasYerxa/mmcr, pretrain_imagenet.py with `--objective MMCR`: two views, no teacher.

python -m contrastive_jax.train --config=configs/ssl/mmcr.py --workdir=runs/mmcr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=2048, num_views=2, views=dict(name='byol', image_size=224)),
    head=dict(hidden=8192, features=512, layers=3, norm_last=False, bias=False),
    schedule=dict(learning_rate=0.6, final=0.001),
  )
  return common.config(variant, method=dict(name='pair', loss='mmcr'), num_views=4, paper=paper)
