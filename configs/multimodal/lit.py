"""LiT (Zhai et al., 2022): CLIP with a locked image tower.

The image encoder comes from another run, and is neither trained nor decayed; what is after it, and the text tower, are.

python -m contrastive_jax.train --config=configs/ssl/simclr.py --workdir=runs/emoji \
  --config.data.source.name=emoji --config.data.source.image_size=32 --config.data.views.name=simclr \
  '--config.encoder.widths=(32, 64, 128)'
python -m contrastive_jax.train --config=configs/multimodal/lit.py --workdir=runs/lit \
  --config.train.init_from=runs/emoji
"""

from configs.multimodal import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  found = common.config(variant, method=dict(name='dual', loss='symmetric_info_nce', temperature=0.07))
  found.optimiser.rates = (('encoder/.*', 0.0),)
  found.train.init_skip = r'(?!encoder/).*'
  return found
