"""`Method`: six pure functions that say what a method is; the engine drives every method through them alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key

from contrastive_jax.types import Features, Metrics, Params, State


class Info(NamedTuple):
  """What a method may know of its run: a factory whose signature names `info` gets it."""

  num_examples: int
  steps_per_epoch: int
  total_steps: int
  num_views: int
  num_classes: int  # that the data set names
  num_small_views: int = 0
  vocabulary: int = 0  # of the tokens of captions; 0 where there are none
  per_class: int = 0  # examples of each class in a batch, side by side; 0 where batches are passes over all examples


class Output(NamedTuple):
  """What the loss of a global batch returns."""

  loss: Float[Array, '']
  state: State
  metrics: Metrics


def unchanged(params: Params, state: State, *, step: Int[Array, '']) -> tuple[Params, State]:
  """The `update` of methods that leave parameters and state to the optimiser."""
  return params, state


class Method(NamedTuple):
  """A method, as `optax.GradientTransformation` is an optimiser. Never extended, only wrapped.

  Attributes:
    init: `(key, batch) -> (params, state)`; `batch` holds example views of which only shapes matter. Batch statistics
      live in `state['stats']`, a teacher in `state['teacher']`, arrays by sample in `state['per_sample']`.
    encode: `(params, state, batch, *, key, step, train) -> (features, state)`. Sees each example alone. Every leaf of
      `features` leads with the instance axis, `[B, V, D]` say. Randomness is drawn per example from `key` and `index`.
    loss: `(params, state, features, batch, *, key, step) -> Output`. Sees the global batch, without images and views.
    embed: `(params, state, batch) -> {'features': [B, d], 'projection': [B, p]}` of `view_0`, for evaluators and users.
    update: `(params, state, *, step) -> (params, state)`, after the optimiser: teachers, clamps, unit-norm prototypes.
    refresh: `(params, state, embed_all, *, key, step) -> state`, between stages; None where there are none.
    per_example: whether `encode` may be cut into micro-batches (not with batch statistics over the global batch).
  """

  init: Callable[..., tuple[Params, State]]
  encode: Callable[..., tuple[Features, State]]
  loss: Callable[..., Output]
  embed: Callable[..., dict[str, Array]]
  update: Callable[..., tuple[Params, State]] = unchanged
  refresh: Callable[..., State] | None = None
  per_example: bool = True


def example_keys(key: Key[Array, ''], index: Int[Array, ' b']) -> Key[Array, ' b']:
  """One key per example, by its row of the data set: the same however the batch is cut or placed."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
