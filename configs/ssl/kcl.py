"""KCL (Koromilas et al., 2024): a Gaussian kernel aligns positives and spreads each view.

`:imagenet` is SimCLR's with this loss, whose kernel is in every setting that of its code, pakoromilas/DHEL-KCL.

python -m contrastive_jax.train --config=configs/ssl/kcl.py --workdir=runs/kcl
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='kcl', parameter=2.0, energy_weight=16.0))
