"""Barlow Twins (Zbontar et al., 2021): the cross-correlation of two views shall be the identity.

`:imagenet`: the defaults of facebookresearch/barlowtwins, main.py; the paper has a decay of 1.5e-6.

python -m contrastive_jax.train --config=configs/ssl/barlow_twins.py --workdir=runs/barlow_twins
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=2048, views=dict(name='byol', image_size=224)),
    head=dict(hidden=8192, features=8192, layers=3, norm_last=False, bias=False),
    method=dict(off_diagonal_weight=0.0051),
    schedule=dict(learning_rate=0.2, warmup=0.01, final=0.001),
    optimiser=dict(rates=(('.*(bias|scale)', 0.024),)),
    train=dict(epochs=1000),
  )
  return common.config(variant, method=dict(name='pair', loss='barlow_twins', off_diagonal_weight=0.005), paper=paper)
