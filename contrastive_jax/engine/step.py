"""One training step: gradients, optimiser, the method's own update, metrics."""

from collections.abc import Callable

import jax
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax.engine import gradient
from contrastive_jax.engine.state import Recipes, Rules, TrainState, shardings
from contrastive_jax.methods.base import Output


def make(
  recipes: Recipes,
  expand: Callable,
  *,
  mesh,
  microbatch: int | None = None,
  rules: Rules = (),
):
  """`(train_state, raw batch) -> (train_state, metrics)`; the state given is consumed.

  Args:
    recipes: method, optimiser and schedule, given the numbers that the train state holds.
    expand: `(raw batch, seed, step) -> batch` makes the views on the device.
    microbatch: None for the plain gradient, else the size of the pieces of the cached one.
    rules: of `state.shardings`. Parameters that they split are gathered for the step; every device updates its part of
      them, with its part of the optimiser's state.
  """
  whole = NamedSharding(mesh, P())
  place = jax.lax.with_sharding_constraint if rules else lambda tree, where: tree

  def method_of(numbers):
    return recipes(numbers).method

  def apply(train_state: TrainState, out: Output, gradients):
    recipe = recipes(train_state.numbers)
    where = shardings(train_state._replace(state=out.state), mesh, rules)
    gradients = place(gradients, where.params)
    updates, opt_state = recipe.optimiser.update(gradients, train_state.opt_state, train_state.params)
    params = optax.apply_updates(train_state.params, updates)
    params, state = recipe.method.update(params, out.state, step=train_state.step)
    metrics = out.metrics | {
      'loss': out.loss,
      'lr': recipe.schedule(train_state.step),
      'grad_norm': optax.tree.norm(gradients),
      'param_norm': optax.tree.norm(params),
    }
    after = train_state._replace(step=train_state.step + 1, params=params, opt_state=opt_state, state=state)
    # A method that looks things up in its new state, a memory say, may leave it split among the devices.
    return jax.lax.with_sharding_constraint(after, where), metrics

  if microbatch is not None:
    of_batch = gradient.cached(method_of, expand, microbatch=microbatch, mesh=mesh)
    compiled = jax.jit(apply, donate_argnums=(0, 2))
    gather = jax.jit(lambda params: params, out_shardings=whole)

    def step(train_state: TrainState, raw):
      gathered = train_state._replace(params=gather(train_state.params)) if rules else train_state
      out, gradients = of_batch(gathered, raw)
      # Donated buffers must not appear twice, and most methods hand their state through the loss unchanged.
      return compiled(train_state._replace(state=None), out, gradients)

    return step

  of_batch = gradient.plain(method_of, expand)

  def plain(train_state: TrainState, raw):
    # Left to itself the compiler may split activations as the parameters are, and gather the batch.
    return apply(train_state, *of_batch(train_state._replace(params=place(train_state.params, whole)), raw))

  return jax.jit(plain, donate_argnums=0)
