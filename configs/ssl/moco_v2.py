"""MoCo v2 (Chen et al., 2020): queries against a teacher's keys and a queue of earlier keys.

`:imagenet`: facebookresearch/moco, main_moco.py with `--mlp --moco-t 0.2 --aug-plus --cos`. Biases
and norms are decayed too.

python -m contrastive_jax.train --config=configs/ssl/moco_v2.py --workdir=runs/moco_v2
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the queue holds four batches of digits."""
  paper = dict(
    data=dict(batch_size=256, views=dict(name='moco_v2', image_size=224)),
    head=dict(norm='none', norm_last=False),
    method=dict(momentum=0.999, queue_size=65536, temperature=0.2),
    schedule=dict(learning_rate=0.03, warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=1e-4, no_decay=''),
    train=dict(epochs=200),
  )
  return common.config(variant, method=dict(name='moco', momentum=0.99, queue_size=1024), paper=paper)
