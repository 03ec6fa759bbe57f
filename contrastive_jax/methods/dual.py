"""`dual`: an image tower, a text tower and a loss between what they make of the same thing: CLIP, SigLIP, ALIGN."""

import inspect
import math

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import captioned, objective
from contrastive_jax.methods.base import Info, Method, Output, unchanged
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


def _check(hyper: dict, lowest: float):
  if not lowest > 0:
    raise Refusal(f'config.method.lowest_temperature must be positive, but it is {lowest}')
  temperature = hyper.get('temperature')
  if isinstance(temperature, float) and not temperature >= lowest:
    raise Refusal(f'config.method.temperature={temperature} is below config.method.lowest_temperature={lowest}')


def _of_pairs(of_arrays, scalars, x, t, mask):
  """The mean over captions' slots of a loss of pairs; what has no caption in a slot is neither anchor nor candidate."""
  values = [
    of_arrays(x, t[:, k], x_mask=mask[:, k], y_mask=mask[:, k], **scalars).sum() / jnp.maximum(mask[:, k].sum(), 1)
    for k in range(t.shape[1])
  ]
  return jnp.stack(values).mean()


def _scalars(params, learned):
  """What the loss is given of its learned scalars; a temperature is learned as a logarithm, and stays positive."""
  return {name: jnp.exp(params[name]) if name == 'temperature' else params[name] for name in learned}


def _objective(loss: str, of_arrays, learned: list[str], hyper: dict):
  """The `loss` slot: the mean over views of the loss between a view and the captions."""

  def of_batch(params, state, features, batch, *, key, step):
    scalars = _scalars(params, learned)
    g, t, mask = losses.unit(features['g']), losses.unit(features['t']), batch['caption_mask']
    views = [g[:, v] for v in range(g.shape[1])]
    if _takes(loss, _CAPTIONS):
      value = jnp.stack([of_arrays(x, t, mask=mask, **scalars).mean() for x in views]).mean()
    else:
      value = jnp.stack([_of_pairs(of_arrays, scalars, x, t, mask) for x in views]).mean()
    metrics = {'positive_similarity': captioned.similarity(g, t, mask)}
    if 'temperature' in hyper:
      metrics['temperature'] = jnp.asarray(scalars.get('temperature', hyper['temperature']))
    return Output(value, state, metrics)

  return of_batch


def _bounded(lowest: float):
  """The `update` slot of a learned temperature."""

  def update(params, state, *, step):
    return {**params, 'temperature': jnp.maximum(params['temperature'], math.log(lowest))}, state

  return update


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
  _check(hyper, lowest_temperature)
  learned = [name for name in _LEARNED if name in has] if learn_temperature else []
  fixed = {name: value for name, value in hyper.items() if name not in learned}
  of_arrays = objective.bound(loss, _LOSSES, fixed, fold=fold, precision=precision)
  both = captioned.both(encoder, head, text_encoder, text_head, info)

  def init(key, batch):
    params, stats = both.init(key, batch)
    for name in learned:
      start = jnp.asarray(hyper[name], jnp.float32)
      params[name] = jnp.log(start) if name == 'temperature' else start
    return params, {'stats': stats}

  of_batch = _objective(loss, of_arrays, learned, hyper)
  update = _bounded(lowest_temperature) if 'temperature' in learned else unchanged
  return Method(init, both.encode, of_batch, both.embed, update, per_example=both.per_example)
