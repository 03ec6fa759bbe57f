"""MoCo v3 (Chen, Xie and He, 2021): InfoNCE of a student's predictions against a teacher's keys, both ways.

python -m contrastive_jax.train --config=configs/ssl/moco_v3.py --workdir=runs/moco_v3
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the scale, 4 temperature, is the paper's sum of 2 tau per order."""
  method = dict(name='siamese', loss='info_nce', temperature=0.2, momentum=0.99, scale=0.8)
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256))
