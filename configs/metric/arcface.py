"""ArcFace (Deng et al., 2019): the cross-entropy of cosines with class proxies, an angle as margin.

python -m contrastive_jax.train --config=configs/metric/arcface.py --workdir=runs/arcface
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs."""
  return common.config(variant, num_views=1, method=dict(name='pair', loss='arcface', scale=16.0, margin=0.2))
