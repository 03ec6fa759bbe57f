"""The parts of a training step as functions of their own, on abstract arrays: to be traced, compiled or run apart."""

import math
from typing import NamedTuple

import jax
import numpy as np

from contrastive_jax.data.pipeline import sweep
from contrastive_jax.engine.gradient import step_keys, without_inputs
from contrastive_jax.engine.setup import Run
from contrastive_jax.engine.state import TrainState, batch_sharding, placed
from contrastive_jax.types import SMALL_VIEW, VIEW, Refusal

# Examples a device of the two compilations from which the memory of an encoder is told.
PROBES = (16, 32)


def views(run: Run):
  """`(train_state, raw) -> batch`: the views of a step."""
  return lambda state, raw: run.expand(raw, state.numbers['seed'], state.step)


def encode(run: Run):
  """`(params, train_state, batch) -> features`: encoder and head."""

  def function(params, train_state: TrainState, batch):
    step = train_state.step
    key = step_keys(train_state.numbers['seed'], step).encode
    return run.method.encode(params, train_state.state, batch, key=key, step=step, train=True)[0]

  return function


def encode_and_back(run: Run):
  """`(train_state, batch, cotangents of the features) -> gradients` of the parameters."""

  def function(train_state: TrainState, batch, cotangents):
    return jax.vjp(lambda params: encode(run)(params, train_state, batch), train_state.params)[1](cotangents)[0]

  return function


def loss(run: Run):
  """`(train_state, raw, features) -> (loss, gradients)` of the parameters and the features."""

  def function(train_state: TrainState, raw, features):
    step = train_state.step
    seed = train_state.numbers['seed']
    key, rest = step_keys(seed, step).loss, without_inputs(run.draw(raw, seed, step))

    def objective(params, features):
      return run.method.loss(params, train_state.state, features, rest, key=key, step=step).loss

    return jax.value_and_grad(objective, (0, 1))(train_state.params, features)

  return function


def features(run: Run, train_state, raw):
  """The features of a batch, abstract, split among the devices as the batch is."""
  batch = jax.eval_shape(views(run), train_state, raw)
  shapes = jax.eval_shape(encode(run), train_state.params, train_state, batch)
  return placed(shapes, jax.tree.map(lambda _: batch_sharding(run.mesh), shapes))


# --- memory ---


def whole(tree) -> int:
  """Bytes of abstract arrays that are not split."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def held(tree) -> int:
  """Bytes of abstract arrays on each device."""
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


class Needs(NamedTuple):
  """Bytes of a compiled program on each device."""

  arguments: int
  temporaries: int
  results: int  # that do not take the place of arguments


def needs(compiled) -> Needs:
  """The memory of a compiled program.

  Raises:
    Refusal: this backend does not tell.
  """
  told = compiled.memory_analysis()
  if told is None:
    raise Refusal(f'the backend {jax.default_backend()} does not tell how much memory a program needs')
  results = told.output_size_in_bytes - told.alias_size_in_bytes
  return Needs(told.argument_size_in_bytes, told.temp_size_in_bytes, results)


def working(function, *arguments) -> int:
  """Bytes that a function needs on each device besides its arguments: temporaries and results, as compiled."""
  told = needs(jax.jit(function).lower(*arguments).compile())
  return told.temporaries + told.results


class Budget(NamedTuple):
  """Bytes on each device, from which those of a step are told.

  Attributes:
    held: of the train state and the raw batch, and of whole parameters where the train state splits them.
    parameters: of whole parameters, and so of a gradient.
    features: of the features of the batch.
    loss: of the loss, value and gradient, besides what it is given.
    fixed: of the views and the encoder, forward and backward, however few examples it embeds.
    each: the same for each example of a device.
  """

  held: int
  parameters: int
  features: int
  loss: int
  fixed: float
  each: float

  def plain(self, examples: int) -> int:
    """Of a step that embeds so many examples a device at once."""
    return round(self.held + self.fixed + self.each * examples + self.loss)

  def cached(self, examples: int) -> int:
    """Of a step that embeds so many examples a device at a time; features are there in pieces and together."""
    most = max(self.fixed + self.each * examples, self.loss)
    return round(self.held + self.parameters + 2 * self.features + most)


def budget(run: Run) -> Budget:
  """Compiles the loss at its size, and the encoder with its backward pass for two small batches on one device.

  An encoder's activations grow with its batch, and the rest of what it needs does not: two sizes make a line.
  """
  train_state, raw = run.abstract()
  of_features = features(run, train_state, raw)
  share = run.batch_size // run.mesh.size
  few, many = (min(n, share) for n in PROBES)
  few = few if few < many else max(1, many // 2)
  sizes = {n: _encoder(run, train_state, raw, n) for n in {few, many}}
  each = (sizes[many] - sizes[few]) / (many - few) if many > few else 0.0
  parameters = whole(train_state.params)
  gathered = parameters if held(train_state.params) < parameters else 0
  return Budget(
    held=held((train_state, raw)) + gathered,
    parameters=parameters,
    features=held(of_features),
    loss=working(loss(run), train_state, raw, of_features),
    fixed=sizes[few] - each * few,
    each=each,
  )


def _encoder(run: Run, train_state, raw, examples: int) -> int:
  """Bytes of the views and the encoder, forward and backward, with so many examples on one device."""
  cut = {k: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype) for k, x in raw.items()}
  alone = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), train_state)
  batch = jax.eval_shape(views(run), alone, cut)
  cotangents = jax.eval_shape(encode(run), alone.params, alone, batch)
  made = whole({k: x for k, x in batch.items() if k.startswith((VIEW, SMALL_VIEW))})
  return made + working(encode_and_back(run), alone, batch, cotangents)


# --- arrays to run the parts on ---


def example(run: Run, abstract_features):
  """A raw batch and random features of unit norm, on the devices; only for a run of one process."""
  split = batch_sharding(run.mesh)
  raw = jax.device_put(next(sweep(run.sources['train'], batch_size=run.batch_size)), split)
  numbers = np.random.default_rng(0)

  def one(x):
    drawn = numbers.standard_normal(x.shape, np.float32)
    return jax.device_put((drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(x.dtype), split)

  return raw, jax.tree.map(one, abstract_features)
