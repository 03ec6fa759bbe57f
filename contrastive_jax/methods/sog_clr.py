"""`sog_clr`: views -> encoder -> head -> a loss that remembers every example of the data set (SogCLR, iSogCLR)."""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import objective, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import State

GLOSSARY = {
  'positive_similarity': 'mean cosine of the first and the last view of an example, after the head',
  'log_denominator': 'mean over the batch of temperature times the logarithm of the running denominator: falls as '
  'examples spread',
  'temperature': 'mean over the batch of the temperatures, each learned for its example or the same for all',
  'inner_rate': 'gamma: what the newest batch counts in the running denominators',
}
_LOSSES = ('isog_clr', 'sog_clr')


def options(*, loss: str = 'sog_clr', **_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of `make`."""
  return objective.options(loss, _LOSSES)


def _visit(of_rows: Callable, z, rate, temperature: float, state: State, index, *, views: int) -> Output:
  """The loss of a batch, its rows of the state read before and written after; `temperature` is that of all, if any."""
  rows = jax.tree.map(lambda of_all: of_all[index], state['per_sample'])
  values, new = of_rows(z, rows, gamma=rate)
  per_sample = jax.tree.map(lambda of_all, own: of_all.at[index].set(own), state['per_sample'], new)
  tau = jnp.asarray(temperature) if rows.temperature is None else rows.temperature
  metrics = {
    'positive_similarity': towers.likeness(z, views),
    'log_denominator': (tau * new.log_denominator).mean(),
    'temperature': tau.mean(),
    'inner_rate': rate,
  }
  return Output(values.mean(), {**state, 'per_sample': per_sample}, metrics)


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  loss: str = 'sog_clr',
  temperature: float = 0.1,
  gamma: float = 0.8,
  gamma_epochs: float = 0.0,
  fold='auto',
  precision: str | None = None,
  **hyper,
) -> Method:
  """A method of one encoder and one head whose loss keeps a row of `state['per_sample']` for each example, by `index`.

  Rows are read before and written after the loss; a batch holds no example twice. To split them among devices, where
  the data set divides, give config.train.sharding the rule ('state/per_sample/.*', ('data',)).

  Args:
    encoder: backbone; its output is what evaluators probe.
    head: projection head; the loss sees its output, scaled to unit norm.
    info: of the run: how many examples and steps an epoch.
    loss: 'sog_clr', or 'isog_clr' with a temperature of each example.
    temperature: of 'sog_clr', or at first of every example.
    gamma: rate of the running denominators, in (0, 1].
    gamma_epochs: over so many epochs gamma falls from 1, along half a cosine in steps of an epoch; 0: constant.
    fold: as of `pair`.
    precision: as of `pair`.
    **hyper: the loss's other hyper-parameters.

  Raises:
    Refusal: an unknown loss; a hyper-parameter that it does not have or refuses; gamma outside (0, 1]; fewer than two
      views.

  Source: Yuan et al., 2022; Qiu et al., 2023; the fall of gamma from Wei et al., 2024.
  """
  individual = loss == 'isog_clr'
  hyper = hyper if individual else hyper | dict(temperature=temperature)
  of_rows = objective.bound(loss, _LOSSES, hyper, fold=fold, precision=precision)
  tower = towers.stack(encoder=encoder, head=head)

  def init(key, batch):
    params, stats = tower.init(key, batch['view_0'])
    rows = losses.running(info.num_examples, temperature=temperature if individual else None)
    return params, {'stats': stats, 'per_sample': rows}

  def encode(params, state, batch, *, key, step, train):
    (_, g), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    return {'g': g}, {**state, 'stats': stats}

  def objective_of_batch(params, state, features, batch, *, key, step):
    z = jnp.swapaxes(losses.unit(features['g']), 0, 1)
    rate = losses.inner_rate(step // info.steps_per_epoch, least=gamma, epochs=gamma_epochs)
    return _visit(of_rows, z, rate, temperature, state, batch['index'], views=info.num_views)

  return Method(init, encode, objective_of_batch, towers.embedding(tower), per_example=tower.per_example)
