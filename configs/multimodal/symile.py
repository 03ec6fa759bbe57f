"""Symile (Saporta et al., 2024) on pictures of emoji with their names in English and German, as tuples of three.

`--config.method.loss=pairwise_clip --config.method.temperature=0.07` is its baseline, CLIP of all three pairs.

python -m contrastive_jax.train --config=configs/multimodal/symile.py --workdir=runs/symile
"""

from configs.multimodal import common

LANGUAGES = ('en', 'de')


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  # Products of three unit rows are smaller than cosines, and so is their temperature.
  method = dict(name='dual', loss='symile', temperature=0.01, lowest_temperature=0.001)
  return common.config(variant, method=method, num_captions=len(LANGUAGES), languages=LANGUAGES)
