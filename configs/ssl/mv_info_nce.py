"""MV-InfoNCE (Koromilas et al., 2025): one softmax term an instance over all pairs of its four views.

python -m contrastive_jax.train --config=configs/ssl/mv_info_nce.py --workdir=runs/mv_info_nce
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='mv_info_nce', temperature=0.2), num_views=4)
