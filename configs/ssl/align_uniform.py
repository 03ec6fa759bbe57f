"""Alignment and uniformity as the objective (Wang and Isola, 2020).

    python -m contrastive_jax.train --config=configs/ssl/align_uniform.py --workdir=runs/align_uniform
"""

from configs import common


def get_config(variant: str = ''):
  """`:tiny` runs two steps."""
  return common.digits(dict(name='pair', loss='align_uniform'), variant)
