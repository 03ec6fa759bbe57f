"""AutoTCL (Zheng et al., 2024): series against a learned augmentation; glucose of the next hour, told by a regression.

python -m contrastive_jax.train --config=configs/series/auto_tcl.py --workdir=runs/auto_tcl
"""

from typing import Any

from configs import settings

OF_AUGMENTER = 'augmenter/.*'

SMALL: dict[str, Any] = dict(
  data=dict(source=dict(name='glucose', length=64), views=dict(name='unaltered'), num_views=1, batch_size=32),
  encoder=dict(name='dilated', width=16, depth=4, features=32),
  # With weights much smaller the augmenter learns to change nothing, which no discrepancy is less than.
  method=dict(name='auto_tcl', sparsity=0.2, roughness=0.3),
  schedule=dict(name='constant', learning_rate=1e-3, scaling='none'),
  optimiser=dict(name='adamw', rates=((OF_AUGMENTER, 10.0),), every=((OF_AUGMENTER, 2),)),
  evals=dict(targets={}),
  train=dict(steps=400, best='targets/r2'),
)
TINY = SMALL | dict(
  data=SMALL['data'] | dict(source=dict(name='glucose', length=24, horizon=2, stride=400), batch_size=32),
  encoder=dict(name='dilated', width=4, depth=1, features=8),
  method=dict(name='auto_tcl', segments=5, augmenter_width=4, augmenter_depth=1),
  train=dict(steps=2, log_every=1, report=False, best='targets/r2'),
)


def get_config(variant: str = ''):
  """`variant` is '' or 'tiny': two steps, for tests."""
  return settings.choose(variant, dict(small=SMALL, tiny=TINY))
