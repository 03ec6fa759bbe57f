"""MoCo v2 (Chen et al., 2020): queries against a teacher's keys and a queue of earlier keys.

python -m contrastive_jax.train --config=configs/ssl/moco_v2.py --workdir=runs/moco_v2
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the queue holds four batches of digits."""
  return common.config(variant, method=dict(name='moco', momentum=0.99, queue_size=1024))
