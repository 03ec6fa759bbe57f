"""`amcl`: several heads, and a temperature predicted for every pair and head (AMCL, on the host of SimCLR)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.losses.adaptive import pair_temperature
from contrastive_jax.methods import forked, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = {
  'positive_similarity': 'mean cosine of the first and the last view of an example, over all heads',
  'positive_temperature': 'mean temperature of the first and the last view of an example, over all heads',
}


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  info: Info,
  *,
  heads: int = 3,
  topk: int = 100,
  beta: float = 1e-4,
  tau_min: float = 1e-5,
  tau_max: float = 2.0,
  temperature: float | None = None,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""AMCL: the sum over heads of `losses.adaptive_nce`, whose temperatures a small network predicts.

  The network phi, one for all heads, reads their outputs, scaled to unit norm; the temperature of a pair is a function
  of the inner product of its two. Evaluators see as projection the heads' outputs side by side.

  Temperatures of positives end at tau_min where beta is below the similarity of the pair, so at the published beta of
  1e-4 nearly all do: the loss falls towards -1 / tau_min a head, and its gradients grow as much. The official code
  clips them.

  Args:
    encoder: backbone; its output is what evaluators probe.
    head: projection head; each of the heads has parameters of its own.
    predictor: phi.
    info: of the run: its views.
    heads: C.
    topk: as of `losses.adaptive_nce`; so are beta, tau_min and tau_max.
    beta: weight of what temperatures cost.
    tau_min: least temperature.
    tau_max: greatest temperature.
    temperature: constant, of all pairs, in place of predicted ones: then the loss is the sum over heads of
      `losses.nt_xent`, without phi, topk, beta and bounds. The control of what several heads gain by themselves.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: no head; fewer than two views; what the loss refuses.

  Source: Wang et al., 2024, "Adaptive Multi-head Contrastive Learning".
  """
  _check(heads)
  tower = forked.fork(encoder, {f'head_{c}': head for c in range(heads)})
  bounds: dict[str, Any] = dict(tau_min=tau_min, tau_max=tau_max)
  init, encode = _networks(tower, predictor if temperature is None else None)
  if temperature is None:
    of_head = functools.partial(losses.adaptive_nce, topk=topk, beta=beta, **bounds)
  else:
    of_head = functools.partial(losses.nt_xent, temperature=temperature)

  def loss(params, state, features, batch, *, key, step):
    made = {name: x.transpose(2, 1, 0, 3) for name, x in features.items()}  # heads, views, instances
    values = jax.lax.map(lambda head: of_head(**head, fold=fold, precision=precision), made).sum(0)
    return Output(values.mean(), state, _metrics(made, temperature, bounds, info.num_views))

  return Method(init, encode, loss, _embedding(tower), per_example=tower.per_example and predictor.per_example)


def _networks(tower: towers.Tower, predictor: Encoder | None):
  """The first two slots of a `Method`: of the tower and, unless it is None, phi."""

  def init(key, batch):
    of_tower, of_phi = jax.random.split(key)
    params, stats = tower.init(of_tower, batch['view_0'])
    if predictor is not None:
      (_, g, *_), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
      params['predictor'], stats['predictor'] = predictor.init(of_phi, jnp.zeros(g.shape, g.dtype))
    return params, {'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    (_, *outputs), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    z = losses.unit(jnp.stack(outputs, axis=2))
    if predictor is None:
      return {'z': z}, {**state, 'stats': stats}
    own = params['predictor'], stats['predictor'], z.reshape(-1, z.shape[3])
    phi, stats['predictor'] = predictor.apply(*own, train=train)
    return {'z': z, 'phi': phi.reshape(*z.shape[:3], -1)}, {**state, 'stats': stats}

  return init, encode


def _check(heads: int):
  if heads < 1:
    raise Refusal(f'config.method.heads must be at least 1, but it is {heads}')


def _metrics(made, temperature, bounds, views: int):
  positive = {name: (x[:, 0] * x[:, views - 1]).sum(-1) for name, x in made.items()}
  if temperature is None:
    temperature = pair_temperature(positive['phi'], **bounds).mean()
  return {'positive_similarity': positive['z'].mean(), 'positive_temperature': jnp.float32(temperature)}


def _embedding(tower: towers.Tower):
  def embed(params, state, batch):
    (h, *outputs), _ = tower.apply(params, state['stats'], batch['view_0'])
    return {'features': h, 'projection': losses.unit(jnp.concatenate([losses.unit(g) for g in outputs], axis=1))}

  return embed
