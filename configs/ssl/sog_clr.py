"""SogCLR (Yuan et al., 2022): a running denominator of each image in place of a large batch.

`:imagenet`: the command of Optimization-AI/SogCLR; its 0.075 times the root of the batch is 1.2 at 256.

python -m contrastive_jax.train --config=configs/ssl/sog_clr.py --workdir=runs/sog_clr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=256, views=dict(name='byol', image_size=224, blur=(1.0,), solarise=(0.0,))),
    method=dict(temperature=0.1, gamma=0.9),
    schedule=dict(learning_rate=1.2, scaling='sqrt', warmup=10 / 800),
    train=dict(epochs=800),
  )
  return common.config(variant, method=dict(name='sog_clr', loss='sog_clr', temperature=0.2), paper=paper)
