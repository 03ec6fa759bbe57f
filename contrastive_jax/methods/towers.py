"""Networks one after another, as one; and a batch's views through them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from contrastive_jax import losses
from contrastive_jax.memory import ema
from contrastive_jax.methods.base import example_keys
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import SMALL_VIEW, VIEW, Array, Batch, Params, Refusal, State


class Tower(NamedTuple):
  """Networks one after another; parameters and batch statistics are dicts by the networks' names.

  Attributes:
    names: of the networks.
    init: `(key, x) -> (params, stats)`, as of `Encoder`.
    apply: `(params, stats, x, *, keys, train) -> (outputs, stats)`; one output `[n, d]` of each network, in order.
    per_example: whether all of them see each example alone.
  """

  names: tuple[str, ...]
  init: Callable[..., tuple[Params, State]]
  apply: Callable[..., tuple[tuple[Array, ...], State]]
  per_example: bool


def stack(**networks: Encoder) -> Tower:
  """The tower of these networks, each fed with the output of the one before."""

  def init(key, x):
    params, stats = {}, {}
    for (name, network), own in zip(networks.items(), jax.random.split(key, len(networks)), strict=True):
      params[name], stats[name] = network.init(own, x)
      out, _ = jax.eval_shape(network.apply, params[name], stats[name], x)
      x = jnp.zeros(out.shape, out.dtype)
    return params, stats

  def apply(params, stats, x, *, keys=None, train=False):
    outputs, stats = [], dict(stats)
    for name, network in networks.items():
      x, stats[name] = network.apply(params[name], stats[name], x, keys=keys, train=train)
      outputs.append(x)
    return tuple(outputs), stats

  return Tower(tuple(networks), init, apply, per_example=all(network.per_example for network in networks.values()))


def of_views(
  tower: Tower, params: Params, stats: State, batch: Batch, *, key, train: bool, views: tuple[int, ...] | None = None
):
  """Every view (or these) of every example through a tower: outputs `[B, V, d]`, or maps, and the statistics.

  Views are laid side by side instance-major, so that a batch split over devices stays split. Random numbers are drawn
  for each view from `key` and the row of the data set.

  Raises:
    Refusal: fewer views than asked for; a batch with small views, which `of_crops` takes.
  """
  there, small = (sum(name.startswith(kind) for name in batch) for kind in (VIEW, SMALL_VIEW))
  views = tuple(range(there)) if views is None else views
  if max(views) >= there:
    raise Refusal(f'the method compares {max(views) + 1} views of an example, but config.data.num_views={there}')
  if small:
    raise Refusal(f'the method has no use for small views, but config.data.num_small_views={small}')
  keys = _keys(key, batch['index'], there)[:, np.array(views)]
  return _side_by_side(tower, params, stats, [batch[f'{VIEW}{v}'] for v in views], keys, train)


def of_crops(
  tower: Tower, params: Params, stats: State, batch: Batch, *, key, train: bool, views: tuple[int, ...] | None = None
):
  """Every view (or these) and then every small view through a tower: outputs `[B, V + S, d]`, and the statistics.

  As `of_views`, once for each size; so a batch norm sees the views of one size together.

  Raises:
    Refusal: an encoder that takes images of one size.
  """
  of_large, stats = of_views(tower, params, stats, _without_small(batch), key=key, train=train, views=views)
  small = [batch[f'{SMALL_VIEW}{s}'] for s in range(sum(name.startswith(SMALL_VIEW) for name in batch))]
  if not small:
    return of_large, stats
  keys = _keys(jax.random.fold_in(key, 1), batch['index'], len(small))
  of_small, stats = _side_by_side(tower, params, stats, small, keys, train)
  return tuple(jnp.concatenate(pair, axis=1) for pair in zip(of_large, of_small, strict=True)), stats


def _without_small(batch: Batch) -> Batch:
  return {name: x for name, x in batch.items() if not name.startswith(SMALL_VIEW)}


def _keys(key, index, count: int):
  """Keys `[B, count]`: of every view, by the row of the data set."""
  return jax.vmap(lambda k: jax.random.split(k, count))(example_keys(key, index))


def _side_by_side(tower: Tower, params: Params, stats: State, views: list[Array], keys, train: bool):
  x, keys = jnp.stack(views, axis=1), keys.reshape(-1)
  outputs, stats = tower.apply(params, stats, x.reshape(-1, *x.shape[2:]), keys=keys, train=train)
  return tuple(out.reshape(*x.shape[:2], *out.shape[1:]) for out in outputs), stats


def embedding(tower: Tower) -> Callable[..., dict[str, Array]]:
  """`Method.embed` of a tower whose first network is the encoder and whose second, if any, is the head."""

  def embed(params, state, batch):
    outputs, _ = tower.apply(params, state['stats'], batch['view_0'])
    return {'features': outputs[0], 'projection': losses.unit(outputs[:2][-1])}

  return embed


def teacher_of(tower: Tower, params: Params, stats: State) -> State:
  """The state of a teacher that starts as a copy of its student, which may have further networks."""
  return {'params': {name: params[name] for name in tower.names}, 'stats': {name: stats[name] for name in tower.names}}


def taught(tower: Tower, teacher: State, batch: Batch, *, key, train: bool, views: tuple[int, ...] | None = None):
  """`of_views` of a teacher, which sees no small ones, and its state with new statistics; nothing gets a gradient."""
  large = _without_small(batch)
  outputs, stats = of_views(tower, teacher['params'], teacher['stats'], large, key=key, train=train, views=views)
  return jax.lax.stop_gradient(outputs), {**teacher, 'stats': stats}


def followed(state: State, params: Params, momentum) -> State:
  """The state with the teacher moved towards the student."""
  teacher = state['teacher']
  return {**state, 'teacher': {**teacher, 'params': ema.follow(teacher['params'], params, momentum)}}


def compared(prediction: Float[Array, 'b p d'], target: Float[Array, 'b v d']):
  """Unit-norm predictions `[P, B, d]` of all crops and targets `[V, B, d]` of the views, targets as constants.

  And the pairs `(p, v)` of a crop and another that is a view: small views are told, but tell nothing, as in SwAV.

  Raises:
    Refusal: fewer than two views; a predictor of another width than the head.
  """
  crops, wide = prediction.shape[1:]
  views, needed = target.shape[1:]
  if views < 2:
    raise Refusal(f'the method compares 2 views of an example, but config.data.num_views={views}')
  if wide != needed:
    raise Refusal(f'the predictor must be as wide as the head ({needed}), but it is {wide} wide')
  p, k = (jnp.swapaxes(losses.unit(x), 0, 1) for x in (prediction, target))
  return p, jax.lax.stop_gradient(k), [(v, w) for v in range(crops) for w in range(views) if v != w]


def likeness(z: Float[Array, 'v b d'], views: int) -> Float[Array, '']:
  """The mean cosine of the first and the last view of each example; small ones are not asked."""
  return (z[0] * z[views - 1]).sum(-1).mean()


def mean_of_pairs(of_sides: Callable, x: Float[Array, 'p b d'], y: Float[Array, 'v b d'], pairs) -> Float[Array, '']:
  """The mean of a loss of two sides over pairs `(v, w)` of `x[v]` and `y[w]`, compiled once for all of them."""
  sides = jnp.stack([x[v] for v, _ in pairs]), jnp.stack([y[w] for _, w in pairs])
  if len(pairs) == 1:
    return of_sides(sides[0][0], sides[1][0]).mean()
  return jax.lax.map(lambda pair: of_sides(*pair).mean(), sides).mean()
