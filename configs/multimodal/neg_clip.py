"""NegCLIP (Yuksekgonul et al., 2023) on pictures of emoji and their names: those of variants are wrong captions too.

The variants of an emoji differ in skin tone or gender. Data that have no such captions (`:coco`) are refused.

python -m contrastive_jax.train --config=configs/multimodal/neg_clip.py --workdir=runs/neg_clip
"""

from configs.multimodal import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  config = common.config(variant, method=dict(name='dual', loss='neg_clip', temperature=0.07))
  if config.data.source.name == 'emoji':
    config.data.source.update(keywords=False, negatives=2)
    config.evals.minimal_pairs = {}
  return config
