"""FastCLIP v3 (Wei et al., 2024) on pictures of emoji and their names: running denominators, one learned temperature.

The allowed divergence rho and the fall of gamma over half of the epochs are those of the paper's smallest set, CC3M.

python -m contrastive_jax.train --config=configs/multimodal/fast_clip.py --workdir=runs/fast_clip
"""

from configs.multimodal import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.multimodal.common`."""
  method = dict(name='fast_clip', loss='fast_clip', version='v3', temperature=0.07, rho=6.5, gamma=0.2)
  config = common.config(variant, method=method)
  config.method.gamma_epochs = config.train.get('epochs', 0) / 2
  return config
