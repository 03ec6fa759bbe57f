"""SimCLR (Chen et al., 2020) on the digits that scikit-learn ships.

`:imagenet`, as the others', is section 2.4 of the paper and the head of its code.

python -m contrastive_jax.train --config=configs/ssl/simclr.py --workdir=runs/simclr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(method=dict(temperature=0.1))
  return common.config(variant, method=dict(name='pair', loss='nt_xent', temperature=0.2), paper=paper)
