"""`fast_clip`: two towers and a loss that remembers every pair of the data set: FastCLIP, SogCLR and iSogCLR of two."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import captioned, objective
from contrastive_jax.methods import temperature as learned
from contrastive_jax.methods.base import Info, Method, Output, unchanged
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = {
  'positive_similarity': 'mean cosine of an image and its caption, after the heads',
  'log_denominator': 'mean over both sides of temperature times the logarithm of the running denominator: falls as '
  'pairs spread',
  'temperature': 'mean over the batch of the temperatures: learned for all, learned for each row, or constant',
  'inner_rate': 'gamma: what the newest batch counts in the running denominators',
}
_LOSSES = ('fast_clip', 'isog_clip', 'sog_clip')
_SIDES = ('image', 'text')


def options(*, loss: str = 'fast_clip', **_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of `make`."""
  return {name: p for name, p in objective.options(loss, _LOSSES).items() if name != 'epoch'}  # of the run, no choice


def _pairs(features, batch):
  """Images and captions `[B, d]`, unit norm, and which images have a caption.

  Raises:
    Refusal: more than one view or caption of an image.
  """
  for name, what, there in (('g', 'views', 'num_views and num_small_views'), ('t', 'captions', 'num_captions')):
    count = features[name].shape[1]
    if count != 1:
      raise Refusal(
        f"method 'fast_clip' remembers one pair of an image and takes 1 of its {what}, but there are {count}: "
        f'config.data.{there}'
      )
  x, y = (losses.unit(features[name][:, 0]) for name in ('g', 't'))
  return x, y, batch['caption_mask'].any(1)  # whatever is drawn is there if any of an image's captions is


def _objective(of_rows, temperature_of, info: Info, gamma: float, gamma_epochs: float, *, by_epoch: bool):
  """The `loss` slot: rows of the state are read before and written after."""

  def of_batch(params, state, features, batch, *, key, step):
    x, y, there = _pairs(features, batch)
    epoch, index = step // info.steps_per_epoch, batch['index']
    rate = losses.inner_rate(epoch, least=gamma, epochs=gamma_epochs)
    old = jax.tree.map(lambda of_all: of_all[index], state['per_sample'])
    tau = temperature_of(params)
    given = ({} if tau is None else {'temperature': tau}) | ({'epoch': epoch} if by_epoch else {})
    values, sides = of_rows(x, y, tuple(old[side] for side in _SIDES), gamma=rate, mask=there, **given)
    new = dict(zip(_SIDES, sides, strict=True))
    taus = [jnp.asarray(tau) if each.temperature is None else each.temperature for each in old.values()]
    logs = [tau * each.log_denominator for tau, each in zip(taus, new.values(), strict=True)]
    metrics = {
      'positive_similarity': captioned.similarity(x[:, None], y[:, None], there[:, None]),
      'log_denominator': losses.mean((logs[0] + logs[1]) / 2, there),
      'temperature': (taus[0].mean() + taus[1].mean()) / 2,
      'inner_rate': rate,
    }
    per_sample = jax.tree.map(lambda of_all, rows: of_all.at[index].set(rows), state['per_sample'], new)
    return Output(losses.mean(values, there), {**state, 'per_sample': per_sample}, metrics)

  return of_batch


def _init(both: captioned.Towers, temperature, rows):
  """The `init` slot: the towers, a temperature if one is learned, and what `rows()` makes of each side."""

  def init(key, batch):
    params, stats = both.init(key, batch)
    if temperature is not None:
      params['temperature'] = jnp.log(jnp.asarray(temperature, jnp.float32))
    return params, {'stats': stats, 'per_sample': {side: rows() for side in _SIDES}}

  return init


def make(
  encoder: Encoder,
  head: Encoder,
  text_encoder: Encoder,
  text_head: Encoder,
  info: Info,
  *,
  loss: str = 'fast_clip',
  temperature: float = 0.07,
  lowest_temperature: float = 0.01,
  gamma: float = 0.8,
  gamma_epochs: float = 0.0,
  fold='auto',
  precision: str | None = None,
  **hyper,
) -> Method:
  """A method of two towers whose loss keeps rows of `state['per_sample']` for each image and for its captions.

  Rows are read before and written after the loss, by `index`; a batch holds no example twice. `sog_clr` says how they
  are split among devices. A pair is one view of an image and one of its captions, drawn at every step; an image
  without any is neither anchor nor candidate, and nothing is remembered of it.

  Args:
    encoder: of images; its output is what evaluators probe.
    head: of images; its output, scaled to unit norm, is what the loss sees.
    text_encoder: of captions, int32 token ids `[n, L]`.
    text_head: of captions; as wide as `head`.
    info: of the run: how many examples and steps an epoch, of how many tokens captions are made.
    loss: 'fast_clip' with its `version`, 'sog_clip', or 'isog_clip'.
    temperature: of 'sog_clip' and of 'fast_clip' v1; where learning starts in v0 and v3, which learn one, and in v2 and
      'isog_clip', which learn one of each row of either side (published: 0.03 and 0.01).
    lowest_temperature: that v0 and v3 may learn; those of rows have bounds of their own.
    gamma: rate of the running denominators, in (0, 1].
    gamma_epochs: over so many epochs gamma falls from 1, along half a cosine in steps of an epoch; 0: constant.
    fold, precision: as of `dual`.
    **hyper: the loss's other hyper-parameters.

  Raises:
    Refusal: an unknown loss or version; a hyper-parameter that it does not have or refuses; data without captions; more
      than one view or caption an image; gamma outside (0, 1].

  Source: Yuan et al., 2022; Qiu et al., 2023; Wei et al., 2024, whose code learns no logarithm, at a rate of its own.
  """
  version = hyper.get('version', 'v3') if loss == 'fast_clip' else None
  learns, by_row = version in ('v0', 'v3'), loss == 'isog_clip' or version == 'v2'
  if learns:
    learned.check(temperature, lowest_temperature)
  of_rows = objective.bound(loss, _LOSSES, hyper, fold=fold, precision=precision)
  both = captioned.both(encoder, head, text_encoder, text_head, info)
  start: dict[str, Any] = dict(temperature=temperature, square=version == 'v2') if by_row else {}
  init = _init(both, temperature if learns else None, functools.partial(losses.running, info.num_examples, **start))

  def temperature_of(params):
    if learns:
      return jnp.exp(params['temperature'])
    return None if by_row else temperature

  of_batch = _objective(of_rows, temperature_of, info, gamma, gamma_epochs, by_epoch=version is not None)
  update = learned.bounded(lowest_temperature) if learns else unchanged
  return Method(init, both.encode, of_batch, both.embed, update, per_example=both.per_example)
