"""The shape of every model: two pure functions over nested dicts of arrays."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError

from contrastive_jax.models import options
from contrastive_jax.types import Array, Params, Refusal, State


class Encoder(NamedTuple):
  """A model. `train` is a Python bool; everything else may be traced.

  Attributes:
    init: `(key, x) -> (params, stats)`. x is an example batch [b, ...], of which only shape and dtype matter. Both
      results are nested dicts of float32 arrays (float64 where the model computes in float64); stats is {} for
      a model without batch statistics.
    apply: `(params, stats, x, *, keys=None, train=False) -> (y [b, d], stats)`. y has the dtype of the parameters
      whatever the computation ran in. keys [b] holds one PRNG key per example: needed by dropout and stochastic
      depth when train=True, not looked at otherwise. stats changes only when train=True.
    per_example: False when `apply` with train=True mixes the examples of a batch (batch norm), so that a batch
      must not be cut.
    map: as `apply`, with the same parameters, but for the map `[b, h, w, c]` of which pooling makes the features; None
      for a model that has none, or that does more than pool it.
  """

  init: Callable[..., tuple[Params, State]]
  apply: Callable[..., tuple[Array, State]]
  per_example: bool
  map: Callable[..., tuple[Array, State]] | None = None


@contextlib.contextmanager
def _size(x: Array):
  """Refuses inputs that the parameters do not fit."""
  try:
    yield
  except ScopeParamShapeError as error:
    raise Refusal(
      f'the parameters of this model are for inputs of another size than {list(x.shape[1:])}: of the encoders, '
      "convnet (unless pool='flatten'), resnet and vit take images of any size"
    ) from error


def from_module(
  module: nn.Module,
  *,
  per_example: bool,
  stochastic: bool,
  check: Callable[[Array], None] = options.floating,
  mapped: bool = False,
) -> Encoder:
  """Wraps a flax module as an Encoder.

  Args:
    module: called as `module(x, train=bool)`; has a field `param_dtype`; draws from the stream 'dropout' only and
      keeps variables in 'params' and 'batch_stats' only.
    per_example: the module has no batch statistics.
    stochastic: the module draws random numbers when train=True. It is then applied to each example with that
      example's key, so that the result does not depend on how the batch is cut.
    check: refuses inputs that the module is not for.
    mapped: the module, called with `pooled=False`, returns its map before pooling.

  Raises:
    Refusal: stochastic and not per_example. `init` and `apply` refuse what `check` does (by default raw pixels), and
      `apply` train=True without keys where they are needed, and inputs of another size than the parameters
      are for.
  """
  if stochastic and not per_example:
    raise Refusal(
      "dropout and stochastic depth treat each example alone and norm 'batch' mixes the examples: "
      'set their rates to 0 or choose another norm'
    )

  def init(key: Array, x: Array) -> tuple[Params, State]:
    check(x)
    # One example of zeros: nothing here depends on the values, and slicing x would fail where it is sharded.
    variables = module.init(key, jnp.zeros((1, *x.shape[1:]), x.dtype), train=False)
    # Flax always creates float32 statistics; in a float64 model the first update would change their dtype.
    stats = jax.tree.map(lambda leaf: leaf.astype(module.param_dtype), variables.get('batch_stats', {}))
    return variables['params'], stats

  def run(how: Mapping[str, Any], params: Params, stats: State, x: Array, *, keys=None, train: bool = False):
    check(x)
    variables = {'params': params, 'batch_stats': stats}
    if train and stochastic and keys is None:
      raise Refusal('a model with dropout or stochastic depth needs `keys`, one per example, when train=True')

    def one(example, key):
      return module.apply(variables, example[None], train=True, rngs={'dropout': key}, **how)[0]

    with _size(x):
      if train and stochastic:
        y = jax.vmap(one)(x, keys)
      elif train and not per_example:
        y, updated = module.apply(variables, x, train=True, mutable=['batch_stats'], **how)
        stats = updated['batch_stats']
      else:
        y = module.apply(variables, x, train=train, **how)
    return y.astype(module.param_dtype), stats

  apply, of_map = (functools.partial(run, how) for how in ({}, {'pooled': False}))
  return Encoder(init, apply, per_example, of_map if mapped else None)
