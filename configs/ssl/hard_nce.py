"""Hard contrastive loss (Wang and Liu, 2021): the hardest twelfth of the negatives alone.

`:imagenet` keeps the paper's share of negatives on ImageNet-100.

python -m contrastive_jax.train --config=configs/ssl/hard_nce.py --workdir=runs/hard_nce
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(method=dict(alpha=0.034))
  return common.config(variant, method=dict(name='pair', loss='hard_nce', temperature=0.3, alpha=0.0819), paper=paper)
