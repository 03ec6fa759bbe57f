"""DCL (Yeh et al., 2022): NT-Xent without the positives in its denominator; DCLW with --config.method.sigma=0.5.

`:imagenet`: batch 256, 200 epochs and temperature 0.1, as the paper reports; the rest is SimCLR's.

python -m contrastive_jax.train --config=configs/ssl/dcl.py --workdir=runs/dcl
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=256),
    method=dict(temperature=0.1),
    schedule=dict(warmup=0.05),
    train=dict(epochs=200),
  )
  return common.config(variant, method=dict(name='pair', loss='decoupled', temperature=0.2), paper=paper)
