"""`pair`: views -> encoder -> head -> a loss of `contrastive_jax.losses`. About half of all methods are its configs."""

import inspect

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods.base import Info, Method, Output, example_keys
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal, nearest

# How a loss's positional arguments are read from the head's output, views g [V, B, D]. Those that are not a, b or h
# are of unit norm.
_ARGUMENTS = {
  'z': lambda g, batch, key: losses.unit(g),
  'x': lambda g, batch, key: losses.unit(g[0]),
  'y': lambda g, batch, key: losses.unit(g[1]),
  'a': lambda g, batch, key: g[0],
  'b': lambda g, batch, key: g[1],
  'h': lambda g, batch, key: g,
  'labels': lambda g, batch, key: batch['label'],
  'partition': lambda g, batch, key: _partition(key, *g.shape[1:]),
}
GLOSSARY = {'positive_similarity': 'mean cosine of the first and the last view of an example, after the head'}

_PER_BATCH = ('fold', 'precision', 'x_id', 'y_id', 'x_mask', 'y_mask')


def _partition(key, instances: int, features: int):
  """Random sub-batches of twice as many instances as features; a remainder is left out."""
  size = min(2 * features, instances)
  return jax.random.permutation(key, instances)[: instances // size * size].reshape(-1, size)


def _objective(loss: str):
  if loss not in losses.OBJECTIVES:
    raise Refusal(f"unknown loss '{loss}' in config.method.loss{nearest(str(loss), losses.OBJECTIVES)}")
  return getattr(losses, loss)


def options(*, loss: str = 'nt_xent', **_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of `make`."""
  parameters = inspect.signature(_objective(loss)).parameters
  return {k: p for k, p in parameters.items() if p.kind == p.KEYWORD_ONLY and k not in _PER_BATCH}


def _checked(loss: str, hyper: dict) -> dict:
  known = options(loss=loss)
  for name in hyper:
    if name not in known:
      raise Refusal(f"loss '{loss}' has no hyper-parameter '{name}'{nearest(name, known)}")
  return hyper


def make(
  encoder: Encoder, head: Encoder, *, loss: str = 'nt_xent', fold='auto', precision: str | None = None, **hyper
) -> Method:
  """A method of one encoder and one head, trained on views of each example.

  Args:
    encoder: backbone; its output is what evaluators probe.
    head: projection head; the loss sees its output, scaled to unit norm where the loss expects that.
    loss: name of a public loss over views (`nt_xent`, `sup_con`, `decoupled`, `mv_dhel`, ...) or over two sides, which
      are then the first two views. `sup_con` reads `label`; `w_mse` gets random sub-batches of twice as many instances
      as features.
    fold: 'auto' or a fold of `contrastive_jax.losses`.
    precision: of the similarities' products: None (float32), 'bfloat16', 'bfloat16_3x'.
    **hyper: the loss's hyper-parameters, e.g. `temperature`.

  Raises:
    Refusal: an unknown loss; a hyper-parameter that it does not have or refuses.
  """
  objective, hyper = _objective(loss), _checked(loss, hyper)
  parameters = inspect.signature(objective).parameters
  arguments = [p.name for p in parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
  sides = sum(name in ('x', 'y', 'a', 'b') for name in arguments)
  if 'fold' in parameters:
    hyper = hyper | dict(fold=fold, precision=precision)

  def init(key, batch, info: Info):
    of_encoder, of_head = jax.random.split(key)
    view = batch['view_0']
    params, stats = encoder.init(of_encoder, view)
    hidden, _ = jax.eval_shape(lambda p, s, x: encoder.apply(p, s, x), params, stats, view)
    head_params, head_stats = head.init(of_head, jnp.zeros(hidden.shape, hidden.dtype))
    return {'encoder': params, 'head': head_params}, {'stats': {'encoder': stats, 'head': head_stats}}

  def towers(params, state, x, keys, train):
    stats = dict(state['stats'])
    h, stats['encoder'] = encoder.apply(params['encoder'], stats['encoder'], x, keys=keys, train=train)
    g, stats['head'] = head.apply(params['head'], stats['head'], h, keys=keys, train=train)
    return h, g, {**state, 'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    num_views = sum(name.startswith('view_') for name in batch)
    # Instance-major, so that a batch split over devices stays split where views are laid side by side.
    views = jnp.stack([batch[f'view_{v}'] for v in range(num_views)], axis=1)
    keys = example_keys(key, batch['index'])
    keys = jax.vmap(lambda k: jax.random.split(k, num_views))(keys).reshape(-1)
    _, g, state = towers(params, state, views.reshape(-1, *views.shape[2:]), keys, train)
    return {'g': g.reshape(*views.shape[:2], -1)}, state

  def objective_of_batch(params, state, features, batch, *, key, step):
    g = jnp.swapaxes(features['g'], 0, 1)
    if len(g) < sides:
      raise Refusal(f"loss '{loss}' takes {sides} views, but config.data.num_views={len(g)}")
    values = objective(*(_ARGUMENTS[name](g, batch, key) for name in arguments), **hyper)
    similarity = (losses.unit(g[0]) * losses.unit(g[-1])).sum(-1).mean()
    return Output(values.mean(), state, {'positive_similarity': similarity})

  def embed(params, state, batch):
    h, g, _ = towers(params, state, batch['view_0'], None, False)
    return {'features': h, 'projection': losses.unit(g)}

  return Method(init, encode, objective_of_batch, embed, per_example=encoder.per_example and head.per_example)
