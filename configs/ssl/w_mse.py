"""W-MSE (Ermolov et al., 2021): views agree after each was whitened over sub-batches.

`:imagenet`: htdt/self-supervised, the command of two views on Tiny ImageNet, on the setting's ResNet-50, with one
partition a step for its four, a decoupled decay and a cosine for the steps of its learning rate.

python -m contrastive_jax.train --config=configs/ssl/w_mse.py --workdir=runs/w_mse
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=512, views=dict(name='moco_v2', image_size=224, grey=0.1, blur=0.0)),
    head=dict(hidden=1024, features=128, norm_last=False),
    schedule=dict(learning_rate=2e-3, scaling='none', warmup=2e-4),  # 500 steps
    optimiser=dict(name='adamw', weight_decay=1e-6, no_decay=''),
    train=dict(epochs=1000),
  )
  return common.config(variant, method=dict(name='pair', loss='w_mse'), paper=paper)
