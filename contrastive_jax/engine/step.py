"""One training step: gradients, optimiser, the method's own update, metrics."""

from collections.abc import Callable

import jax
import optax

from contrastive_jax.engine import gradient
from contrastive_jax.engine.state import TrainState
from contrastive_jax.methods.base import Method, Output


def make(
  method: Method,
  optimiser: optax.GradientTransformation,
  schedule: optax.Schedule,
  expand: Callable,
  *,
  seed: int,
  mesh,
  microbatch: int | None = None,
):
  """`(train_state, raw batch) -> (train_state, metrics)`; the state given is consumed.

  Args:
    expand: `(raw batch, step) -> batch` makes the views on the device.
    microbatch: None for the plain gradient, else the size of the pieces of the cached one.
  """

  def apply(train_state: TrainState, out: Output, gradients):
    updates, opt_state = optimiser.update(gradients, train_state.opt_state, train_state.params)
    params = optax.apply_updates(train_state.params, updates)
    params, state = method.update(params, out.state, step=train_state.step)
    metrics = out.metrics | {
      'loss': out.loss,
      'lr': schedule(train_state.step),
      'grad_norm': optax.tree.norm(gradients),
      'param_norm': optax.tree.norm(params),
    }
    return TrainState(train_state.step + 1, params, opt_state, state), metrics

  if microbatch is not None:
    of_batch = gradient.cached(method, expand, seed=seed, microbatch=microbatch, mesh=mesh)
    compiled = jax.jit(apply, donate_argnums=(0, 2))

    def step(train_state: TrainState, raw):
      out, gradients = of_batch(train_state, raw)
      # Donated buffers must not appear twice, and most methods hand their state through the loss unchanged.
      return compiled(train_state._replace(state=None), out, gradients)

    return step

  of_batch = gradient.plain(method, expand, seed=seed)
  return jax.jit(lambda train_state, raw: apply(train_state, *of_batch(train_state, raw)), donate_argnums=0)
