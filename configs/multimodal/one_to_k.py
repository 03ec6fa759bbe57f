"""1-to-K (Nie et al., 2024) on pictures of emoji and their names in four languages, all at every step.

python -m contrastive_jax.train --config=configs/multimodal/one_to_k.py --workdir=runs/one_to_k
"""

from configs.multimodal import common

LANGUAGES = ('en', 'de', 'ja', 'zh')


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  method = dict(name='dual', loss='one_to_k', temperature=0.07, lowest_temperature=0.001)
  return common.config(variant, method=method, num_captions=len(LANGUAGES), languages=LANGUAGES)
