"""`amcl`: several heads, and a temperature predicted for every pair and head (AMCL, on the host of SimCLR)."""

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.losses.adaptive import pair_temperature
from contrastive_jax.methods import forked, towers
from contrastive_jax.methods.base import Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = {
  'positive_similarity': 'mean cosine of the first and the last view of an example, over all heads',
  'positive_temperature': 'mean temperature predicted for the first and the last view of an example, over all heads',
}


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  *,
  heads: int = 3,
  topk: int = 100,
  beta: float = 1e-4,
  tau_min: float = 1e-5,
  tau_max: float = 2.0,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""AMCL: the sum over heads of `losses.adaptive_nce`, whose temperatures a small network predicts.

  The network phi, one for all heads, reads their outputs, scaled to unit norm; the temperature of a pair is a function
  of the inner product of its two. Evaluators see as projection the heads' outputs side by side.

  Args:
    encoder: backbone; its output is what evaluators probe.
    head: projection head; each of the heads has parameters of its own.
    predictor: phi.
    heads: C.
    topk: as of `losses.adaptive_nce`; so are beta, tau_min and tau_max.
    beta: weight of what temperatures cost.
    tau_min: least temperature.
    tau_max: greatest temperature.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: no head; fewer than two views; what the loss refuses.

  Source: Wang et al., 2024, "Adaptive Multi-head Contrastive Learning".
  """
  _check(heads)
  tower = forked.fork(encoder, {f'head_{c}': head for c in range(heads)})
  bounds = dict(tau_min=tau_min, tau_max=tau_max)
  options = dict(topk=topk, beta=beta, fold=fold, precision=precision, **bounds)

  def init(key, batch):
    of_tower, of_phi = jax.random.split(key)
    params, stats = tower.init(of_tower, batch['view_0'])
    (_, g, *_), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
    params['predictor'], stats['predictor'] = predictor.init(of_phi, jnp.zeros(g.shape, g.dtype))
    return params, {'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    (_, *outputs), stats = towers.of_views(tower, params, state['stats'], batch, key=key, train=train)
    z = losses.unit(jnp.stack(outputs, axis=2))
    own = params['predictor'], stats['predictor'], z.reshape(-1, z.shape[3])
    phi, stats['predictor'] = predictor.apply(*own, train=train)
    return {'z': z, 'phi': phi.reshape(*z.shape[:3], -1)}, {**state, 'stats': stats}

  def loss(params, state, features, batch, *, key, step):
    z, phi = (features[name].transpose(2, 1, 0, 3) for name in ('z', 'phi'))  # heads, views, instances
    values = jax.lax.map(lambda head: losses.adaptive_nce(*head, **options), (z, phi)).sum(0)
    return Output(values.mean(), state, _metrics(z, phi, bounds))

  return Method(init, encode, loss, _embedding(tower), per_example=tower.per_example and predictor.per_example)


def _check(heads: int):
  if heads < 1:
    raise Refusal(f'config.method.heads must be at least 1, but it is {heads}')


def _metrics(z, phi, bounds):
  similarity, r = ((each[:, 0] * each[:, -1]).sum(-1) for each in (z, phi))
  return {
    'positive_similarity': similarity.mean(),
    'positive_temperature': pair_temperature(r, **bounds).mean(),
  }


def _embedding(tower: towers.Tower):
  def embed(params, state, batch):
    (h, *outputs), _ = tower.apply(params, state['stats'], batch['view_0'])
    return {'features': h, 'projection': losses.unit(jnp.concatenate([losses.unit(g) for g in outputs], axis=1))}

  return embed
