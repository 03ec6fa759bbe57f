"""ALIGN (Jia et al., 2021) on pictures of emoji and their names: smoothed labels, a temperature that starts at 1.

python -m contrastive_jax.train --config=configs/multimodal/align.py --workdir=runs/align
"""

from configs.multimodal import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  method = dict(name='dual', loss='symmetric_info_nce', label_smoothing=0.1, temperature=1.0)
  return common.config(variant, method=method)
