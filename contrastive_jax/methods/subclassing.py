"""Classes split into subclasses of about the size of the rarest class, found anew every few epochs (SBCL)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from contrastive_jax.memory import clusters
from contrastive_jax.methods.base import Info
from contrastive_jax.methods.prototypes import check_at_least_0
from contrastive_jax.types import Refusal, State


class Stages(NamedTuple):
  """When subclasses are found, and how large they are.

  Attributes:
    info: of the run.
    subclass_size: M, the least size of a subclass.
    warmup_epochs: before the first are found.
    every_epochs: after which they are found anew.
  """

  info: Info
  subclass_size: int
  warmup_epochs: int
  every_epochs: int

  @property
  def first_step(self) -> int:
    """The step from which there are subclasses."""
    return self.warmup_epochs * self.info.steps_per_epoch


def check(stages: Stages, beta: float):
  """Refuses data that name no classes and numbers out of range."""
  info, *numbers = stages
  if not info.num_classes:
    raise Refusal('the method splits classes, but the data set names none')
  check_at_least_0(beta=beta)
  if min(numbers) < 1:
    raise Refusal(
      'config.method.subclass_size, warmup_epochs and every_epochs must be at least 1, but they are '
      '{}, {} and {}'.format(*numbers)
    )


def subclass_counts(label: Int[np.ndarray, ' n'], classes: int, least: int) -> tuple[int, ...]:
  r"""How many subclasses each class has: :math:`\max(1, \lfloor n_c / \max(\min n, M) \rfloor)`, or 0 without rows."""
  sizes = np.bincount(label[label >= 0], minlength=classes)
  size = max(sizes[sizes > 0].min(), least)
  return tuple(int(max(1, n // size)) if n else 0 for n in sizes)


def members(subclass: Int[Array, ' b'], among: Int[Array, ' n']) -> Int[Array, ' b']:
  """How many are of each subclass among these; 0 of -1."""
  ordered = jnp.sort(among)
  found = jnp.searchsorted(ordered, subclass, side='right') - jnp.searchsorted(ordered, subclass)
  return jnp.where(subclass < 0, 0, found)


def fresh(info: Info) -> State:
  """`state['per_sample']` before the first subclasses are found: -1 of every row."""
  return {'subclass': jnp.full(info.num_examples, -1, jnp.int32)}


def refreshing(stages: Stages, also: Callable[..., State] | None = None) -> Callable[..., State]:
  """The `refresh` slot: after the warm-up and then every few epochs, k-means by cosines inside each class.

  Subclasses are counted through, those of class 0 first. Their numbers follow from the sizes of the classes alone, so
  that a number is always of the same class, whenever it was given.

  Args:
    stages: of the method.
    also: `(projection, label, counts) -> state`, what else of the state is made anew with them.
  """
  info, subclass_size, warmup_epochs, every_epochs = stages

  def refresh(params, state, embed_all, *, key, step):
    del params
    epoch = int(step) // info.steps_per_epoch
    if epoch < warmup_epochs or (epoch - warmup_epochs) % every_epochs or int(step) >= info.total_steps:
      return state
    train = embed_all('train')
    label, projection = np.asarray(train.label, np.int32), jnp.asarray(train.projection)
    counts = subclass_counts(label, info.num_classes, subclass_size)
    options = dict(num_clusters=counts, groups=label, key=key, spherical=True)
    subclass = clusters.kmeans(projection, **options).labels
    more = {} if also is None else also(projection, label, counts)
    return {**state, 'per_sample': {'subclass': subclass}, **more}

  return refresh
