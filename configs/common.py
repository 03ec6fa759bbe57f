"""What configs share: data, encoder and schedule of a setting. A config adds its method.

`configs/ssl/simclr.py` is the setting `digits`; `configs/ssl/simclr.py:cifar10` names another; `:tiny` runs two steps.
"""

import ml_collections

from contrastive_jax.types import Refusal, nearest


def digits() -> dict:
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
  return digits() | dict(
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
  return digits() | dict(
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


_SETTINGS = {'digits': digits, 'fashion_mnist': fashion_mnist, 'cifar10': cifar10, 'tiny': tiny}


def config(
  variant: str, *, method: dict, num_views: int = 2, num_small_views: int = 0, **networks: dict
) -> ml_collections.ConfigDict:
  """A method in the setting that `variant` names ('' is digits).

  `networks` are options of the head or the predictor that the method needs in every setting. Small views, of which
  `num_small_views` are made, need an encoder of images of every size.

  Raises:
    Refusal: an unknown setting.
  """
  setting = _SETTINGS.get(variant or 'digits')
  if setting is None:
    raise Refusal(f"unknown variant '{variant}' of the config{nearest(variant, _SETTINGS)}")
  found = setting() | dict(seed=0, method=method)
  found['data'] = found['data'] | dict(num_views=num_views, num_small_views=num_small_views)
  if num_small_views and found['encoder']['name'] == 'mlp':
    found['encoder'] = dict(name='convnet', widths=(8, 16))
  for name, options in networks.items():
    found[name] = found.get(name, dict(name=name)) | options
  return ml_collections.ConfigDict(found)
