"""SepCLR (Louiset et al., 2024): what two sets of images share apart from what only the target set has. Uses labels.

The set of an example is read from its label: here the first half of the digits is the background. Sets that differ in
one thing are `data.source` composite (digits pasted on garments) with `label='pasted'` and `method.background=(-1,)`.

python -m contrastive_jax.train --config=configs/ssl/sep_clr.py --workdir=runs/sep_clr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  method = dict(name='sep_clr', background=(0, 1, 2, 3, 4))
  return common.config(variant, method=method, head=dict(features=32))
