"""Hard contrastive loss (Wang and Liu, 2021): the hardest of the negatives alone.

`:cifar10` and `:imagenet` keep the paper's shares of negatives on CIFAR-10 and on ImageNet-100. On digits, where a
tenth of the negatives are of the anchor's class, embeddings collapse with the hardest twelfth, so there it is three
tenths. The rest is SimCLR's: the paper's small batches meet negatives of a memory bank.

python -m contrastive_jax.train --config=configs/ssl/hard_nce.py --workdir=runs/hard_nce
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='pair', loss='hard_nce', temperature=0.3, alpha=0.0819 if variant == 'cifar10' else 0.3)
  return common.config(variant, method=method, paper=dict(method=dict(alpha=0.034)))
