"""AMCL (Wang et al., 2024): three heads, and a temperature predicted for every pair and head, on the host of SimCLR.

python -m contrastive_jax.train --config=configs/ssl/amcl.py --workdir=runs/amcl
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='amcl', heads=3, topk=100, beta=1e-4)
  return common.config(variant, method=method, predictor=dict(hidden=128, norm='none'))
