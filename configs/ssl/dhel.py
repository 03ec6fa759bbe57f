"""DHEL (Koromilas et al., 2024): negatives from the anchor's own view alone.

`:imagenet` is SimCLR's with this loss, whose temperature is in every setting that of its code, pakoromilas/DHEL-KCL.

python -m contrastive_jax.train --config=configs/ssl/dhel.py --workdir=runs/dhel
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='dhel', temperature=0.3))
