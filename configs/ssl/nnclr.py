"""NNCLR (Dwibedi et al., 2021): nearest neighbours in a queue of embeddings are the positives.

python -m contrastive_jax.train --config=configs/ssl/nnclr.py --workdir=runs/nnclr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the queue holds four batches of digits."""
  method = dict(name='nnclr', temperature=0.1, queue_size=1024)
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256))
