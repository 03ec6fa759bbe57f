"""From a source to batches: the order of the data, prefetching, and ordered sweeps for evaluation.

The rows of a batch are a pure function of (seed, step, plan), so any step can be made again, on any number of hosts,
without a saved iterator. Rows are shuffled over the whole set in every epoch, batches are cut inside the epoch and what
is left over is dropped, so that a row never occurs twice in a batch (twice would make a false negative).
"""

import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np

from contrastive_jax.data.sources import Source, permutation
from contrastive_jax.types import Refusal

Plan = Mapping[str, Any]
HostBatch = dict[str, np.ndarray]

READERS = 2  # threads, each reading a whole batch; sources on disk decode in threads of their own


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


def indices(step: int, *, seed: int, num_examples: int, batch_size: int, plan: Plan | None = None) -> np.ndarray:
  """The rows of the batch at `step`, int32 [batch_size]; a pure function of its arguments.

  Args:
    step: counted over the whole run; epoch and place in it follow.
    seed: of the run.
    num_examples: of the data set.
    batch_size: of the global batch.
    plan: with an integer array `rows` [n], those rows are drawn from (a subset, or with repetitions) instead of all;
      they are shuffled in every epoch too.

  Raises:
    Refusal: a negative step; a batch that is empty or larger than what it is drawn from; a planned row that does not
      exist.
  """
  if step < 0:
    raise Refusal(f'step is {step}; at least 0 is needed')
  rows = None if plan is None or plan.get('rows') is None else np.asarray(plan['rows'])
  size = num_examples if rows is None else len(rows)
  epoch, place = divmod(step, steps_per_epoch(size, batch_size))
  chosen = _epoch_order(seed, epoch, size)[place * batch_size : (place + 1) * batch_size]
  if rows is None:
    return chosen
  chosen = rows[chosen].astype(np.int32)
  if chosen.min() < 0 or chosen.max() >= num_examples:
    raise Refusal(f'the plan has rows from {rows.min()} to {rows.max()}; the data set has rows 0 to {num_examples - 1}')
  return chosen


class Batches:
  """Iterator of (step, batch) from step `start` up to but without step `stop`, read ahead in threads.

  A batch holds the source's fields, `index` and `id` int32 [b] (equal) and `mask` bool [b] (all true). Two batches are
  read ahead, and one more is already put. What a reader or `put` raises is raised by `next`. Call `close` to end early.

  Args:
    source: of examples.
    seed: of the run.
    batch_size: of the global batch.
    start: first step.
    stop: step after the last.
    put: host batch -> device batch. It runs in one background thread, so it must name its sharding and not rely on a
      mesh set by the caller.
    plan: see `indices`.
    part: the part of the global batch that this process reads, for several hosts.

  Attributes:
    waited: seconds that `next` has waited, in total.
  """

  def __init__(
    self,
    source: Source,
    *,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    put: Callable[[HostBatch], Any],
    plan: Plan | None = None,
    part: slice = slice(None),
  ):
    draw = functools.partial(indices, seed=seed, num_examples=source.num_examples, batch_size=batch_size, plan=plan)
    draw(start)  # refuses here rather than in a thread

    def read(step):
      rows = draw(step)[part]
      fields = dict(index=rows, id=rows, mask=np.ones(len(rows), bool))
      return step, source.read(rows) | fields

    self.waited = 0.0
    self._items = [_ahead(read, start, stop, put=lambda item: (item[0], put(item[1])))]
    # Also when the interpreter exits: grain's iterator must be gone before the modules that it needs to end itself.
    self._finish = weakref.finalize(self, _end, self._items)

  def __iter__(self) -> Iterator[tuple[int, Any]]:
    return self

  def __next__(self) -> tuple[int, Any]:
    if not self._items:
      raise StopIteration
    began = time.perf_counter()
    try:
      return next(self._items[0])
    except BaseException:  # the end included
      self.close()
      raise
    finally:
      self.waited += time.perf_counter() - began

  def close(self):
    """Ends the threads; batches read ahead are dropped, and the iterator is at its end."""
    self._finish()


def sweep(source: Source, *, batch_size: int) -> Iterator[HostBatch]:
  """Every row once, in order, read ahead: host batches of `batch_size` with `index`, `id` and `mask`.

  The last batch is filled up with repetitions of row 0, whose `mask` is False and whose `index` and `id` are -1.

  Raises:
    Refusal: the batch is empty. (It may be larger than the data set.)
  """
  steps = -(-source.num_examples // max(batch_size, 1))
  steps_per_epoch(max(source.num_examples, batch_size), batch_size)

  def read(step):
    rows = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    mask = rows < source.num_examples
    index = np.where(mask, rows, -1).astype(np.int32)
    return source.read(np.where(mask, rows, 0)) | dict(index=index, id=index, mask=mask)

  def batches():
    with contextlib.closing(_ahead(read, 0, steps, put=lambda item: item)) as items:
      yield from items

  return batches()


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
  order = permutation(seed, epoch, size)
  order.flags.writeable = False
  return order


def _end(items: list[grain.DatasetIterator]):
  items.pop().close()


def _ahead(read: Callable, start: int, stop: int, *, put: Callable) -> grain.DatasetIterator:
  """put(read(step)) for start <= step < stop: `READERS` steps read ahead, and one put ahead."""
  steps = grain.MapDataset.range(start, max(start, stop)).map(read)
  items = steps.to_iter_dataset(grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=READERS)).map(put)
  return iter(grain.experimental.ThreadPrefetchIterDataset(items, prefetch_buffer_size=1))
