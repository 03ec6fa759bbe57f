"""A tower of images and one of their captions, as the methods of two modalities share them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, example_keys
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Array, Params, Refusal, State


class Towers(NamedTuple):
  """Both towers; parameters and statistics of all four networks lie side by side.

  Attributes:
    init: `(key, batch) -> (params, stats)`.
    encode: `(params, state, batch, *, key, step, train) -> (features, state)`, the slot of a method: outputs of the
      heads, `g` [B, V, D] of views and `t` [B, K, D] of captions.
    embed: the slot of a method: of images, of captions, or of both, whichever the batch holds.
    per_example: whether all networks see each example alone.
  """

  init: Callable[..., tuple[Params, State]]
  encode: Callable
  embed: Callable[..., dict[str, Array]]
  per_example: bool


def both(encoder: Encoder, head: Encoder, text_encoder: Encoder, text_head: Encoder, info: Info) -> Towers:
  """The two towers.

  Raises:
    Refusal: data without captions.
  """
  if not info.vocabulary:
    raise Refusal("the method needs captions, but the data set has none; sources 'emoji' and 'image_text' have")
  image, text = towers.stack(encoder=encoder, head=head), towers.stack(text_encoder=text_encoder, text_head=text_head)

  def init(key, batch):
    of_image, of_text = jax.random.split(key)
    params, stats = image.init(of_image, batch['view_0'])
    of_captions = text.init(of_text, batch['caption'][:, 0])
    return params | of_captions[0], stats | of_captions[1]

  def encode(params, state, batch, *, key, step, train):
    of_image, of_text = jax.random.split(key)
    (_, g), stats = towers.of_crops(image, params, state['stats'], batch, key=of_image, train=train)
    t, stats = _captions(text, params, stats, batch, of_text, train)
    return {'g': g, 't': t}, {**state, 'stats': stats}

  def embed(params, state, batch):
    found = towers.embedding(image)(params, state, batch) if 'view_0' in batch else {}
    if 'caption' in batch:
      found['texts'] = losses.unit(_captions(text, params, state['stats'], batch)[0])
    return found

  return Towers(init, encode, embed, image.per_example and text.per_example)


def _captions(tower: towers.Tower, params, stats, batch, key=None, train: bool = False):
  """Every caption of every example through the text tower, `[B, K, d]`, and the statistics."""
  caption = batch['caption']
  keys = None
  if key is not None:
    keys = jax.vmap(lambda k: jax.random.split(k, caption.shape[1]))(example_keys(key, batch['index'])).reshape(-1)
  (*_, g), stats = tower.apply(params, stats, caption.reshape(-1, caption.shape[2]), keys=keys, train=train)
  return g.reshape(*caption.shape[:2], -1), stats


def similarity(g: Array, t: Array, mask: Array) -> Array:
  """The mean cosine of views [B, V, D] and captions [B, K, D] of one thing, both of unit norm."""
  cosines = jnp.where(mask[:, None], jnp.einsum('bvd,bkd->bvk', g, t), 0)
  return cosines.sum() / jnp.maximum(mask.sum() * g.shape[1], 1)
