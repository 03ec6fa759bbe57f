"""Supervised SepCLR (Louiset et al., 2024): salient coordinates follow attributes of the targets. Uses labels.

The first half of the digits is the background, and the one attribute is which of the others a target shows. Of digits
pasted on garments, `data.source` composite with `label='pasted'` and `method.background=(-1,)`, it is the class of the
digit. Other fields of the data are named by `method.attributes`; for each number in them the predictor, which is the
salient head, needs an output, and `method.width` and `method.background_width` an entry.

`:imagenet`: the optimiser, rate, batch and epochs of dsprite_digit_grid in neurospin-projects/2024_rlouiset_sep_clr.
The background are the animals, as in configs/ssl/sep_clr.py.

python -m contrastive_jax.train --config=configs/ssl/sep_clr_supervised.py --workdir=runs/sep_clr_supervised
"""

from configs import common
from configs.ssl import sep_clr


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the salient head is the predictor, which no norm ends."""
  method = dict(name='sep_clr_supervised', background=(0, 1, 2, 3, 4), attributes=('label',))
  paper = dict(
    data=dict(batch_size=1024),
    method=dict(background=sep_clr.ANIMALS),
    schedule=dict(name='constant', learning_rate=3e-4, scaling='none'),
    optimiser=dict(name='adamw', weight_decay=0.0),
    train=dict(epochs=250),
  )
  return common.config(
    variant,
    method=method,
    head=dict(features=32, norm_last=False),
    predictor=dict(name='projector', features=1),
    paper=paper,
  )
