"""Gradients of a method's loss: plain, or cached over micro-batches with the same negatives.

Gradient accumulation is not offered: the loss of a micro-batch has only the negatives of that micro-batch.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax.engine import processes
from contrastive_jax.engine.state import AXIS, Numbers, TrainState
from contrastive_jax.methods.base import Method, Output
from contrastive_jax.types import INPUTS, SMALL_VIEW, VIEW, Refusal


class Keys(NamedTuple):
  """The two streams of a step: one for encoders (drawn per example), one for the loss."""

  encode: jax.Array
  loss: jax.Array


def step_keys(seed, step) -> Keys:
  """Keys as a function of (seed, step) alone."""
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)
  return Keys(*jax.random.split(key))


def without_inputs(batch):
  """What a loss sees of a batch, the same for plain and cached gradients."""
  return {k: v for k, v in batch.items() if k not in INPUTS and not k.startswith((VIEW, SMALL_VIEW))}


def objective(method_of: Callable[[Numbers], Method], expand: Callable):
  """`(params, train_state, raw batch) -> (loss, Output)`: from images to loss; the state's params are not read."""

  def of_params(params, train_state: TrainState, raw):
    method, seed, step = method_of(train_state.numbers), train_state.numbers['seed'], train_state.step
    keys, batch = step_keys(seed, step), expand(raw, seed, step)
    features, state = method.encode(params, train_state.state, batch, key=keys.encode, step=step, train=True)
    out = method.loss(params, state, features, without_inputs(batch), key=keys.loss, step=step)
    return out.loss, out

  return of_params


def plain(method_of: Callable[[Numbers], Method], expand: Callable):
  """`(train_state, raw batch) -> (Output, gradients)`: views, encoders and loss differentiated as one function."""

  def gradients(train_state: TrainState, raw):
    of_params, out = jax.grad(objective(method_of, expand), has_aux=True)(train_state.params, train_state, raw)
    return out, of_params

  return gradients


def _check_cached(method: Method, microbatch: int, mesh):
  if not method.per_example:
    raise Refusal(
      "cached gradients embed micro-batches, but this method's encoders mix the examples of a batch: choose "
      '--config.encoder.norm=group or leave config.train.microbatch unset'
    )
  if microbatch % mesh.size:
    raise Refusal(f'config.train.microbatch={microbatch} does not divide among {mesh.size} devices')


def _cutting(microbatch: int, mesh):
  """(piece m of a batch, whole batch from its pieces).

  Every device cuts its own examples, so that no example moves: piece m holds part m of each device's share.
  """
  split = NamedSharding(mesh, P(AXIS))

  def take(tree, m):
    size = microbatch // mesh.size

    def one(x):
      shares = x.reshape(mesh.size, -1, *x.shape[1:])
      piece = jax.lax.dynamic_slice_in_dim(shares, m * size, size, axis=1)
      return jax.lax.with_sharding_constraint(piece.reshape(microbatch, *x.shape[1:]), split)

    return jax.tree.map(one, tree)

  def put_back(pieces):
    def one(*xs):
      stacked = jnp.stack([x.reshape(mesh.size, -1, *x.shape[1:]) for x in xs], axis=1)
      return jax.lax.with_sharding_constraint(stacked.reshape(-1, *xs[0].shape[1:]), split)

    return jax.tree.map(one, *pieces)

  return take, put_back


def cached(method_of: Callable[[Numbers], Method], expand: Callable, *, microbatch: int, mesh):
  """The gradient of the whole batch's loss with the activations of one micro-batch at a time (GradCache).

  Embeds all micro-batches without gradient, takes value and gradient of the loss with respect to parameters and
  features, and embeds each again with the same keys, pulling its features' cotangent back. A host loop over three
  compiled functions: the loss sees all features, encoders never more than `microbatch` examples.

  Args:
    microbatch: examples embedded at once, over all devices; divides the batch, and is divided by the devices.

  Raises:
    Refusal: the method's encoders mix the examples of a batch (batch norm), or sizes that do not divide.

  Source: Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.2.
  """
  _check_cached(method_of({}), microbatch, mesh)
  take, put_back = _cutting(microbatch, mesh)

  def encode(params, train_state, raw, m):
    method, seed, step = method_of(train_state.numbers), train_state.numbers['seed'], train_state.step
    batch = expand(take(raw, m), seed, step)
    key = step_keys(seed, step).encode
    return method.encode(params, train_state.state, batch, key=key, step=step, train=True)[0]

  @jax.jit
  def embed(train_state, raw, m):
    return encode(train_state.params, train_state, raw, m)

  # Parameters that the loss does not see have zeros, which the compiler would split like anything of their shape.
  @functools.partial(jax.jit, out_shardings=(None, NamedSharding(mesh, P()), None))
  def of_loss(train_state: TrainState, raw, pieces):
    method, seed, step = method_of(train_state.numbers), train_state.numbers['seed'], train_state.step
    key, rest = step_keys(seed, step).loss, without_inputs(expand(raw, seed, step))  # views are compiled away

    def of_both(params, features):
      out = method.loss(params, train_state.state, features, rest, key=key, step=step)
      return out.loss, out

    gradients, out = jax.grad(of_both, argnums=(0, 1), has_aux=True)(train_state.params, put_back(pieces))
    return out, *gradients

  @jax.jit
  def pull_back(train_state, raw, of_features, gradients, m):
    pullback = jax.vjp(lambda params: encode(params, train_state, raw, m), train_state.params)[1]
    return jax.tree.map(jnp.add, gradients, pullback(take(of_features, m))[0])

  def gradients(train_state: TrainState, raw) -> tuple[Output, object]:
    size = raw['index'].shape[0]
    if size % microbatch:
      raise Refusal(f'config.train.microbatch={microbatch} does not divide config.data.batch_size={size}')
    numbers = [processes.put(np.int32(m), NamedSharding(mesh, P())) for m in range(size // microbatch)]
    pieces = [embed(train_state, raw, m) for m in numbers]
    out, of_params, of_features = of_loss(train_state, raw, pieces)
    for m in numbers:
      of_params = pull_back(train_state, raw, of_features, of_params, m)
    return out, of_params

  return gradients
