"""Poly-View (Shidani et al., 2024): each of four views finds each other view of its instance.

`:imagenet`: eight views, batch 256 and 128 epochs, as the paper reports; the rest is SimCLR's.

python -m contrastive_jax.train --config=configs/ssl/poly_view.py --workdir=runs/poly_view
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(data=dict(batch_size=256, num_views=8), schedule=dict(warmup=10 / 128), train=dict(epochs=128))
  return common.config(variant, method=dict(name='pair', loss='poly_view', temperature=0.1), num_views=4, paper=paper)
