"""iSogCLR (Qiu et al., 2023): SogCLR with a temperature of each image, learned along with the encoder.

python -m contrastive_jax.train --config=configs/ssl/isog_clr.py --workdir=runs/isog_clr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='sog_clr', loss='isog_clr', temperature=0.2))
