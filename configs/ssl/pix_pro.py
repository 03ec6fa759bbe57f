"""PixPro (Xie et al., 2021): cells of a feature map, smoothed, predict a teacher's cells at their place.

Maps of 4 x 4 cells on digits, 7 x 7 on Fashion-MNIST (`:fashion_mnist`), and views that are not turned, since boxes do
not tell that. `:imagenet`: zdaxie/PixPro, tools/pixpro_base_r50_100ep.sh.

python -m contrastive_jax.train --config=configs/ssl/pix_pro.py --workdir=runs/pix_pro
"""

from configs import common

_DIGITS = dict(
  views=dict(rotate=0.0, shear=0.0, zoom=(1.0, 1.6), shift=0.2),
  encoder=dict(name='convnet', widths=(32, 64), stride=1),
)
_MAPS = {
  '': _DIGITS,
  'small': _DIGITS,
  'digits': _DIGITS,
  'fashion_mnist': dict(
    views=dict(rotate=0.0, shear=0.0, crop_scale=(0.3, 1.0)), encoder=dict(name='convnet', widths=(32, 64))
  ),
  'tiny': dict(encoder=dict(name='convnet', widths=(8, 16), stride=1)),
}
PAPER = dict(
  data=dict(batch_size=1024, views=dict(name='byol', image_size=224)),
  head=dict(hidden=4096, features=256, norm='batch', norm_last=False),
  schedule=dict(learning_rate=1.0, warmup=0.05),
  optimiser=dict(weight_decay=1e-5),
)


def with_maps(config, variant: str):
  """The config with an encoder whose maps keep places, where the setting's has none, and with upright views."""
  options = _MAPS.get(variant, {})
  config.data.views.update(options.get('views', {}))
  if 'encoder' in options:
    del config.encoder
    config.encoder = options['encoder']
  return config


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`; the predictor is the linear map of propagated values."""
  networks = dict(head=dict(norm='batch'), predictor=dict(layers=1))
  return with_maps(common.config(variant, method=dict(name='pix_pro'), paper=PAPER, **networks), variant)
