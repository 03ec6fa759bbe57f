"""`dual`: an image tower, a text tower and a loss between what they make of the same thing: CLIP, SigLIP, Symile."""

import functools
import inspect

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import captioned, objective
from contrastive_jax.methods import temperature as of_temperature
from contrastive_jax.methods.base import Info, Method, Output, unchanged
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

# A loss takes two sides of pairs, these with wrong captions of each image, images and all captions of each, or tuples
# of an image and its captions. Captions may be missing, so it takes masks.
_PAIRS, _CAPTIONS, _TUPLES = {'x', 'y', 'x_mask', 'y_mask'}, {'x', 't', 'mask'}, {'reps', 'mask'}
_NEGATIVES = {*_PAIRS, 'negatives', 'negatives_mask'}


def _takes(loss: str, arrays: set[str]) -> bool:
  return {*objective.arguments(loss)} <= arrays <= {*inspect.signature(getattr(losses, loss)).parameters}


_LOSSES = tuple(
  name
  for name in (*losses.OBJECTIVES, 'pairwise_clip', 'symile')
  if any(_takes(name, arrays) for arrays in (_PAIRS, _CAPTIONS, _TUPLES, _NEGATIVES))
)
# Keywords that are of a batch or a step, and no choice.
_GIVEN = ('negatives_mask', 'key')
# Scalars of a loss that are learned with the towers, if it has them.
_LEARNED = ('temperature', 'bias')
GLOSSARY = {
  'positive_similarity': 'mean cosine of an image and its captions, after the heads',
  'temperature': 'divides the similarities; learned unless config.method.learn_temperature is False',
}


def options(*, loss: str = 'symmetric_info_nce', **_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of `make`."""
  return {name: p for name, p in objective.options(loss, _LOSSES).items() if name not in _GIVEN}


def _of_pairs(of_arrays, x, t, mask, *, pivot: bool):
  """The mean over captions' slots of a loss of pairs; what has no caption in a slot is neither anchor nor candidate.

  With `pivot` the captions of later slots are paired with those of the first, and not with images.
  """
  values = []
  for k in range(t.shape[1]):
    anchor, there = (t[:, 0], mask[:, 0] & mask[:, k]) if pivot and k else (x, mask[:, k])
    each = of_arrays(anchor, t[:, k], x_mask=there, y_mask=there)
    values.append(losses.mean(each, there))
  return jnp.stack(values).mean()


def _of_tuples(of_arrays, x, t, mask):
  """The mean of a loss of tuples: of an image and its caption in each slot."""
  whole = jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1)
  return of_arrays([x, *jnp.swapaxes(t, 0, 1)], mask=whole).mean()


def _with_negatives(batch):
  """The batch with wrong captions after the others.

  Raises:
    Refusal: there are none.
  """
  if 'negative_caption' not in batch:
    raise Refusal("the loss needs wrong captions: source 'emoji' has them with config.data.source.negatives=2, say")
  return {**batch, 'caption': jnp.concatenate([batch['caption'], batch['negative_caption']], axis=1)}


def _scalars(params, learned):
  """What the loss is given of its learned scalars; a temperature is learned as a logarithm, and stays positive."""
  return {name: jnp.exp(params[name]) if name == 'temperature' else params[name] for name in learned}


def _objective(loss: str, of_arrays, learned: list[str], hyper: dict, pivot: bool):
  """The `loss` slot: the mean over views of the loss between a view and the captions."""

  def of_view(x, t, features, batch, scalars, key):
    mask = batch['caption_mask']
    if _takes(loss, _TUPLES):
      given = scalars | ({'key': key} if 'key' in inspect.signature(getattr(losses, loss)).parameters else {})
      return _of_tuples(functools.partial(of_arrays, **given), x, t, mask)
    if _takes(loss, _CAPTIONS):
      return of_arrays(x, t, mask=mask, **scalars).mean()
    given = scalars
    if 'n' in features:
      given = given | dict(negatives=losses.unit(features['n']), negatives_mask=batch['negative_caption_mask'])
    return _of_pairs(functools.partial(of_arrays, **given), x, t, mask, pivot=pivot)

  def of_batch(params, state, features, batch, *, key, step):
    scalars = _scalars(params, learned)
    g, t = losses.unit(features['g']), losses.unit(features['t'])
    value = jnp.stack([of_view(g[:, v], t, features, batch, scalars, key) for v in range(g.shape[1])]).mean()
    metrics = {'positive_similarity': captioned.similarity(g, t, batch['caption_mask'])}
    if 'temperature' in hyper:
      metrics['temperature'] = jnp.asarray(scalars.get('temperature', hyper['temperature']))
    return Output(value, state, metrics)

  return of_batch


def _init(both: captioned.Towers, learned: dict):
  """The `init` slot: the towers, and the scalars that are learned."""

  def init(key, batch):
    params, stats = both.init(key, batch)
    for name, value in learned.items():
      start = jnp.asarray(value, jnp.float32)
      params[name] = jnp.log(start) if name == 'temperature' else start
    return params, {'stats': stats}

  return init


def _encode_with_negatives(both: captioned.Towers):
  """The `encode` slot of a loss that is given wrong captions, `n`, too."""

  def encode(params, state, batch, *, key, step, train):
    count = batch['caption'].shape[1]
    features, state = both.encode(params, state, _with_negatives(batch), key=key, step=step, train=train)
    return {'g': features['g'], 't': features['t'][:, :count], 'n': features['t'][:, count:]}, state

  return encode


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
  pivot: bool = False,
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
      averaged over the captions of each image (config.data.num_captions) and over views; of images and all of their
      captions at once (`one_to_k`); of tuples, an image and each of its captions (`symile`, `pairwise_clip`; these
      are of one slot each if config.data.num_captions is all of them); or of two sides and wrong captions of the images
      (`neg_clip`), which the source gives as `negative_caption` int32 `[B, E, L]` and its mask.
    learn_temperature: temperature and bias of the loss are where learning starts; False: they stay.
    lowest_temperature: that may be learned. CLIP's largest scale is 100.
    pivot: with a loss of two sides, images are paired with captions of the first slot alone, and these with captions of
      each other slot; config.data.num_captions must be all slots, which are drawn in no order otherwise.
    fold: 'auto' or a fold of `contrastive_jax.losses`.
    precision: of the similarities' products: None (float32), 'bfloat16', 'bfloat16_3x'.
    **hyper: the loss's hyper-parameters, e.g. `temperature`.

  Raises:
    Refusal: an unknown loss; a hyper-parameter that it does not have or refuses; data without captions, or without the
      wrong ones that the loss needs; a pivot for a loss that is not of two sides alone.

  Source: Radford et al., 2021 (CLIP); Zhai et al., 2023 (SigLIP); Saporta et al., 2024 (Symile).
  """
  has = objective.options(loss, _LOSSES)
  hyper = {name: has[name].default for name in _LEARNED if name in has} | hyper
  of_temperature.check(hyper.get('temperature'), lowest_temperature)
  if pivot and not _takes(loss, _PAIRS):
    raise Refusal(f"config.method.pivot pairs captions with captions, but loss '{loss}' is of images and captions")
  learned = [name for name in _LEARNED if name in has] if learn_temperature else []
  fixed = {name: value for name, value in hyper.items() if name not in learned}
  of_arrays = objective.bound(loss, _LOSSES, fixed, fold=fold, precision=precision)
  both = captioned.both(encoder, head, text_encoder, text_head, info)
  init = _init(both, {name: hyper[name] for name in learned})
  encode = _encode_with_negatives(both) if _takes(loss, _NEGATIVES) else both.encode
  of_batch = _objective(loss, of_arrays, learned, hyper, pivot)
  update = of_temperature.bounded(lowest_temperature) if 'temperature' in learned else unchanged
  return Method(init, encode, of_batch, both.embed, update, per_example=both.per_example)
