"""`pair`: views -> encoder -> head -> a loss of `contrastive_jax.losses`. About half of all methods are its configs."""

import functools
import inspect

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import objective, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

# How a loss's positional arguments are read from the head's output, views g [V, B, D], and the batch. Those that are
# not a, b or h are of unit norm; `proxies` are parameters.
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
_LOSSES = tuple(name for name in losses.OBJECTIVES if {*objective.arguments(name)} <= {*_ARGUMENTS, 'proxies'})
GLOSSARY = {'positive_similarity': 'mean cosine of the first and the last view of an example, after the head'}


def _partition(key, instances: int, features: int):
  """Random sub-batches of twice as many instances as features; a remainder is left out."""
  size = min(2 * features, instances)
  return jax.random.permutation(key, instances)[: instances // size * size].reshape(-1, size)


def _read(of_arrays, arguments: list[str], params, batch, key, g):
  """The loss of these crops `[V, B, D]`."""
  if 'x' in arguments and 'y' not in arguments:  # of one side: every crop is a row
    g, batch = g.reshape(1, -1, g.shape[2]), {'label': jnp.tile(batch['label'], len(g))}
  given = {name: read(g, batch, key) for name, read in _ARGUMENTS.items() if name in arguments}
  return of_arrays(**given, **{name: params[name] for name in arguments if name == 'proxies'})


def _proxies(key, tower: towers.Tower, params, stats, batch, info: Info):
  """A random vector for each class, as wide as the head's output."""
  if not info.num_classes:
    raise Refusal('the loss learns a proxy for each class, but the data set names no classes')
  (*_, g), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
  return jax.random.normal(key, (info.num_classes, g.shape[1]), g.dtype)


def options(*, loss: str = 'nt_xent', **_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of `make`."""
  return objective.options(loss, _LOSSES)


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  loss: str = 'nt_xent',
  fold='auto',
  precision: str | None = None,
  **hyper,
) -> Method:
  """A method of one encoder and one head, trained on views of each example.

  Args:
    encoder: backbone; its output is what evaluators probe.
    head: projection head; the loss sees its output, scaled to unit norm where the loss expects that.
    info: of the run: its views, how many classes there are.
    loss: name of a public loss over views (`nt_xent`, `sup_con`, `decoupled`, `mv_dhel`, ...), of which small views are
      further ones, or over two sides: then it is the mean over all pairs of a view and a later view or small one.
      `sup_con` and others read `label`; `arcface` and others learn a proxy for each class (`params['proxies']`);
      `w_mse` gets random sub-batches of twice as many instances as features.
    fold: 'auto' or a fold of `contrastive_jax.losses`.
    precision: of the similarities' products: None (float32), 'bfloat16', 'bfloat16_3x'.
    **hyper: the loss's hyper-parameters, e.g. `temperature`.

  Raises:
    Refusal: an unknown loss; a hyper-parameter that it does not have or refuses; proxies of data that name no classes.
  """
  of_arrays = objective.bound(loss, _LOSSES, hyper, fold=fold, precision=precision)
  arguments = objective.arguments(loss)
  sides = sum(name in ('x', 'y', 'a', 'b') for name in arguments)
  tower = towers.stack(encoder=encoder, head=head)

  def init(key, batch):
    of_tower, of_proxies = jax.random.split(jax.random.fold_in(key, 1)) if 'proxies' in arguments else (key, None)
    params, stats = tower.init(of_tower, batch['view_0'])
    if 'proxies' in arguments:
      params['proxies'] = _proxies(of_proxies, tower, params, stats, batch, info)
    return params, {'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    (_, g), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    return {'g': g}, {**state, 'stats': stats}

  def objective_of_batch(params, state, features, batch, *, key, step):
    g = jnp.swapaxes(features['g'], 0, 1)
    if len(g) < sides:
      raise Refusal(f"loss '{loss}' takes {sides} views, but config.data.num_views={len(g)}")
    of_rows = functools.partial(_read, of_arrays, arguments, params, batch, key)
    if sides == 2:
      pairs = [(v, w) for v in range(info.num_views) for w in range(v + 1, len(g))]
      value = towers.mean_of_pairs(lambda a, b: of_rows(jnp.stack([a, b])), g, g, pairs)
    else:
      value = of_rows(g).mean()
    return Output(value, state, {'positive_similarity': towers.likeness(losses.unit(g), info.num_views)})

  return Method(init, encode, objective_of_batch, towers.embedding(tower), per_example=tower.per_example)
