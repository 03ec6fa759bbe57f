"""SepCLR (Louiset et al., 2024): what two sets of images share apart from what only the target set has. Uses labels.

The set of an example is read from its label: here the first half of the digits is the background. Sets that differ in
one thing are `data.source` composite (digits pasted on garments) with `label='pasted'` and `method.background=(-1,)`.

`:imagenet`: the optimiser, rate, batch and epochs of neurospin-projects/2024_rlouiset_sep_clr; the background are the
animals, ImageNet's first 398 classes, and the targets all other things.

python -m contrastive_jax.train --config=configs/ssl/sep_clr.py --workdir=runs/sep_clr
"""

from configs import common

ANIMALS = tuple(range(398))


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`.

  No norm ends the heads: it would keep salient embeddings of the background from going to 0.
  """
  method = dict(name='sep_clr', background=(0, 1, 2, 3, 4))
  paper = dict(
    data=dict(batch_size=512),
    method=dict(background=ANIMALS),
    schedule=dict(name='constant', learning_rate=3e-4, scaling='none'),
    optimiser=dict(name='adamw', weight_decay=0.0),
    train=dict(epochs=250),
  )
  return common.config(variant, method=method, head=dict(features=32, norm_last=False), paper=paper)
