"""SigLIP (Zhai et al., 2023) on pictures of emoji and their names: temperature and bias start where the paper's do.

python -m contrastive_jax.train --config=configs/multimodal/siglip.py --workdir=runs/siglip
"""

from configs.multimodal import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  return common.config(variant, method=dict(name='dual', loss='sigmoid', temperature=0.1, bias=-10.0))
