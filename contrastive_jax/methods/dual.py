"""`dual`: an image tower, a text tower and a loss between what they make of the same thing: CLIP, SigLIP, ALIGN."""

import inspect
import math

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import objective, towers
from contrastive_jax.methods.base import Info, Method, Output, example_keys
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

# A loss takes two sides of pairs, or images and all captions of each; captions may be missing, so it takes masks.
_PAIRS, _CAPTIONS = {'x', 'y', 'x_mask', 'y_mask'}, {'x', 't', 'mask'}


def _takes(loss: str, arrays: set[str]) -> bool:
  return {*objective.arguments(loss)} <= arrays <= {*inspect.signature(getattr(losses, loss)).parameters}


_LOSSES = tuple(name for name in losses.OBJECTIVES if _takes(name, _PAIRS) or _takes(name, _CAPTIONS))
# Scalars of a loss that are learned with the towers, if it has them.
_LEARNED = ('temperature', 'bias')
GLOSSARY = {
  'positive_similarity': 'mean cosine of an image and its captions, after the heads',
  'temperature': 'divides the similarities; learned unless config.method.learn_temperature is False',
}


def options(*, loss: str = 'symmetric_info_nce', **_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of `make`."""
  return objective.options(loss, _LOSSES)


def _check(info: Info, hyper: dict, lowest: float):
  if not info.vocabulary:
    raise Refusal("method 'dual' needs captions, but the data set has none; sources 'emoji' and 'image_text' have")
  if not lowest > 0:
    raise Refusal(f'config.method.lowest_temperature must be positive, but it is {lowest}')
  temperature = hyper.get('temperature')
  if isinstance(temperature, float) and not temperature >= lowest:
    raise Refusal(f'config.method.temperature={temperature} is below config.method.lowest_temperature={lowest}')


def _captions(tower: towers.Tower, params, stats, batch, key=None, train: bool = False):
  """Every caption of every example through the text tower, `[B, K, d]`, and the statistics."""
  caption = batch['caption']
  keys = None
  if key is not None:
    keys = jax.vmap(lambda k: jax.random.split(k, caption.shape[1]))(example_keys(key, batch['index'])).reshape(-1)
  (*_, g), stats = tower.apply(params, stats, caption.reshape(-1, caption.shape[2]), keys=keys, train=train)
  return g.reshape(*caption.shape[:2], -1), stats


def _of_pairs(of_arrays, scalars, x, t, mask):
  """The mean over captions' slots of a loss of pairs; what has no caption in a slot is neither anchor nor candidate."""
  values = [
    of_arrays(x, t[:, k], x_mask=mask[:, k], y_mask=mask[:, k], **scalars).sum() / jnp.maximum(mask[:, k].sum(), 1)
    for k in range(t.shape[1])
  ]
  return jnp.stack(values).mean()


def make(
  encoder: Encoder,
  head: Encoder,
  text_encoder: Encoder,
  text_head: Encoder,
  info: Info,
  *,
  loss: str = 'symmetric_info_nce',
  learn_temperature: bool = True,
  lowest_temperature: float = 0.01,
  fold='auto',
  precision: str | None = None,
  **hyper,
) -> Method:
  """A method of two towers, trained on images and their captions.

  Args:
    encoder: of images; its output is what evaluators probe.
    head: of images; its output, scaled to unit norm, is what the loss sees.
    text_encoder: of captions, int32 token ids `[n, L]`.
    text_head: of captions; as wide as `head`.
    info: of the run: of how many tokens captions are made.
    loss: name of a public loss of two sides (`symmetric_info_nce`, `sigmoid`, ...), which is
      averaged over the captions of each image (config.data.num_captions) and over views; or of images and all of their
      captions at once (`one_to_k`).
    learn_temperature: temperature and bias of the loss are where learning starts; False: they stay.
    lowest_temperature: that may be learned. CLIP's largest scale is 100.
    fold: 'auto' or a fold of `contrastive_jax.losses`.
    precision: of the similarities' products: None (float32), 'bfloat16', 'bfloat16_3x'.
    **hyper: the loss's hyper-parameters, e.g. `temperature`.

  Raises:
    Refusal: an unknown loss; a hyper-parameter that it does not have or refuses; data without captions.

  Source: Radford et al., 2021 (CLIP); Zhai et al., 2023 (SigLIP).
  """
  has = objective.options(loss, _LOSSES)
  hyper = {name: has[name].default for name in _LEARNED if name in has} | hyper
  _check(info, hyper, lowest_temperature)
  learned = [name for name in _LEARNED if name in has] if learn_temperature else []
  fixed = {name: value for name, value in hyper.items() if name not in learned}
  of_arrays = objective.bound(loss, _LOSSES, fixed, fold=fold, precision=precision)
  image, text = towers.stack(encoder=encoder, head=head), towers.stack(text_encoder=text_encoder, text_head=text_head)

  def init(key, batch):
    of_image, of_text = jax.random.split(key)
    params, stats = image.init(of_image, batch['view_0'])
    of_captions = text.init(of_text, batch['caption'][:, 0])
    params, stats = params | of_captions[0], stats | of_captions[1]
    for name in learned:  # a temperature is learned as a logarithm, and stays positive
      start = jnp.asarray(hyper[name], jnp.float32)
      params[name] = jnp.log(start) if name == 'temperature' else start
    return params, {'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    of_image, of_text = jax.random.split(key)
    (_, g), stats = towers.of_views(image, params, state['stats'], batch, key=of_image, train=train)
    t, stats = _captions(text, params, stats, batch, of_text, train)
    return {'g': g, 't': t}, {**state, 'stats': stats}

  def of_batch(params, state, features, batch, *, key, step):
    scalars = {name: jnp.exp(params[name]) if name == 'temperature' else params[name] for name in learned}
    g, t, mask = losses.unit(features['g']), losses.unit(features['t']), batch['caption_mask']
    views = [g[:, v] for v in range(g.shape[1])]
    if _takes(loss, _CAPTIONS):
      value = jnp.stack([of_arrays(x, t, mask=mask, **scalars).mean() for x in views]).mean()
    else:
      value = jnp.stack([_of_pairs(of_arrays, scalars, x, t, mask) for x in views]).mean()
    similarity = jnp.where(mask[:, None], jnp.einsum('bvd,bkd->bvk', g, t), 0)
    metrics = {'positive_similarity': similarity.sum() / jnp.maximum(mask.sum() * g.shape[1], 1)}
    if 'temperature' in has:
      metrics['temperature'] = jnp.asarray(scalars.get('temperature', hyper['temperature']))
    return Output(value, state, metrics)

  def embed(params, state, batch):
    found = towers.embedding(image)(params, state, batch) if 'view_0' in batch else {}
    if 'caption' in batch:
      found['texts'] = losses.unit(_captions(text, params, state['stats'], batch)[0])
    return found

  def update(params, state, *, step):
    if 'temperature' in learned:
      params = {**params, 'temperature': jnp.maximum(params['temperature'], math.log(lowest_temperature))}
    return params, state

  return Method(init, encode, of_batch, embed, update, per_example=image.per_example and text.per_example)
