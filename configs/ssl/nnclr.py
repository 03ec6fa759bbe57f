"""NNCLR (Dwibedi et al., 2021): nearest neighbours in a queue of embeddings are the positives.

`:imagenet`: the paper's section 4.1 without multi-crop, not checked against its text; no official code was published.

python -m contrastive_jax.train --config=configs/ssl/nnclr.py --workdir=runs/nnclr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the queue holds four batches of digits."""
  method = dict(name='nnclr', temperature=0.1, queue_size=1024)
  paper = dict(
    head=dict(hidden=2048, features=256, layers=3),
    predictor=dict(hidden=4096),
    method=dict(queue_size=98304),
    schedule=dict(warmup=0.01),
    train=dict(epochs=1000),
  )
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256), paper=paper)
