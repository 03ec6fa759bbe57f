"""`pair`: views -> encoder -> head -> a loss of `contrastive_jax.losses`. About half of all methods are its configs."""

import inspect

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods.base import Info, Method, Output, example_keys
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal, nearest

# How a loss's positional arguments are read from a batch of views z [V, B, D].
_ARGUMENTS = {
  'z': lambda z, batch: z,
  'x': lambda z, batch: z[0],
  'y': lambda z, batch: z[1],
  'labels': lambda z, batch: batch['label'],
}
GLOSSARY = {'positive_similarity': 'mean cosine of the first and the last view of an example, after the head'}

_PER_BATCH = ('fold', 'precision', 'x_id', 'y_id', 'x_mask', 'y_mask')


def _objective(loss: str):
  known = [name for name in losses.PAIRWISE if name != 'info_nce_both']
  if loss not in known:
    raise Refusal(f"unknown loss '{loss}' in config.method.loss{nearest(str(loss), known)}")
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
    head: projection head; the loss sees its output, scaled to unit norm.
    loss: name of a public loss over views (`nt_xent`, `sup_con`, `decoupled`, `mv_dhel`, ...) or over two sides, which
      are then the first two views. `sup_con` reads `label`.
    fold: 'auto' or a fold of `contrastive_jax.losses`.
    precision: of the similarities' products: None (float32), 'bfloat16', 'bfloat16_3x'.
    **hyper: the loss's hyper-parameters, e.g. `temperature`.

  Raises:
    Refusal: an unknown loss; a hyper-parameter that it does not have or refuses.
  """
  objective, hyper = _objective(loss), _checked(loss, hyper) | dict(fold=fold, precision=precision)
  parameters = inspect.signature(objective).parameters.values()
  arguments = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
  sides = sum(name in ('x', 'y') for name in arguments)

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
    return h, losses.unit(g), {**state, 'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    num_views = sum(name.startswith('view_') for name in batch)
    # Instance-major, so that a batch split over devices stays split where views are laid side by side.
    views = jnp.stack([batch[f'view_{v}'] for v in range(num_views)], axis=1)
    keys = example_keys(key, batch['index'])
    keys = jax.vmap(lambda k: jax.random.split(k, num_views))(keys).reshape(-1)
    _, z, state = towers(params, state, views.reshape(-1, *views.shape[2:]), keys, train)
    return {'z': z.reshape(*views.shape[:2], -1)}, state

  def objective_of_batch(params, state, features, batch, *, key, step):
    z = jnp.swapaxes(features['z'], 0, 1)
    if len(z) < sides:
      raise Refusal(f"loss '{loss}' takes {sides} views, but config.data.num_views={len(z)}")
    values = objective(*(_ARGUMENTS[name](z, batch) for name in arguments), **hyper)
    similarity = (z[0] * z[-1]).sum(-1).mean()
    return Output(values.mean(), state, {'positive_similarity': similarity})

  def embed(params, state, batch):
    h, z, _ = towers(params, state, batch['view_0'], None, False)
    return {'features': h, 'projection': z}

  return Method(init, encode, objective_of_batch, embed, per_example=encoder.per_example and head.per_example)
