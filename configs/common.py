"""What configs share: data, encoder and schedule of a setting. A config adds its method.

`configs/ssl/simclr.py` is the setting `small`, handwritten digits on a CPU; `configs/ssl/simclr.py:cifar10` names
another. `:imagenet` is a ResNet-50 on ImageNet with the settings of the method's paper: those of SimCLR, which most
papers compare with, and what the config says its paper does otherwise. `:tiny` runs two steps.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from contrastive_jax.types import Refusal, nearest


def small() -> dict:
  """1,437 training images of 8 x 8 pixels that ship with scikit-learn: a minute on two CPU cores."""
  return dict(
    data=dict(
      source=dict(name='digits'),
      views=dict(name='digits'),
      small_views=dict(name='digits', image_size=6, zoom=(1.2, 1.6), shift=0.2),
      batch_size=256,
    ),
    encoder=dict(name='convnet'),
    head=dict(name='projector'),
    schedule=dict(name='cosine', learning_rate=1e-3, scaling='none'),
    optimiser=dict(name='adamw'),
    evals=dict(knn={}, linear={}, geometry={}),
    train=dict(epochs=200),
  )


def fashion_mnist() -> dict:
  """60,000 training images of 28 x 28 pixels; a small conv net, minutes on a CPU."""
  return small() | dict(
    data=dict(
      source=dict(name='fashion_mnist'),
      views=dict(name='garments'),
      small_views=dict(name='garments', image_size=12, crop_scale=(0.1, 0.4)),
      batch_size=512,
    ),
    encoder=dict(name='convnet', widths=(16, 32, 64)),
    train=dict(epochs=12),
  )


def cifar10() -> dict:
  """The SimCLR paper's appendix B.9: ResNet-18 with the CIFAR stem, batch 512, no blur. For one GPU."""
  return small() | dict(
    data=dict(
      source=dict(name='cifar10'),
      views=dict(name='simclr', strength=0.5, blur=0.0),
      small_views=dict(name='simclr', strength=0.5, blur=0.0, image_size=16, crop_scale=(0.05, 0.3)),
      batch_size=512,
    ),
    encoder=dict(name='resnet', depth=18, stem='cifar', norm='batch', dtype='bfloat16'),
    schedule=dict(name='cosine', learning_rate=0.5, scaling='linear', warmup=0.01),
    optimiser=dict(name='lars', weight_decay=1e-4),
    train=dict(epochs=1000),
  )


def imagenet() -> dict:
  """The SimCLR paper's default, section 2.4: ResNet-50, batch 4,096, LARS, 100 epochs. For many accelerators.

  Learning rate 0.3 for each 256 examples, decay 1e-6, ten epochs of warm-up; the head has the batch norms of the code.
  Small views as in SwAV (Caron et al., 2020): 96 pixels, crops of a twentieth to a seventh of the image.
  """
  return small() | dict(
    data=dict(
      source=dict(name='imagenet2012'),
      views=dict(name='simclr', image_size=224),
      small_views=dict(name='simclr', image_size=96, crop_scale=(0.05, 0.14)),
      batch_size=4096,
    ),
    encoder=dict(name='resnet', depth=50, stem='imagenet', norm='batch', dtype='bfloat16'),
    head=dict(name='projector', norm='batch', norm_last=True),
    schedule=dict(name='cosine', learning_rate=0.3, scaling='linear', warmup=0.1),
    optimiser=dict(name='lars', weight_decay=1e-6),
    train=dict(epochs=100),
  )


def tiny() -> dict:
  """Two steps on digits, for tests."""
  return dict(
    data=dict(source=dict(name='digits'), views=dict(name='digits'), batch_size=32),
    encoder=dict(name='mlp', widths=(32,)),
    head=dict(name='projector', hidden=32, features=16),
    schedule=dict(name='cosine', learning_rate=1e-3, scaling='none'),
    optimiser=dict(name='adamw'),
    evals=dict(knn={}),
    train=dict(steps=2, log_every=1, report=False),
  )


SETTINGS = {
  'small': small,
  'digits': small,
  'fashion_mnist': fashion_mnist,
  'cifar10': cifar10,
  'imagenet': imagenet,
  'tiny': tiny,
}


def config(
  variant: str,
  *,
  method: dict,
  num_views: int = 2,
  num_small_views: int = 0,
  paper: Mapping[str, Mapping[str, Any]] | None = None,
  **networks: dict,
) -> ml_collections.ConfigDict:
  """A method in the setting that `variant` names ('' is small).

  Args:
    variant: a name of `SETTINGS`.
    method: the section.
    num_views: of each example.
    num_small_views: besides them; they need an encoder of images of every size.
    paper: by section, what the method's paper does otherwise in the setting `imagenet`; other settings ignore it.
      A section with another name takes the place of the setting's, else its keys are set.
    networks: options of the head or the predictor that the method needs in every setting.

  Raises:
    Refusal: an unknown setting.
  """
  setting = SETTINGS.get(variant or 'small')
  if setting is None:
    raise Refusal(f"unknown variant '{variant}' of the config{nearest(variant, SETTINGS)}")
  found = setting() | dict(seed=0, method=method)
  found['data'] = found['data'] | dict(num_views=num_views, num_small_views=num_small_views)
  if num_small_views and found['encoder']['name'] == 'mlp':
    found['encoder'] = dict(name='convnet', widths=(8, 16))
  for name, options in networks.items():
    found[name] = found.get(name, dict(name=name)) | options
  if variant == 'imagenet':
    found = _merged(found, paper or {})
  return ml_collections.ConfigDict(found)


def _merged(section: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
  """The keys of both, those of `other` first; sections inside of them likewise, unless their names differ."""
  if other.get('name', section.get('name')) != section.get('name'):
    return dict(other)
  inside = {k: _merged(section[k], v) for k, v in other.items() if isinstance(v, Mapping) and k in section}
  return {**section, **other, **inside}
