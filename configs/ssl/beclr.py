"""BECLR (Poulakakis-Daktylidis and Jamali-Rad, 2024): neighbours from a clustered memory join the batch.

`:imagenet`: stypoumic/BECLR's settings for miniImageNet, without its masked patches.

python -m contrastive_jax.train --config=configs/ssl/beclr.py --workdir=runs/beclr
"""

from configs import common

# The memory holds two batches of digits, eight of garments and of CIFAR-10, sixteen of `:imagenet`. Neighbours join
# after 10 to 17 % of the epochs; 15 % in the paper.
MEMORY = {
  'fashion_mnist': dict(clusters=200, memory_size=8192, memory_epochs=2, every_epochs=2),
  'cifar10': dict(clusters=200, memory_size=8192, memory_epochs=150, every_epochs=150),
  'imagenet': dict(clusters=200, memory_size=8192, memory_epochs=60, every_epochs=60),
  'tiny': dict(clusters=8, memory_size=256, memory_epochs=0, every_epochs=1),
}


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`, for whose batches and epochs the memory is made."""
  memory = MEMORY.get(variant, dict(clusters=32, memory_size=1024, memory_epochs=20, every_epochs=20))
  paper = dict(
    data=dict(batch_size=256),
    encoder=dict(depth=18),
    head=dict(hidden=512, features=512, layers=3),
    predictor=dict(hidden=128),
    method=dict(momentum=0.995),
    schedule=dict(learning_rate=0.3, scaling='none', warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=1e-4),
    train=dict(epochs=400),
  )
  method = dict(name='beclr', momentum=0.99) | memory
  return common.config(variant, method=method, head=dict(norm='batch'), predictor=dict(hidden=256), paper=paper)
