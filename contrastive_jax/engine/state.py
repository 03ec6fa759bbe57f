"""All state of a run in one pytree: checkpointed whole, sharded by path."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from contrastive_jax.methods.base import Method
from contrastive_jax.models.options import pattern
from contrastive_jax.types import Params, Refusal, State, nearest

AXIS = 'data'
LARGEST = 'largest'  # of a rule: splits leaves without knowing their shapes

Axes = Sequence[str | None]
Rules = Sequence[tuple[str, str | Axes]]
# Numbers of the config by dotted key ('seed', 'method.temperature'): inputs of compiled functions, so that runs which
# differ in nothing else share a compilation.
Numbers = Mapping[str, Array]


class TrainState(NamedTuple):
  """Everything that training changes."""

  step: Int[Array, '']  # steps taken
  params: Params  # what has gradients
  opt_state: State
  state: State  # the method's own: batch statistics, teachers, queues, per-sample arrays, the data plan
  numbers: Numbers


def path_name(path) -> str:
  """'params/encoder/stem/kernel' for a path of a pytree."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def data_mesh(devices: int | None = None):
  """The mesh of a data-parallel run: one axis, 'data', over all devices or the first few."""
  available = jax.devices()
  count = len(available) if devices is None else devices
  if not 1 <= count <= len(available):
    raise Refusal(f'{count} devices were asked for, but there are {len(available)}')
  return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=available[:count])


def batch_sharding(mesh) -> NamedSharding:
  """Instances split over the devices."""
  return NamedSharding(mesh, P(AXIS))


def placed(shapes, where):
  """Abstract arrays with their shardings."""
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)


def check_batch(batch_size: int, mesh):
  """Refuses a batch that does not split evenly over the devices."""
  if batch_size % mesh.size:
    near = max(mesh.size, round(batch_size / mesh.size) * mesh.size)
    raise Refusal(f'config.data.batch_size={batch_size} does not divide among {mesh.size} devices; {near} would')


def shardings(tree, mesh, rules: Rules = ()):
  """A sharding for every leaf: that of the first rule whose regular expression its path matches, else replicated.

  Args:
    tree: a TrainState of arrays or shapes.
    rules: pairs of a regular expression over the whole path, and a mesh axis or None for each dimension, or 'largest':
      the largest dimension that divides among the devices is split, and leaves without one are whole.

  Raises:
    Refusal: what is no regular expression or matches no path, an axis that the mesh does not have or that is given to
      two dimensions, a dimension that does not divide, a word other than 'largest', a rule that splits nothing.
  """
  names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
  for regex, spec in rules:
    if not any(map(pattern('config.train.sharding', regex).fullmatch, names)):
      parameters = [name for name in names if name.startswith('params/')]
      raise Refusal(
        f"'{regex}' of config.train.sharding matches nothing of the train state, such as {', '.join(parameters[:3])}"
      )
    if isinstance(spec, str) and spec != LARGEST:
      raise Refusal(
        f"config.train.sharding splits '{regex}' by '{spec}', but '{LARGEST}', or an axis or None for each dimension, "
        f"as in ('{AXIS}',), is needed"
      )

  met: dict[str, list[bool]] = {regex: [] for regex, _ in rules}  # whether leaves for which a rule counts are split

  def one(path, leaf):
    name, shape = path_name(path), np.shape(leaf)
    for regex, spec in rules:
      if re.fullmatch(regex, name):
        axes = _largest(shape, mesh) if spec == LARGEST else _given(name, shape, mesh, spec)
        met[regex].append(any(axis is not None for axis in axes))
        return _placed(mesh, axes)
    return NamedSharding(mesh, P())

  found = jax.tree_util.tree_map_with_path(one, tree)
  for regex, spec in rules:
    if spec == LARGEST or any(axis is not None for axis in spec):
      _check_splits(regex, spec, met[regex])
  return found


def _check_splits(regex: str, spec: str | Axes, split: Sequence[bool]):
  """Refuses a rule that would save no memory, though it says that it splits."""
  if not split:
    raise Refusal(f"'{regex}' of config.train.sharding counts for nothing: earlier rules match all that it matches")
  if not any(split):
    raise Refusal(
      f"'{regex}' of config.train.sharding splits nothing: no leaf that it matches has a dimension for {spec}"
    )


def _largest(shape: Sequence[int], mesh) -> Axes:
  """The axes that split the largest dimension that divides among the devices, the first of equals."""
  sizes = [0 if size % mesh.shape[AXIS] else size for size in shape]
  return (None,) * sizes.index(max(sizes)) + (AXIS,) if any(sizes) else ()


def _given(name: str, shape: Sequence[int], mesh, spec) -> Axes:
  """The axes of a rule, for as many dimensions as there are."""
  spec = spec[: len(shape)]
  for axis, size in zip(spec, shape, strict=False):
    if axis is not None and axis not in mesh.axis_names:
      raise Refusal(f"no mesh axis '{axis}' in config.train.sharding{nearest(str(axis), mesh.axis_names)}")
    if axis is not None and size % mesh.shape[axis]:
      raise Refusal(f"config.train.sharding: '{name}' {list(shape)} does not divide among {mesh.size} devices")
  given = [axis for axis in spec if axis is not None]
  if len(given) > len(set(given)):
    raise Refusal(f"config.train.sharding splits two dimensions of '{name}' over one mesh axis: {tuple(spec)}")
  return spec


def _placed(mesh, axes: Axes) -> NamedSharding:
  # Spelt as compiled functions spell it, or a step would be compiled again for its own result.
  spelt = [axis if axis is not None and mesh.shape[axis] > 1 else None for axis in axes]
  while spelt and spelt[-1] is None:
    spelt.pop()
  return NamedSharding(mesh, P(*spelt))


class Recipe(NamedTuple):
  """What a step applies."""

  method: Method
  optimiser: optax.GradientTransformation
  schedule: optax.Schedule


# The numbers of the config that are given, traced perhaps, stand in for those of the config itself.
Recipes = Callable[[Numbers], Recipe]


def create(recipes: Recipes, numbers: Mapping[str, Any], batch, *, mesh, rules: Rules = ()) -> TrainState:
  """A fresh TrainState, made in its shardings; `batch` holds example views, as `Method.init` reads them."""

  def fresh(numbers):
    recipe = recipes(numbers)
    key = jax.random.fold_in(jax.random.key(numbers['seed']), 0)
    params, state = recipe.method.init(key, batch)
    return TrainState(jnp.zeros((), jnp.int32), params, recipe.optimiser.init(params), state, numbers)

  shapes = jax.eval_shape(fresh, numbers)
  return jax.jit(fresh, out_shardings=shardings(shapes, mesh, rules))(numbers)
