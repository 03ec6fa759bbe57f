"""Hydra, SimLAP (Wu et al., 2024): any two classes are positives behind the gate of their pair. Uses labels.

`:imagenet`: erow/vitookit, simlap.py with the defaults of its evaluation/eval_cls.py, on the setting's ResNet-50, batch
and views. The layer norm after its head is left out: embeddings are scaled to unit norm anyway.

python -m contrastive_jax.train --config=configs/ssl/hydra.py --workdir=runs/hydra
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the paper's gate is 512-1024-256 wide, with batch norm."""
  paper = dict(
    head=dict(hidden=2048, features=256, norm_last=False, bias=False),
    predictor=dict(hidden=1024, features=256, norm='batch'),
    method=dict(class_width=512),
    schedule=dict(learning_rate=5e-4, warmup=0.05),
    optimiser=dict(name='adamw', weight_decay=0.05),
    train=dict(epochs=100),
  )
  return common.config(
    variant,
    method=dict(name='hydra', pairs='arbitrary', temperature=0.1),
    predictor=dict(hidden=128, norm='layer'),
    paper=paper,
  )
