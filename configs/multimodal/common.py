"""What configs of pictures with captions share: data, towers and schedule of a setting. A config adds its method.

`configs/multimodal/clip.py` is the setting `emoji`, pictures of a font and their names, on a CPU. `:coco` is a ViT-B/16
and a text transformer on records of photographs with captions. `:tiny` runs two steps.
"""

import ml_collections

from contrastive_jax.types import Refusal, nearest


def emoji() -> dict:
  """3,600 pictures of 32 x 32 pixels with their English names and keywords: minutes on two CPU cores."""
  return dict(
    data=dict(
      source=dict(name='emoji', image_size=32, tokens='bpe', vocabulary=1024, length=16),
      views=dict(name='weak'),
      num_views=1,
      batch_size=256,
    ),
    encoder=dict(name='convnet', widths=(32, 64, 128)),
    head=dict(name='projector', layers=1, features=128),
    text_encoder=dict(name='text', width=128, depth=2, heads=4),
    text_head=dict(name='projector', layers=1, features=128),
    schedule=dict(name='cosine', learning_rate=1e-3, scaling='none'),
    optimiser=dict(name='adamw', weight_decay=0.1),
    evals=dict(retrieval=dict(per_concept=True), gap={}),
    train=dict(epochs=60, best='retrieval/t2i_r10'),
  )


def coco() -> dict:
  """Photographs with five captions each, from tar shards (`config.data.source.path`): for one GPU or several."""
  return emoji() | dict(
    data=dict(
      source=dict(name='image_text', path='data/coco', image_size=256),
      views=dict(name='simclr', strength=0.0, blur=0.0, grey=0.0, crop_scale=(0.5, 1.0), image_size=224),
      num_views=1,
      batch_size=4096,
    ),
    encoder=dict(name='vit', variant='b', dtype='bfloat16'),
    head=dict(name='projector', layers=1, features=512),
    text_encoder=dict(name='text', width=512, depth=12, heads=8, pool='last', causal=True, dtype='bfloat16'),
    text_head=dict(name='projector', layers=1, features=512),
    schedule=dict(name='cosine', learning_rate=5e-4, scaling='none', warmup=0.05),
    optimiser=dict(name='adamw', beta2=0.98, epsilon=1e-6, weight_decay=0.2),
    evals=dict(retrieval={}, pooled_retrieval={}, gap={}),
    train=dict(epochs=32, best='retrieval/t2i_r10'),
  )


def tiny() -> dict:
  """Two steps on emoji, for tests."""
  return emoji() | dict(
    data=dict(source=dict(name='emoji', image_size=8, length=12), views=dict(name='weak'), num_views=1, batch_size=32),
    encoder=dict(name='mlp', widths=(32,)),
    head=dict(name='projector', hidden=32, features=16),
    text_encoder=dict(name='text', width=16, depth=1, heads=2),
    text_head=dict(name='projector', hidden=32, features=16),
    evals=dict(retrieval={}),
    train=dict(steps=2, log_every=1, report=False, best='retrieval/t2i_r10'),
  )


SETTINGS = {'emoji': emoji, 'coco': coco, 'tiny': tiny}


def config(
  variant: str, *, method: dict, num_captions: int = 1, languages: tuple[str, ...] = ('en',)
) -> ml_collections.ConfigDict:
  """A method in the setting that `variant` names ('' is emoji).

  Args:
    variant: a name of `SETTINGS`.
    method: the section.
    num_captions: of each picture at each step.
    languages: of the captions of emoji; of English alone there are keywords too, as captions of their own.

  Raises:
    Refusal: an unknown setting.
  """
  setting = SETTINGS.get(variant or 'emoji')
  if setting is None:
    raise Refusal(f"unknown variant '{variant}' of the config{nearest(variant, SETTINGS)}")
  found = setting() | dict(seed=0, method=method)
  source = dict(found['data']['source'])
  if source['name'] == 'emoji':
    source |= dict(languages=languages, keywords=languages == ('en',))
    if 'vocabulary' in source:
      source['vocabulary'] *= len(languages)
  found['data'] = found['data'] | dict(num_captions=num_captions, source=source)
  return ml_collections.ConfigDict(found)
