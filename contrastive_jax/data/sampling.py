"""Which rows a batch has: a pure function of (seed, step, plan), so any step can be made again, on any number of hosts.

A plan is a mapping with one of these, or none, which is all rows in a random order:

* `rows` int [n]: those rows alone, a subset or with repetitions;
* `group` int [num_examples]: batches whose rows are all of one group; rows of a negative group are left out;
* `label` int [num_examples] and `per_class`: batches of `per_class` rows of each of as many classes as fit.

A plan may lie in a method's state as `state['plan']`: then it is saved, and read again after every `refresh`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from contrastive_jax.data.source import permutation
from contrastive_jax.types import Refusal

Plan = Mapping[str, Any]
Draw = Callable[[int], Int[np.ndarray, ' b']]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Whole batches in an epoch, floor(num_examples / batch_size).

  Raises:
    Refusal: the batch is empty or larger than the data set.
  """
  if batch_size < 1:
    raise Refusal(f'batch_size is {batch_size}; at least 1 is needed')
  if batch_size > num_examples:
    raise Refusal(f'batch_size {batch_size} is larger than the data set, which has {num_examples} examples')
  return num_examples // batch_size


def planned(plan: Plan | None, *, seed: int, num_examples: int, batch_size: int) -> Draw:
  """`step -> rows` int32 [batch_size] of the batch at a step, which is counted over the whole run.

  Args:
    plan: see above; None is all rows.
    seed: of the run.
    num_examples: of the data set.
    batch_size: of the global batch.

  Raises:
    Refusal: a batch that is empty or larger than what it is drawn from; a planned row that does not exist; no group
      that fills a batch; classes that do not. The function refuses a negative step.
  """
  given = {key: np.asarray(value) for key, value in (plan or {}).items() if value is not None}
  size = dict(num_examples=num_examples, batch_size=batch_size)
  if 'rows' in given:
    draw = _of_rows(given['rows'], seed=seed, **size)
  elif 'group' in given:
    draw = _of_groups(_of_every_row('group', given['group'], num_examples), seed=seed, **size)
  elif 'label' in given:
    label = _of_every_row('label', given['label'], num_examples)
    draw = _of_classes(label, int(given['per_class']), seed=seed, **size)
  else:
    draw = _of_all(seed=seed, **size)

  def at(step: int) -> Int[np.ndarray, ' b']:
    if step < 0:
      raise Refusal(f'step is {step}; at least 0 is needed')
    return draw(step)

  return at


def _of_all(*, seed: int, num_examples: int, batch_size: int) -> Draw:
  steps = steps_per_epoch(num_examples, batch_size)

  def draw(step):
    epoch, place = divmod(step, steps)
    return _epoch_order(seed, epoch, num_examples)[place * batch_size : (place + 1) * batch_size]

  return draw


def _of_rows(rows: np.ndarray, *, seed: int, num_examples: int, batch_size: int) -> Draw:
  places = _of_all(seed=seed, num_examples=len(rows), batch_size=batch_size)
  if rows.min() < 0 or rows.max() >= num_examples:
    raise Refusal(f'the plan has rows from {rows.min()} to {rows.max()}; the data set has rows 0 to {num_examples - 1}')
  return lambda step: rows[places(step)].astype(np.int32)


def _of_groups(group: np.ndarray, *, seed: int, num_examples: int, batch_size: int) -> Draw:
  """Batches of one group each, of every group in turn while it fills one; with one group, the order of all rows.

  In every round all rows are shuffled; what is left of a group is dropped.
  """
  steps_per_epoch(num_examples, batch_size)
  counts = np.bincount(group[group >= 0], minlength=1)
  rounds = int((counts // batch_size).sum())
  if not rounds:
    raise Refusal(
      f'no group of the plan fills a batch of {batch_size}: the largest of {len(counts)} has {counts.max()}'
    )

  @functools.lru_cache(maxsize=2)
  def batches(turn: int) -> np.ndarray:
    order = _epoch_order(seed, turn, num_examples)
    found = []
    for g in np.flatnonzero(counts >= batch_size):
      mine = order[group[order] == g]
      found += [(j, g, mine[j * batch_size : (j + 1) * batch_size]) for j in range(len(mine) // batch_size)]
    return np.stack([rows for _, _, rows in sorted(found, key=lambda each: each[:2])])

  def draw(step):
    turn, place = divmod(step, rounds)
    return batches(turn)[place]

  return draw


def _of_classes(label: np.ndarray, per_class: int, *, seed: int, num_examples: int, batch_size: int) -> Draw:
  """Batches of `per_class` rows of each of batch_size / per_class classes, all drawn anew at every step."""
  steps_per_epoch(num_examples, batch_size)
  if per_class < 1 or batch_size % per_class:
    raise Refusal(f'per_class={per_class} must be at least 1 and divide batch_size={batch_size}')
  members = [np.flatnonzero(label == each) for each in np.unique(label[label >= 0])]
  members = [rows for rows in members if len(rows) >= per_class]
  wanted = batch_size // per_class
  if len(members) < wanted:
    raise Refusal(
      f'batch_size={batch_size} of per_class={per_class} needs {wanted} classes of {per_class} examples or more, but '
      f'the data set has {len(members)}'
    )

  def draw(step):
    chosen = permutation(seed, step, len(members))[:wanted]
    # Streams beyond those of steps: one for each class at each step.
    streams = ((step + 1 << 32) + int(c) for c in chosen)
    parts = [
      members[c][permutation(seed, stream, len(members[c]))[:per_class]]
      for c, stream in zip(chosen, streams, strict=True)
    ]
    return np.concatenate(parts).astype(np.int32)

  return draw


def _of_every_row(name: str, values: np.ndarray, num_examples: int) -> np.ndarray:
  if values.shape != (num_examples,):
    raise Refusal(f"the plan's {name} is {list(values.shape)}, but the data set has {num_examples} examples")
  return values


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
  order = permutation(seed, epoch, size)
  order.flags.writeable = False
  return order
