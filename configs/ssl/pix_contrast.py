"""PixContrast (Xie et al., 2021): a cell of a feature map finds a teacher's cells at its place of the image.

Settings are those of `configs/ssl/pix_pro.py`, but for the batch norm of the head, which negatives make needless; the
paper's setting, `:imagenet`, has it all the same.

python -m contrastive_jax.train --config=configs/ssl/pix_contrast.py --workdir=runs/pix_contrast
"""

from configs import common
from configs.ssl import pix_pro


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='pix_contrast', temperature=0.3)
  return pix_pro.with_maps(common.config(variant, method=method, paper=pix_pro.PAPER), variant)
