r"""`auto_tcl`: series against a learned augmentation of themselves, which is trained by an objective of its own.

.. math:: v = g \, m \, x, \qquad
          \mathcal{L}_\theta = \mathrm{InfoNCE}(E_\theta(x), E_\theta(v)) + w \, \mathrm{local}(E_\theta(x)), \qquad
          \mathcal{L}_\phi = \mathrm{MMD}^2(E(x), E(v_\phi)) + \lambda_1 \max(0, \bar h - c) + \lambda_2 R(h)

The augmenter phi tells a factor g and logits of the mask m of every step. E are features of every step; contrast and
discrepancy are of their maxima over time, h is the chance that a step is kept. The loss is the sum, in which each
objective takes the other's parameters as constants, so the metric `loss` is of both. `config.optimiser.every`,
(('augmenter/.*', n),), trains the augmenter in every nth step, at the same parameters of the encoder; the paper's code
takes the augmenter's step first. `config.optimiser.rates` sets its learning rate. A `clip_norm` would couple the two.
That code also hides every step of x and of v from the encoder by a fair coin while the encoder is trained; not so here.

Source: Zheng et al., 2024, "Parametric Augmentation for Time Series Contrastive Learning", and AslanDing/AutoTCL.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import ema
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output, example_keys, unchanged
from contrastive_jax.models import augmenter
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal, nearest

GLOSSARY = {
  'contrast': 'mean InfoNCE of series among the augmentations of all series of the batch',
  'local': 'mean InfoNCE of segments of a series, each with the next one as its positive',
  'positive_similarity': 'mean cosine of a series and its augmentation, both pooled over time',
  'discrepancy': 'squared maximum mean discrepancy of series and augmentations, which the augmenter lowers',
  'kept': 'mean over steps of the chance, summed over features, by which the augmenter means to keep them',
  'roughness': 'mean roughness of these chances, which the augmenter lowers',
}
AUGMENTATIONS = {'learned': 1, 'views': 2}  # and how many views each is of
READ = ('last', 'pooled')
# Chances in place of their logits go into the mask; only the first series of a batch has segments; `as_released` of
# `losses.mask_roughness`.
RELEASED = ('first_series_only', 'roughness', 'sigmoid_logits')


class Mask(NamedTuple):
  """How a step of a series is kept or not."""

  temperature: float
  stretch: float
  bias: float
  rounded: bool
  sigmoid_logits: bool


class Weights(NamedTuple):
  """Of the parts of the two objectives."""

  local: float
  segments: int
  sparsity: float
  most_kept: float
  roughness: float
  released: set[str]


def augmented(logits, x, keys, mask: Mask):
  """v = g m x of series [b, t, f] and logits [b, t, 2 f] of mask and factor, and the chances [b, t, f] to be kept."""
  of_mask, of_factor = jnp.split(logits, 2, axis=-1)
  kept = jax.nn.sigmoid(of_mask)
  of_mask = kept if mask.sigmoid_logits else of_mask

  def draw(h, key):
    options = dict(temperature=mask.temperature, stretch=mask.stretch, bias=mask.bias)
    return losses.hard_concrete(h, key, **options, rounded=mask.rounded)

  m = jax.vmap(draw)(of_mask, keys)
  return jax.nn.sigmoid(of_factor) * m * x, kept


def _tower(encoder: Encoder) -> towers.Tower:
  """The encoder's map [b, t, d]."""
  if encoder.map is None:
    raise Refusal('the method needs the features of every step: config.encoder must be one with a map, dilated say')
  return towers.stack(encoder=encoder._replace(apply=encoder.map))


def _learned(tower: towers.Tower, network: Callable[..., Encoder], mask: Mask):
  """The `encode` slot with the augmenter: each of the two parameter groups sees the other one as a constant."""

  def encode(params, state, batch, *, key, step, train):
    of_steps, of_mask, of_view = jax.random.split(key, 3)
    (maps,), stats = towers.of_views(tower, params, state['stats'], batch, key=of_steps, train=train, views=(0,))
    maps, x = maps[:, 0], batch['view_0']
    logits, _ = network(dtype=maps.dtype.name).apply(params['augmenter'], {}, x)
    v, kept = augmented(logits, x, example_keys(of_mask, batch['index']), mask)
    keys = example_keys(of_view, batch['index'])
    fixed = jax.lax.stop_gradient(v)
    (of_fixed,), stats = tower.apply(params, stats, fixed, keys=keys, train=train)
    # What moves the augmenter goes through the encoder as evaluations see it.
    frozen = {'encoder': jax.lax.stop_gradient(params['encoder'])}
    (of_moved,), _ = tower.apply(frozen, jax.lax.stop_gradient(stats), v)
    pooled = {'x': maps.max(1), 'v': of_fixed.max(1), 'moved': of_moved.max(1)}
    return {'map': maps, 'kept': kept, **pooled}, {**state, 'stats': stats}

  return encode


def _of_views(tower: towers.Tower):
  """The `encode` slot with the second view in place of a learned augmentation."""

  def encode(params, state, batch, *, key, step, train):
    (maps,), stats = towers.of_views(tower, params, state['stats'], batch, key=key, train=train, views=(0, 1))
    pooled = maps.max(2)
    return {'map': maps[:, 0], 'x': pooled[:, 0], 'v': pooled[:, 1]}, {**state, 'stats': stats}

  return encode


def _local(maps, key, weights: Weights):
  """The mean over series and segments, from a random start on."""
  maps = maps[:1] if 'first_series_only' in weights.released else maps
  steps = maps.shape[1]
  if not 4 <= weights.segments <= steps:
    raise Refusal(f'config.method.segments must be from 4 to the {steps} steps, but it is {weights.segments}')
  start = jax.random.randint(key, (), 0, steps % weights.segments + 1)
  return losses.local_info_nce(maps, start, segments=weights.segments).mean()


def _of_augmenter(features, key, weights: Weights):
  """The augmenter's objective, and its metrics."""
  kept = features['kept']
  count, steps = kept.shape[:2]
  near, far = jax.random.randint(key, (2, count), 1, steps - 2)
  discrepancy = losses.mmd_rbf(jax.lax.stop_gradient(features['x']), features['moved'])
  roughness = losses.mask_roughness(kept, near, far, as_released='roughness' in weights.released).mean()
  mean = kept.sum(-1).mean()
  value = discrepancy + weights.sparsity * jax.nn.relu(mean - weights.most_kept) + weights.roughness * roughness
  return value, {'discrepancy': discrepancy, 'kept': mean, 'roughness': roughness}


def _objective(weights: Weights, temperature):
  """The `loss` slot: the sum of both objectives, each with a gradient in its own group of parameters alone."""

  def objective(params, state, features, batch, *, key, step):
    of_start, of_pairs = jax.random.split(key)
    x, v = losses.unit(features['x']), losses.unit(features['v'])
    values = losses.info_nce(x, v, temperature=temperature).mean()
    local = _local(features['map'], of_start, weights)
    metrics = {'contrast': values, 'local': local, 'positive_similarity': (x * v).sum(-1).mean()}
    loss = values + weights.local * local
    if 'moved' in features:
      of_augmenter, more = _of_augmenter(features, of_pairs, weights)
      loss, metrics = loss + of_augmenter, metrics | more
    return Output(loss, state, metrics)

  return objective


def _embedding(tower: towers.Tower, averaged: bool, read: str):
  def embed(params, state, batch):
    seen = {'encoder': state['average'] if averaged else params['encoder']}
    (maps,), _ = tower.apply(seen, state['stats'], batch['view_0'])
    pooled = maps.max(1)
    return {'features': maps[:, -1] if read == 'last' else pooled, 'projection': losses.unit(pooled)}

  return embed


def _check(info: Info, augmentation: str, read: str, released: tuple[str, ...], **weights: float):
  chosen = [('augmentation', augmentation, AUGMENTATIONS), ('read', read, READ)]
  for name, value, known in chosen + [('released', each, RELEASED) for each in released]:
    if value not in known:
      raise Refusal(f"unknown name '{value}' in config.method.{name}{nearest(str(value), known)}")
  for name, weight in weights.items():
    if not weight >= 0:
      raise Refusal(f'config.method.{name} must be at least 0, but it is {weight}')
  if info.num_views != AUGMENTATIONS[augmentation]:
    raise Refusal(
      f"config.method.augmentation='{augmentation}' needs config.data.num_views={AUGMENTATIONS[augmentation]}, but "
      f'there is config.data.num_views={info.num_views}'
    )


def _init(tower: towers.Tower, network: Callable[..., Encoder] | None, averaged: bool):
  """The `init` slot; the augmenter has the precision of the encoder's features."""

  def init(key, batch):
    of_encoder, of_augmenter = jax.random.split(key)
    params, stats = tower.init(of_encoder, batch['view_0'])
    state = {'stats': stats} | ({'average': params['encoder']} if averaged else {})
    if network is not None:
      (maps,), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
      params = params | {'augmenter': network(dtype=maps.dtype.name).init(of_augmenter, batch['view_0'])[0]}
    return params, state

  return init


def _average(params, state, *, step):
  """The `update` slot: the mean over all steps so far."""
  return params, {**state, 'average': ema.follow(state['average'], params['encoder'], step / (step + 1))}


def make(
  encoder: Encoder,
  info: Info,
  *,
  augmentation: str = 'learned',
  temperature: float = 1.0,
  local_weight: float = 0.1,
  segments: int = 16,
  sparsity: float = 0.001,
  most_kept: float = 0.4,
  roughness: float = 0.001,
  mask_temperature: float = 1.0,
  stretch: float = 0.05,
  bias: float = 0.001,
  rounded: bool = True,
  augmenter_width: int = 16,
  augmenter_depth: int = 3,
  averaged: bool = True,
  read: str = 'last',
  released: tuple[str, ...] = (),
) -> Method:
  """The method of the module's docstring; defaults are those of the paper's code, in which they differ by data set.

  Args:
    encoder: one with a map of every step; pooling is the maximum, whatever its own.
    info: of the run: how many views there are.
    augmentation: 'learned', or 'views': no augmenter, and the second view of the batch is v.
    temperature: of the contrast, which is of series among augmentations alone.
    local_weight: w.
    segments: of a series, in `losses.local_info_nce`.
    sparsity: lambda_1.
    most_kept: c.
    roughness: lambda_2.
    mask_temperature: as of `losses.hard_concrete`, like the next three.
    stretch: at both ends, where the paper's code has the lower one alone.
    bias: of the draws.
    rounded: masks of zeros and ones.
    augmenter_width: of the augmenter's steps in all blocks; the paper's code has 64 in those before the last.
    augmenter_depth: of its blocks besides the last.
    averaged: evaluators see the mean of the encoder's parameters after all steps so far.
    read: what evaluators see as features: of the 'last' step, from which to forecast, or 'pooled' over time.
    released: which oddities of the paper's code to have, of `RELEASED`.

  Raises:
    Refusal: an encoder without a map; an unknown choice; a weight below 0; another number of views than one, or two
      where the second is the augmentation; by the first step, segments or options of the mask out of range.
  """
  _check(info, augmentation, read, released, local_weight=local_weight, sparsity=sparsity, roughness=roughness)
  tower, network = _tower(encoder), functools.partial(augmenter.of_series, width=augmenter_width, depth=augmenter_depth)
  network()  # refuses sizes
  mask = Mask(mask_temperature, stretch, bias, rounded, 'sigmoid_logits' in released)
  weights = Weights(local_weight, segments, sparsity, most_kept, roughness, {*released})
  encode = _learned(tower, network, mask) if augmentation == 'learned' else _of_views(tower)
  init = _init(tower, network if augmentation == 'learned' else None, averaged)
  embed, update = _embedding(tower, averaged, read), _average if averaged else unchanged
  return Method(init, encode, _objective(weights, temperature), embed, update, per_example=tower.per_example)
