"""VICReg (Bardes et al., 2022): views agree, features vary and do not repeat each other.

`:imagenet`: facebookresearch/vicreg, main_vicreg.py with the README's command for 1,000 epochs.

python -m contrastive_jax.train --config=configs/ssl/vicreg.py --workdir=runs/vicreg
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=2048, views=dict(name='byol', image_size=224)),
    head=dict(hidden=8192, features=8192, layers=3, norm_last=False, bias=False),
    schedule=dict(learning_rate=0.2, warmup=0.01, final=0.001),
    train=dict(epochs=1000),
  )
  return common.config(variant, method=dict(name='pair', loss='vicreg'), paper=paper)
