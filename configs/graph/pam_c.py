"""PamC (Kulatilleke et al., 2022): Debian's packages, contrasted with sums of clusters in place of all other packages.

python -m contrastive_jax.train --config=configs/graph/pam_c.py --workdir=runs/pam_c
"""

from typing import Any

from configs import settings

SMALL: dict[str, Any] = dict(
  data=dict(
    source=dict(name='packages', nodes=160, order=2), views=dict(name='unaltered'), num_views=1, batch_size=1280
  ),
  encoder=dict(name='mlp', widths=(256, 64, 16)),
  method=dict(name='pam_c', clusters=64, scale=2.0, beta=0.1),
  schedule=dict(name='constant', learning_rate=2e-3, scaling='none'),
  optimiser=dict(name='adamw'),
  evals=dict(linear={}, clusters={}),
  train=dict(steps=100, best='linear/accuracy'),
)
TINY = SMALL | dict(
  data=SMALL['data'] | dict(source=dict(name='packages', nodes=8, words=16), batch_size=64),
  encoder=dict(name='mlp', widths=(16, 4)),
  method=dict(name='pam_c', warm_up=1.0),
  train=dict(steps=2, log_every=1, report=False, best='linear/accuracy'),
)


def get_config(variant: str = ''):
  """`variant` is '' or 'tiny': two steps, for tests."""
  return settings.choose(variant, dict(small=SMALL, tiny=TINY))
