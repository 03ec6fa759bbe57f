"""What configs share: data, encoder and schedule of a setting. A config adds its method."""

import ml_collections


def digits(method: dict, variant: str = '', *, num_views: int = 2) -> ml_collections.ConfigDict:
  """1,437 training images of 8 x 8 pixels, a small conv net: minutes on two CPU cores. `:tiny`: two steps."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.data = dict(source=dict(name='digits'), views=dict(name='digits'), num_views=num_views, batch_size=256)
  config.encoder = dict(name='convnet')
  config.head = dict(name='projector')
  config.method = method
  config.schedule = dict(name='cosine', learning_rate=1e-3, scaling='none')
  config.optimiser = dict(name='adamw')
  config.evals = dict(knn={}, linear={}, geometry={})
  config.train = dict(epochs=60)
  return shrink(config) if variant == 'tiny' else config


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same method at a size for tests: two steps on digits."""
  config.data.source, config.data.views = dict(name='digits'), dict(name='digits')
  config.data.batch_size = 32
  config.encoder = dict(name='mlp', widths=(32,))
  config.head = dict(name='projector', hidden=32, features=16)
  config.train = dict(steps=2, log_every=1, report=False)
  config.evals = dict(knn={})
  return config
