"""N-pair (Sohn, 2016): two images of each class; the second is told from those of all other classes of the batch.

python -m contrastive_jax.train --config=configs/metric/n_pair.py --workdir=runs/n_pair
"""

from configs import common

BATCH = {'imagenet': 1024}  # 16 of other settings, whose data have ten classes: eight of them, on up to eight devices


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; one view of each example: labels make the pairs.

  Outside of ImageNet batches are so small that an eighth of the setting's epochs is enough of steps.
  """
  found = common.config(variant, num_views=1, method=dict(name='n_pair', penalty=0.02))
  found.data.update(per_class=2, batch_size=BATCH.get(variant, 16))
  if 'epochs' in found.train and variant not in BATCH:
    found.train.epochs //= 8
  return found
