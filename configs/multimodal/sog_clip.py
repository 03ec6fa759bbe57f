"""SogCLR of two modalities (Yuan et al., 2022) on pictures of emoji and their names: a running denominator of each.

python -m contrastive_jax.train --config=configs/multimodal/sog_clip.py --workdir=runs/sog_clip
"""

from configs.multimodal import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  method = dict(name='fast_clip', loss='sog_clip', temperature=0.07)
  return common.config(variant, method=method)
