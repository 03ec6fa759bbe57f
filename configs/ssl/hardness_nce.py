"""Hardness-weighted InfoNCE (Robinson et al., 2021); debiased alone with --config.method.beta=0.

`:imagenet`: joshr17/HCL, image/main.py, the command for STL-10, on the setting's ResNet-50, with a decoupled
decay.

python -m contrastive_jax.train --config=configs/ssl/hardness_nce.py --workdir=runs/hardness_nce
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=256, views=dict(name='moco_v2', image_size=224, crop_scale=(0.08, 1.0))),
    head=dict(hidden=512, norm_last=False),
    schedule=dict(name='constant', learning_rate=1e-3, scaling='none'),
    optimiser=dict(name='adamw', weight_decay=1e-6, no_decay=''),
    train=dict(epochs=400),
  )
  method = dict(name='pair', loss='hardness_nce', temperature=0.5, tau_plus=0.1, beta=1.0)
  return common.config(variant, method=method, paper=paper)
