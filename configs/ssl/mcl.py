"""MCL (Zhang et al., 2024): SimCLR in stages, from the second on with negatives of one cluster of the features so far.

The rate is constant after the warm-up, as in the paper: along a cosine later stages would learn with a fraction of it.
`:imagenet` is SimCLR's but for that: the paper trains a CLIP.

python -m contrastive_jax.train --config=configs/ssl/mcl.py --workdir=runs/mcl
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the largest cluster must fill a batch.

  So there are four of digits, and on ImageNet, of which an epoch is 312 batches, three stages of the paper's ten.
  """
  paper = dict(method=dict(stages=3, clusters=10))
  found = common.config(variant, method=dict(name='mcl', loss='nt_xent', stages=2, clusters=4), paper=paper)
  found.schedule.name = 'constant'
  if variant == 'tiny':  # two steps are no epoch, at whose end a stage could end
    found.method.stages = 1
  return found
