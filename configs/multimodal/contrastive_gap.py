"""CUAXU (Fahim et al., 2024) on pictures of emoji and their names: CLIP with terms that spread and align both clouds.

`--config.method.cross_weight=0` is CUA. The paper's temperature of 0.01 is of towers that CLIP trained before.

python -m contrastive_jax.train --config=configs/multimodal/contrastive_gap.py --workdir=runs/contrastive_gap
"""

from configs.multimodal import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  return common.config(variant, method=dict(name='dual', loss='clip_with_geometry', temperature=0.07))
