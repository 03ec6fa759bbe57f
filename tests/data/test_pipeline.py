import threading
import time

import jax
import numpy as np
import pytest

from contrastive_jax.data import pipeline, sampling, sources
from contrastive_jax.types import Refusal


def counting(n=23):
  def read(rows):
    return {'image': np.asarray(rows, np.uint8)[:, None, None, None], 'label': np.asarray(rows, np.int32) % 3}

  return sources.Source('counting', 'train', n, read, (1, 1, 1), (), (0.5,), (0.5,))


def rows(step, plan=None, **options):
  return sampling.planned(plan, **(dict(seed=0, num_examples=23, batch_size=5) | options))(step)


def batches(source=None, **options):
  options = dict(seed=0, batch_size=5, start=0, stop=9, put=jax.device_put) | options
  return pipeline.Batches(source or counting(), **options)


def threads():
  return {t for t in threading.enumerate() if 'grain' in t.name}


def test_no_row_occurs_twice_in_an_epoch_and_the_remainder_is_dropped():
  assert pipeline.steps_per_epoch(23, 5) == 4
  for epoch in range(3):
    drawn = np.concatenate([rows(4 * epoch + place) for place in range(4)])
    assert len(set(drawn.tolist())) == 20 and drawn.min() >= 0 and drawn.max() < 23
    assert drawn.dtype == np.int32


def test_rows_are_the_same_whenever_and_in_whatever_order_they_are_asked():
  forward = [rows(step).tolist() for step in range(40)]
  sampling._epoch_order.cache_clear()
  backward = [rows(step).tolist() for step in reversed(range(40))]
  assert forward == backward[::-1]


def test_seeds_and_epochs_give_other_orders():
  assert rows(0).tolist() != rows(0, seed=1).tolist()
  assert rows(0).tolist() != rows(4).tolist()
  assert rows(0, seed=-1).tolist() != rows(0, seed=1).tolist()


def test_the_order_of_seed_0_is_this_one_for_ever():
  assert rows(0, num_examples=8, batch_size=8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]


def test_a_caller_cannot_change_the_order_that_others_read():
  with pytest.raises(ValueError, match='read-only'):
    rows(0)[0] = 99


def test_every_row_is_drawn_about_equally_often():
  count = np.bincount(np.concatenate([rows(step) for step in range(4 * 300)]), minlength=23)
  np.testing.assert_allclose(count / 300, 20 / 23, atol=0.09)


def test_a_plan_restricts_and_repeats_rows_and_sets_the_length_of_an_epoch():
  plan = {'rows': np.array([3, 5, 7, 7, 11, 13])}
  drawn = [rows(step, plan=plan, batch_size=3) for step in range(4)]
  for epoch in (0, 2):
    assert sorted(np.concatenate(drawn[epoch : epoch + 2]).tolist()) == [3, 5, 7, 7, 11, 13]
  assert rows(0, plan={'rows': None}).tolist() == rows(0).tolist() == rows(0, plan={'other': 1}).tolist()


@pytest.mark.parametrize(
  'options, reason',
  [
    (dict(batch_size=24), 'batch_size 24 is larger than the data set, which has 23 examples'),
    (dict(batch_size=0), 'batch_size is 0'),
    (dict(batch_size=-2), 'batch_size is -2'),
    (dict(plan={'rows': np.arange(3)}), 'batch_size 5 is larger than the data set, which has 3'),
    (dict(plan={'rows': np.arange(5) + 20}), 'rows from 20 to 24; the data set has rows 0 to 22'),
    (dict(plan={'rows': np.arange(5) - 1}), 'rows from -1 to 3'),
  ],
)
def test_batches_that_cannot_be_drawn_are_refused(options, reason):
  with pytest.raises(Refusal, match=reason):
    rows(0, **options)
  with pytest.raises(Refusal, match=reason):
    batches(**options)


def test_a_negative_step_is_refused():
  with pytest.raises(Refusal, match='step is -1'):
    rows(-1)


def test_prefetched_batches_equal_those_read_directly():
  seen = list(batches())
  assert [step for step, _ in seen] == list(range(9))
  for step, batch in seen:
    expected = rows(step)
    assert set(batch) == {'image', 'label', 'index', 'id', 'mask'}
    assert isinstance(batch['index'], jax.Array) and batch['index'].dtype == np.int32 and batch['mask'].dtype == bool
    np.testing.assert_array_equal(batch['index'], expected)
    np.testing.assert_array_equal(batch['id'], expected)
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], expected)
    assert batch['mask'].all()


def test_resuming_at_a_step_gives_the_same_batches():
  whole = {step: np.asarray(batch['image']) for step, batch in batches()}
  for step, batch in batches(start=6):
    np.testing.assert_array_equal(batch['image'], whole.pop(step))
  assert sorted(whole) == list(range(6))


def test_nothing_is_left_to_do_at_the_last_step():
  assert list(batches(start=9)) == [] and list(batches(start=12)) == []


def test_processes_read_their_parts_of_the_same_global_batch():
  parts = [[np.asarray(b['index']) for _, b in batches(part=part)] for part in (slice(0, 2), slice(2, 5))]
  for step, pieces in enumerate(zip(*parts, strict=True)):
    np.testing.assert_array_equal(np.concatenate(pieces), rows(step))


def test_an_error_of_a_reader_reaches_the_consumer_after_the_batches_before_it():
  source = counting()
  bad = int(rows(3)[0])

  def read(wanted):
    if bad in wanted:
      raise OSError('disk on fire')
    return source.read(wanted)

  items = batches(source._replace(read=read), stop=4)
  assert [next(items)[0] for _ in range(3)] == [0, 1, 2]
  with pytest.raises(OSError, match='disk on fire'):
    next(items)
  assert list(items) == []


def test_an_error_of_put_reaches_the_consumer():
  def put(batch):
    raise RuntimeError('no room')

  with pytest.raises(RuntimeError, match='no room'):
    next(batches(put=put))


def test_the_next_batch_is_put_while_the_consumer_works():
  put = []
  items = batches(put=lambda batch: put.append(batch) or batch)
  next(items)
  deadline = time.monotonic() + 10
  while len(put) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
  assert 2 <= len(put) <= 4
  items.close()


def test_waited_counts_a_slow_source_and_not_a_slow_consumer():
  source = counting()

  def slow(wanted):
    time.sleep(0.1)
    return source.read(wanted)

  items = batches(source._replace(read=slow), stop=3)
  list(items)
  assert items.waited > 0.09
  items = batches(stop=3)
  next(items)
  before = items.waited
  time.sleep(0.3)
  next(items)
  assert items.waited - before < 0.1


def test_close_ends_the_threads_and_the_iteration():
  before = threads()
  items = batches(stop=10**6)
  next(items)
  assert threads() - before
  items.close()
  items.close()
  assert list(items) == []
  deadline = time.monotonic() + 10
  while threads() - before and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not threads() - before


def test_a_sweep_reads_every_row_once_in_order_and_masks_the_padding():
  made = list(pipeline.sweep(counting(), batch_size=5))
  assert [len(batch['index']) for batch in made] == [5] * 5
  mask, index, pixels = (np.concatenate([b[k].reshape(-1) for b in made]) for k in ('mask', 'index', 'image'))
  assert index[mask].tolist() == pixels[mask].tolist() == list(range(23))
  assert index[~mask].tolist() == [-1, -1] and pixels[~mask].tolist() == [0, 0]
  assert mask.dtype == bool and index.dtype == np.int32 and (made[-1]['id'] == made[-1]['index']).all()


def test_a_sweep_may_have_batches_larger_than_the_data_set_but_not_empty_ones():
  only = list(pipeline.sweep(counting(3), batch_size=8))
  assert len(only) == 1 and only[0]['mask'].tolist() == [True] * 3 + [False] * 5
  with pytest.raises(Refusal, match='batch_size is 0'):
    pipeline.sweep(counting(), batch_size=0)


def test_an_error_in_a_sweep_reaches_the_consumer():
  def read(wanted):
    raise OSError('disk on fire')

  with pytest.raises(OSError, match='disk on fire'):
    list(pipeline.sweep(counting()._replace(read=read), batch_size=5))
