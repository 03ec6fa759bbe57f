"""DINO (Caron et al., 2021): a student's crops match a teacher's centred and sharpened outputs for other crops.

python -m contrastive_jax.train --config=configs/ssl/dino.py --workdir=runs/dino
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; two views and four small ones.

  The head's batch norm is the code's option for convolutional nets: without it the targets of digits stay near uniform.
  """
  method = dict(name='dino', prototypes=64, momentum=0.99)
  return common.config(variant, method=method, num_small_views=4, head=dict(layers=3, norm='batch'))
