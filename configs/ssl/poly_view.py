"""Poly-View (Shidani et al., 2024): each of four views finds each other view of its instance.

python -m contrastive_jax.train --config=configs/ssl/poly_view.py --workdir=runs/poly_view
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='poly_view', temperature=0.1), num_views=4)
