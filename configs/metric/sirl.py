"""SIRL (Bobu et al., 2023): embeddings of paths, learned from simulated answers to "which two of three are alike?".

python -m contrastive_jax.train --config=configs/metric/sirl.py --workdir=runs/sirl
"""

from typing import Any

from configs import settings

SMALL: dict[str, Any] = dict(
  data=dict(source=dict(name='paths', queries=500), views=dict(name='unaltered'), num_views=1, batch_size=64),
  encoder=dict(name='mlp', widths=(128, 128, 6)),
  method=dict(name='sirl', margin=1.0),
  schedule=dict(name='cosine', learning_rate=3e-3, scaling='none'),
  optimiser=dict(name='adamw'),
  evals=dict(targets=dict(fitted_on='halves'), preferences={}),
  train=dict(steps=2000, best='targets/r2'),
)
TINY = SMALL | dict(
  data=SMALL['data'] | dict(source=dict(name='paths', queries=64, test_queries=32, points=5), batch_size=32),
  encoder=dict(name='mlp', widths=(16, 4)),
  train=dict(steps=2, log_every=1, report=False, best='targets/r2'),
)


def get_config(variant: str = ''):
  """`variant` is '' or 'tiny': two steps, for tests."""
  return settings.choose(variant, dict(small=SMALL, tiny=TINY))
