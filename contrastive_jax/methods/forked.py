"""An encoder with several heads side by side, as one tower."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from contrastive_jax.methods.towers import Tower
from contrastive_jax.models.encoder import Encoder


def fork(encoder: Encoder, heads: Mapping[str, Encoder]) -> Tower:
  """The tower of an encoder and heads that are each fed with its features; outputs in this order, the features first.

  The same network may be several heads: each has parameters of its own, drawn from a key of its own.
  """

  def init(key, x):
    params, stats = {}, {}
    of_encoder, *of_heads = jax.random.split(key, 1 + len(heads))
    params['encoder'], stats['encoder'] = encoder.init(of_encoder, x)
    out, _ = jax.eval_shape(encoder.apply, params['encoder'], stats['encoder'], x)
    h = jnp.zeros(out.shape, out.dtype)
    for (name, head), own in zip(heads.items(), of_heads, strict=True):
      params[name], stats[name] = head.init(own, h)
    return params, stats

  def apply(params, stats, x, *, keys=None, train=False):
    stats = dict(stats)
    h, stats['encoder'] = encoder.apply(params['encoder'], stats['encoder'], x, keys=keys, train=train)
    outputs = [h]
    for name, head in heads.items():
      out, stats[name] = head.apply(params[name], stats[name], h, keys=keys, train=train)
      outputs.append(out)
    return tuple(outputs), stats

  networks = (encoder, *heads.values())
  return Tower(('encoder', *heads), init, apply, per_example=all(network.per_example for network in networks))
