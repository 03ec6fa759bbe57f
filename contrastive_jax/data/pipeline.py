"""From a source to batches: prefetching in the order of `sampling`, and ordered sweeps for evaluation.

There is no iterator to save: any step can be made again. Rows are shuffled over the whole set in every epoch, batches
are cut inside the epoch and what is left over is dropped, so that a row never occurs twice in a batch (twice would make
a false negative).
"""

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from contrastive_jax.data.sampling import Plan, planned, steps_per_epoch
from contrastive_jax.data.sources import Source

HostBatch = dict[str, np.ndarray]

READERS = 2  # threads, each reading a whole batch; sources on disk decode in threads of their own


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
    plan: see `sampling`.
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
    self.waited = 0.0
    self._items: list[grain.DatasetIterator] = []
    self._source, self._seed, self._batch_size = source, seed, batch_size
    self._stop, self._put, self._part = stop, put, part
    self.restart(start, plan)
    # Also when the interpreter exits: grain's iterator must be gone before the modules that it needs to end itself.
    self._finish = weakref.finalize(self, _end, self._items)

  def restart(self, start: int, plan: Plan | None):
    """Goes on at step `start` by another plan; what was read ahead is dropped.

    Raises:
      Refusal: no batch can be drawn.
    """
    size = dict(num_examples=self._source.num_examples, batch_size=self._batch_size)
    draw, source, part, put = planned(plan, seed=self._seed, **size), self._source, self._part, self._put
    draw(start)  # refuses here rather than in a thread

    def read(step):
      rows = draw(step)[part]
      fields = dict(index=rows, id=rows, mask=np.ones(len(rows), bool))
      return step, source.read(rows) | fields

    _end(self._items)
    self._items.append(_ahead(read, start, self._stop, put=lambda item: (item[0], put(item[1]))))

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


def _end(items: list[grain.DatasetIterator]):
  while items:
    items.pop().close()


def _ahead(read: Callable, start: int, stop: int, *, put: Callable) -> grain.DatasetIterator:
  """put(read(step)) for start <= step < stop: `READERS` steps read ahead, and one put ahead."""
  steps = grain.MapDataset.range(start, max(start, stop)).map(read)
  items = steps.to_iter_dataset(grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=READERS)).map(put)
  return iter(grain.experimental.ThreadPrefetchIterDataset(items, prefetch_buffer_size=1))
