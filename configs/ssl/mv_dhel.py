"""MV-DHEL (Koromilas et al., 2025): alignment over all pairs of four views, uniformity within each view.

python -m contrastive_jax.train --config=configs/ssl/mv_dhel.py --workdir=runs/mv_dhel
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='mv_dhel', temperature=0.2), num_views=4)
