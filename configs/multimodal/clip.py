"""CLIP (Radford et al., 2021) on pictures of emoji and their names.

python -m contrastive_jax.train --config=configs/multimodal/clip.py --workdir=runs/clip
"""

from configs.multimodal import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  return common.config(variant, method=dict(name='dual', loss='symmetric_info_nce', temperature=0.07))
