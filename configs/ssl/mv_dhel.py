"""MV-DHEL (Koromilas et al., 2025): alignment over all pairs of four views, uniformity within each view.

`:imagenet`: pakoromilas/Multi-View-CL, configs/imagenet1k_train_epochs100_bs256_01.yaml, whose steps are 200 epochs.

python -m contrastive_jax.train --config=configs/ssl/mv_dhel.py --workdir=runs/mv_dhel
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=256),
    method=dict(temperature=0.1),
    schedule=dict(scaling='none'),
    optimiser=dict(name='sgd', weight_decay=1e-6),
    train=dict(epochs=200),
  )
  return common.config(variant, method=dict(name='pair', loss='mv_dhel', temperature=0.2), num_views=4, paper=paper)
