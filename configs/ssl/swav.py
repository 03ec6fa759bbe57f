"""SwAV (Caron et al., 2020): crops predict each other's assignment to prototypes, two views and four small ones.

`:imagenet`: facebookresearch/swav, scripts/swav_800ep_pretrain.sh, but for the warm-up, which begins at 0 here. LARS
scales biases and norms too.

python -m contrastive_jax.train --config=configs/ssl/swav.py --workdir=runs/swav
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the prototypes are frozen for four epochs of digits.

  Without the head's batch norm all digits get one embedding, and so the uniform code.
  """
  method = dict(name='swav', prototypes=64, freeze_steps=20)
  paper = dict(
    data=dict(num_small_views=6, views=dict(name='simclr', image_size=224, crop_scale=(0.14, 1.0))),
    head=dict(hidden=2048, norm_last=False),
    method=dict(prototypes=3000, freeze_steps=313),
    schedule=dict(warmup=10 / 800, final=0.001),
    optimiser=dict(no_decay=''),
    train=dict(epochs=800),
  )
  return common.config(variant, method=method, num_small_views=4, head=dict(norm='batch'), paper=paper)
