"""BECLR (Poulakakis-Daktylidis and Jamali-Rad, 2024): neighbours from a clustered memory join the batch.

`:imagenet`: stypoumic/BECLR's settings for miniImageNet, without its masked patches.

python -m contrastive_jax.train --config=configs/ssl/beclr.py --workdir=runs/beclr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the memory holds two batches of digits, tiny ones of `tiny`."""
  method = dict(name='beclr', momentum=0.99, clusters=32, memory_size=1024, memory_epochs=20, every_epochs=20)
  if variant == 'tiny':
    method |= dict(clusters=8, memory_size=128, memory_epochs=1, every_epochs=1)
  paper = dict(
    data=dict(batch_size=256),
    encoder=dict(depth=18),
    head=dict(hidden=512, features=512, layers=3),
    predictor=dict(hidden=128),
    method=dict(momentum=0.995, clusters=200, memory_size=8192, memory_epochs=60, every_epochs=60),
    schedule=dict(learning_rate=0.3, scaling='none', warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=1e-4),
    train=dict(epochs=400),
  )
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256), paper=paper)
