import gzip
import os
import pathlib
import pickle
import struct

import numpy as np
import pytest

from contrastive_jax.data import sources
from contrastive_jax.types import Refusal


def write_idx(path, array, *, zipped=False):
  raw = b'\x00\x00\x08' + bytes([array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape) + array.tobytes()
  path.write_bytes(gzip.compress(raw) if zipped else raw)


def tiny_fashion(folder, *, zipped):
  rng = np.random.default_rng(0)
  made = {}
  for split, stem, n in (('train', 'train', 12), ('test', 't10k', 5)):
    made[split] = rng.integers(0, 256, (n, 4, 4), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
    for kind, array in zip(('images-idx3-ubyte', 'labels-idx1-ubyte'), made[split], strict=True):
      write_idx(folder / (f'{stem}-{kind}.gz' if zipped else f'{stem}-{kind}'), array, zipped=zipped)
  return made


def test_every_known_name_is_a_factory_with_a_split():
  for name in sources.KNOWN:
    assert getattr(sources, name).__kwdefaults__['split'] == 'train'


def test_an_unknown_split_is_refused_with_the_nearest():
  with pytest.raises(Refusal, match="'trian'; did you mean 'train'"):
    sources.digits(split='trian')


def test_digits_are_split_into_1437_and_360_in_the_same_proportions_of_classes():
  train, test = sources.digits(split='train'), sources.digits(split='test')
  assert (train.num_examples, test.num_examples) == (1437, 360)
  count = [np.bincount(s.read(np.arange(s.num_examples))['label'], minlength=10) for s in (train, test)]
  assert np.abs(count[0] / 1437 - count[1] / 360).max() < 2e-3


def test_digits_parts_have_no_image_row_in_common_and_together_are_the_whole_set():
  from sklearn.datasets import load_digits

  parts = [s.read(np.arange(s.num_examples))['image'] for s in (sources.digits(split=p) for p in sources.SPLITS)]
  ours = np.sort(np.concatenate(parts).reshape(1797, 64).astype(int).sum(1))
  theirs = np.sort(np.round(load_digits().data * 255 / 16).astype(int).sum(1))
  np.testing.assert_array_equal(ours, theirs)


def test_digits_levels_0_and_16_become_0_and_255():
  batch = sources.digits().read(np.arange(100))
  assert batch['image'].dtype == np.uint8 and batch['image'].shape == (100, 8, 8, 1)
  assert batch['label'].dtype == np.int32
  assert batch['image'].min() == 0 and batch['image'].max() == 255
  assert len(np.unique(batch['image'])) == 17


def test_mean_and_std_are_those_of_the_training_pixels_for_both_splits():
  train, test = sources.digits(split='train'), sources.digits(split='test')
  pixels = train.read(np.arange(train.num_examples))['image'] / 255
  np.testing.assert_allclose((train.mean[0], train.std[0]), (pixels.mean(), pixels.std()), rtol=1e-12)
  assert (test.mean, test.std) == (train.mean, train.std)


def test_measured_mean_and_std_are_per_channel_over_any_number_of_rows():
  images = np.random.default_rng(0).integers(0, 256, (9001, 2, 3, 3), np.uint8)
  images[..., 2] = 7
  mean, std = sources.measure(images)
  np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-12)
  np.testing.assert_allclose(std[:2], images.std((0, 1, 2))[:2] / 255, rtol=1e-10)
  assert std[2] == 1 / 255  # a constant channel can still be divided by it


@pytest.mark.parametrize('zipped', [False, True])
def test_idx_files_are_read_as_written(tmp_path, zipped):
  made = tiny_fashion(tmp_path, zipped=zipped)
  for split in sources.SPLITS:
    source = sources.fashion_mnist(split=split, data_dir=str(tmp_path))
    batch = source.read(np.array([3, 1]))
    np.testing.assert_array_equal(batch['image'][..., 0], made[split][0][[3, 1]])
    np.testing.assert_array_equal(batch['label'], made[split][1][[3, 1]])
    assert source.input_shape == (4, 4, 1) and len(source.label_names) == 10


@pytest.mark.parametrize(
  'damage',
  [
    lambda raw: raw[:-1],
    lambda raw: raw + b'x',
    lambda raw: b'\x00\x00\x0d' + raw[3:],
    lambda raw: raw[:6],
    lambda _: b'',
  ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, damage):
  path = tmp_path / 'some-idx3-ubyte'
  write_idx(path, np.zeros((2, 3, 3), np.uint8))
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(Refusal, match='some-idx3-ubyte'):
    sources.read_idx(path)


def test_fashion_mnist_with_fewer_labels_than_images_is_refused(tmp_path):
  tiny_fashion(tmp_path, zipped=False)
  write_idx(tmp_path / 'train-labels-idx1-ubyte', np.zeros(11, np.uint8))
  with pytest.raises(Refusal, match=r'images \[12, 4, 4\] and labels \[11\]'):
    sources.fashion_mnist(data_dir=str(tmp_path))


def test_a_truncated_gzip_is_refused(tmp_path):
  path = tmp_path / 'some.gz'
  write_idx(path, np.arange(200, dtype=np.uint8), zipped=True)
  path.write_bytes(path.read_bytes()[:-12])
  with pytest.raises(Refusal, match=r'some\.gz cannot be read'):
    sources.read_idx(path)


def test_missing_fashion_mnist_is_refused_with_both_commands_that_bring_it(tmp_path):
  with pytest.raises(Refusal, match=r'apt-get install dataset-fashion-mnist.*tfds build fashion_mnist'):
    sources.fashion_mnist(data_dir=str(tmp_path))


def test_the_packaged_fashion_mnist_has_60000_and_10000_images_with_the_published_mean():
  if not pathlib.Path(sources.FASHION_DIR).is_dir():
    reason = 'Fashion-MNIST is missing; apt-get install dataset-fashion-mnist brings it'
    pytest.fail(reason) if os.environ.get('CI') else pytest.skip(reason)
  train, test = sources.fashion_mnist(split='train'), sources.fashion_mnist(split='test')
  assert (train.num_examples, test.num_examples) == (60000, 10000)
  assert train.input_shape == (28, 28, 1)
  assert np.bincount(test.read(np.arange(10000))['label']).tolist() == [1000] * 10
  np.testing.assert_allclose((train.mean[0], train.std[0]), (0.2860, 0.3530), atol=1e-4)


def test_arrays_with_a_test_part_are_delivered_as_given(tmp_path):
  rng = np.random.default_rng(0)
  image, image_test = rng.integers(0, 256, (7, 5, 6, 3), np.uint8), rng.integers(0, 256, (3, 5, 6, 3), np.uint8)
  path = str(tmp_path / 'pets.npz')
  np.savez(
    path, image=image, label=np.arange(7), image_test=image_test, label_test=np.arange(3), label_names=['a', 'b']
  )
  train, test = sources.arrays(path=path), sources.arrays(path=path, split='test')
  np.testing.assert_array_equal(train.read(np.arange(7))['image'], image)
  np.testing.assert_array_equal(test.read(np.arange(3))['image'], image_test)
  assert train.name == 'pets' and train.label_names == ('a', 'b') and train.mean == test.mean


def test_arrays_without_a_test_part_are_split_once_and_for_all(tmp_path):
  path = str(tmp_path / 'a.npz')
  image = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
  np.savez(path, image=image)
  parts = {s: sources.arrays(path=path, split=s) for s in sources.SPLITS}
  rows = {s: part.read(np.arange(part.num_examples))['image'][:, 0, 0, 0].tolist() for s, part in parts.items()}
  assert len(rows['test']) == 4 and sorted(rows['train'] + rows['test']) == list(range(20))
  assert rows['test'] == [0, 2, 11, 17]  # the stream of the generator is promised never to change
  assert (parts['train'].read(np.arange(3))['label'] == -1).all()


class Bomb:
  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(os.environ['BOMB']),)


def test_a_pickled_npz_is_refused_and_not_executed(tmp_path, monkeypatch):
  monkeypatch.setenv('BOMB', str(tmp_path / 'exploded'))
  np.savez(tmp_path / 'bomb.npz', image=np.array([Bomb()], object))
  (tmp_path / 'raw.npz').write_bytes(pickle.dumps(Bomb()))
  for name in ('bomb.npz', 'raw.npz'):
    with pytest.raises(Refusal, match='never loaded'):
      sources.arrays(path=str(tmp_path / name))
  assert not (tmp_path / 'exploded').exists()


def test_files_that_are_no_archive_are_refused(tmp_path):
  np.save(tmp_path / 'one.npy', np.zeros(3))
  (tmp_path / 'text.npz').write_text('hello')
  (tmp_path / 'empty.npz').write_bytes(b'')
  np.savez(tmp_path / 'cut.npz', image=np.zeros((9, 9, 9), np.uint8))
  (tmp_path / 'cut.npz').write_bytes((tmp_path / 'cut.npz').read_bytes()[:200])
  for name in ('one.npy', 'text.npz', 'empty.npz', 'cut.npz'):
    with pytest.raises(Refusal, match=f'{name} is no .npz archive'):
      sources.arrays(path=str(tmp_path / name))
  with pytest.raises(Refusal, match='no such file'):
    sources.arrays(path=str(tmp_path / 'absent.npz'))


@pytest.mark.parametrize(
  'content, reason',
  [
    (dict(images=np.zeros((3, 2, 2), np.uint8)), "no array 'image'; did you mean 'images'"),
    (dict(image=np.zeros((3, 2, 2), np.float32)), 'float32'),
    (dict(image=np.zeros((3, 2), np.uint8)), r'\[3, 2\]'),
    (dict(image=np.zeros((0, 2, 2), np.uint8)), r'\[0, 2, 2\]'),
    (dict(image=np.zeros((3, 2, 2), np.uint8), label=np.zeros(2, int)), r'integers \[3\]'),
    (dict(image=np.zeros((3, 2, 2), np.uint8), label=np.zeros(3)), 'float64'),
    (dict(image=np.zeros((3, 2, 2), np.uint8), image_test=np.zeros((3, 4, 4), np.uint8)), 'one shape'),
  ],
)
def test_arrays_of_the_wrong_kind_are_refused_with_the_reason(tmp_path, content, reason):
  path = str(tmp_path / 'a.npz')
  np.savez(path, **content)
  with pytest.raises(Refusal, match=reason):
    sources.arrays(path=path)
