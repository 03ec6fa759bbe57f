"""The record of a data set: what it notices, what it forgives, and how it stands in for data."""

import concurrent.futures
import json

import numpy as np
import pytest

from contrastive_jax.data import identity, sources
from contrastive_jax.data.pipeline import sweep
from contrastive_jax.types import Refusal

IMAGES = np.random.default_rng(0).integers(0, 256, (150, 4, 4, 3), np.uint8)
LABELS = np.arange(150) % 5


def both(tmp_path, image=IMAGES, label=LABELS, label_names='abcde'):
  path = tmp_path / 'pictures.npz'
  np.savez(path, image=image, label=label, label_names=np.array(list(label_names)))
  return {split: sources.arrays(path=str(path), split=split) for split in sources.SPLITS}


def changed(tmp_path, **arrays) -> str:
  """What differs from the set above, as a record read back from JSON notices it."""
  record = json.loads(json.dumps(identity.describe(both(tmp_path))))
  return '; '.join(identity.differences(record, identity.describe(both(tmp_path, **arrays))))


def test_the_same_arrays_in_another_file_are_the_same_data(tmp_path):
  assert changed(tmp_path) == ''


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    (dict(image=IMAGES[:100], label=LABELS[:100]), 'train num_examples was 120, is 80'),
    (dict(image=IMAGES[:, :, :2]), 'test input_shape was [4, 4, 3], is [4, 2, 3]'),
    (dict(image=IMAGES[::-1]), 'test rows was'),
    (dict(label=LABELS[::-1]), 'train rows was'),
    (dict(image=IMAGES // 2), 'train mean was ['),
    (dict(label_names='abcdf'), "train label_names was ['a', 'b', 'c', 'd', 'e'], is ['a', 'b', 'c', 'd', 'f']"),
  ],
)
def test_other_data_of_the_same_name_are_told_by_what_differs(tmp_path, arrays, message):
  assert message in changed(tmp_path, **arrays)


def test_statistics_may_differ_by_as_much_as_another_machine_rounds(tmp_path):
  record = identity.describe(both(tmp_path))
  near, far = ({k: {**v, 'std': [s + by for s in v['std']]} for k, v in record.items()} for by in (1e-9, 1e-4))
  assert identity.differences(record, near) == []
  assert [text.split(' was ')[0] for text in identity.differences(record, far)] == ['train std', 'test std']


def test_a_promised_split_has_the_fields_and_rows_of_the_split(tmp_path):
  splits = both(tmp_path)
  promised = identity.promised(json.loads(json.dumps(identity.describe(splits))), lambda: splits)
  for split, source in splits.items():
    assert promised[split]._replace(read=None) == source._replace(read=None)
    got, want = (each.read(np.array([3, 1])) for each in (promised[split], source))
    assert all(np.array_equal(got[k], want[k]) for k in want)


def test_promised_data_are_opened_once_and_not_before_rows_are_read(tmp_path):
  splits, opened = both(tmp_path), []
  promised = identity.promised(identity.describe(splits), lambda: opened.append(1) or splits)
  assert not opened
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda split: promised[split].read(np.arange(2)), ['train', 'test'] * 20))
  assert opened == [1]


def test_what_opening_promised_data_refuses_reaches_who_reads_in_threads(tmp_path):
  def missing():
    raise Refusal('no such file: pictures.npz')

  promised = identity.promised(identity.describe(both(tmp_path)), missing)
  with pytest.raises(Refusal, match=r'no such file: pictures\.npz'):
    next(sweep(promised['test'], batch_size=8))
