"""SwAV (Caron et al., 2020): crops predict each other's assignment to prototypes, two views and four small ones.

python -m contrastive_jax.train --config=configs/ssl/swav.py --workdir=runs/swav
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the prototypes are frozen for four epochs of digits.

  Without the head's batch norm all digits get one embedding, and so the uniform code.
  """
  method = dict(name='swav', prototypes=64, freeze_steps=20)
  return common.config(variant, method=method, num_small_views=4, head=dict(norm='batch'))
