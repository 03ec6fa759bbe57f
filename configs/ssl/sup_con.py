"""SupCon (Khosla et al., 2020): views of images of one class are positives. Uses labels.

python -m contrastive_jax.train --config=configs/ssl/sup_con.py --workdir=runs/sup_con
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  return common.config(variant, method=dict(name='pair', loss='sup_con', temperature=0.1))
