"""SupReMix (Wu et al., 2023): embeddings in the order of a number, here the progression of diabetes in steps of 10.

Temperature, window and shares are those of the paper's code, yilei-wu/SupReMix, whose labels are years of age and whose
images are faces; weights are those of its equation, where its runs on IMDB-WIKI take 'inverse_l1'. Views are copies
with noise, as there are no crops of a vector.

python -m contrastive_jax.train --config=configs/metric/sup_re_mix.py --workdir=runs/sup_re_mix
"""

from typing import Any

from configs import settings

SMALL: dict[str, Any] = dict(
  data=dict(
    source=dict(name='diabetes'),
    views=dict(name='series', scaling=0.0, shift=0.0, jitter=0.2, chance=1.0),
    num_views=2,
    batch_size=64,
  ),
  encoder=dict(name='mlp', widths=(128, 64)),
  head=dict(name='projector', features=16),
  method=dict(name='sup_re_mix', unit=10.0, temperature=0.3, window=5.0, weight='l1', beta=(2, 8)),
  schedule=dict(name='constant', learning_rate=1e-3, scaling='none'),
  optimiser=dict(name='adamw', weight_decay=1e-2),
  evals=dict(targets={}),
  train=dict(steps=600, best='targets/r2'),
)
TINY = SMALL | dict(
  data=SMALL['data'] | dict(batch_size=32),
  encoder=dict(name='mlp', widths=(16, 8)),
  head=dict(name='projector', hidden=8, features=8),
  train=dict(steps=2, log_every=1, report=False, best='targets/r2'),
)


def get_config(variant: str = ''):
  """`variant` is '' or 'tiny': two steps, for tests."""
  return settings.choose(variant, dict(small=SMALL, tiny=TINY))
