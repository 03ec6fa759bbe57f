"""TFDS for real: a set prepared on the spot (its images passed as PNG bytes, so without TensorFlow) and read back."""

import io
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from contrastive_jax.data import sources
from contrastive_jax.types import Refusal


def pictures(split, sides=(8,), channels=3):
  rng = np.random.default_rng(len(split))
  for k in range(10 if split == 'train' else 4):
    side = sides[k % len(sides)]
    yield rng.integers(0, 256, (side, side + 2, channels), np.uint8)


def png(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels.squeeze()).save(file, 'PNG')
  file.seek(0)
  return file


class Pictures(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  SHAPE = (8, 10, 3)
  SIDES = (8,)
  FIELDS = types.MappingProxyType(dict(label=tfds.features.ClassLabel(names=['cat', 'dog'])))

  def _info(self):
    features = tfds.features.FeaturesDict({'image': tfds.features.Image(shape=self.SHAPE), **self.FIELDS})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in sources.SPLITS}

  def _generate_examples(self, split):
    for k, pixels in enumerate(pictures(split, self.SIDES, self.SHAPE[2])):
      yield k, {'image': png(pixels)} | dict.fromkeys(self.FIELDS, k % 2)


class GreyPictures(Pictures):
  SHAPE = (8, 10, 1)
  FIELDS = types.MappingProxyType({})


class MixedPictures(Pictures):
  SHAPE = (None, None, 3)
  SIDES = (8, 12, 30)


class CountedPictures(Pictures):
  FIELDS = types.MappingProxyType(dict(label=tfds.features.Scalar(np.int64), weight=tfds.features.Scalar(np.float32)))


class Imagenet2012(MixedPictures, skip_registration=True):  # TFDS has one of this name
  VERSION = tfds.core.Version('5.1.0')

  def _split_generators(self, dl_manager):
    return {name: self._generate_examples(split) for split, name in (('train', 'train'), ('test', 'validation'))}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  place = str(tmp_path_factory.mktemp('tfds'))
  tfds.disable_progress_bar()
  for builder in (Pictures, GreyPictures, MixedPictures, CountedPictures, Imagenet2012):
    builder(data_dir=place, file_format='array_record').download_and_prepare()
  return place


def by_pixels(images):
  return sorted(image.tobytes() for image in images)


def test_a_prepared_set_is_read_back_pixel_by_pixel(folder):
  for split, n in (('train', 10), ('test', 4)):
    source = sources.tfds(dataset='pictures', split=split, data_dir=folder)
    batch = source.read(np.arange(n, dtype=np.int32))
    assert source.num_examples == n and source.input_shape == (8, 10, 3)
    assert batch['image'].dtype == np.uint8 and batch['label'].dtype == np.int32
    assert by_pixels(batch['image']) == by_pixels(pictures(split))  # TFDS shuffles when it prepares


def test_rows_come_in_the_order_asked_and_labels_follow_their_images(folder):
  source = sources.tfds(dataset='pictures', data_dir=folder)
  batch = source.read(np.arange(10))
  again = source.read(np.array([7, 2, 7]))
  np.testing.assert_array_equal(again['image'], batch['image'][[7, 2, 7]])
  parity = {pixels.tobytes(): k % 2 for k, pixels in enumerate(pictures('train'))}
  assert [parity[image.tobytes()] for image in batch['image']] == batch['label'].tolist()
  assert source.label_names == ('cat', 'dog')


def test_slices_can_serve_as_splits(folder):
  options = dict(dataset='pictures', data_dir=folder, train='train[:70%]', test='train[70%:]')
  train, test = (sources.tfds(split=split, **options) for split in sources.SPLITS)
  read = [by_pixels(s.read(np.arange(s.num_examples))['image']) for s in (train, test)]
  assert (len(read[0]), len(read[1])) == (7, 3) and sorted(read[0] + read[1]) == by_pixels(pictures('train'))
  assert train.mean == test.mean


def test_grey_images_without_labels_have_one_channel_and_label_minus_1(folder):
  source = sources.tfds(dataset='grey_pictures', data_dir=folder)
  batch = source.read(np.array([0, 1]))
  assert batch['image'].shape == (2, 8, 10, 1) and batch['label'].tolist() == [-1, -1]
  pixels = np.stack(list(pictures('train', channels=1))) / 255
  np.testing.assert_allclose((source.mean[0], source.std[0]), (pixels.mean(), pixels.std()), rtol=1e-9)


def test_images_of_different_sizes_need_an_image_size_and_are_then_cut_to_squares(folder):
  with pytest.raises(Refusal, match='give image_size'):
    sources.tfds(dataset='mixed_pictures', data_dir=folder)
  source = sources.tfds(dataset='mixed_pictures', data_dir=folder, image_size=8)
  images = source.read(np.arange(10))['image']
  assert images.shape == (10, 8, 8, 3)
  smallest = by_pixels(pixels[:, 1:9] for pixels in pictures('train', (8, 12, 30)) if len(pixels) == 8)
  assert set(smallest) <= {image.tobytes() for image in images}  # short side fits: only the centre crop


def test_imagenet_is_cut_to_squares_on_the_host_and_tested_on_its_validation_split(folder):
  train, test = (sources.imagenet2012(split=split, data_dir=folder, image_size=12) for split in sources.SPLITS)
  assert (train.num_examples, test.num_examples) == (10, 4) and train.input_shape == (12, 12, 3)
  assert test.read(np.arange(4))['image'].shape == (4, 12, 12, 3)
  assert len(test.label_names) == 1000 and train.mean == test.mean == (0.485, 0.456, 0.406)
  assert sources.imagenet2012(data_dir=folder).input_shape == (256, 256, 3)


def test_imagenet_that_is_not_prepared_is_refused_with_its_command_and_the_files_it_needs(tmp_path):
  reason = r'tfds build imagenet2012 --file_format array_record --data_dir (.*)`.*manual_dir is \1.*_img_train\.tar and'
  with pytest.raises(Refusal, match=reason):
    sources.imagenet2012(data_dir=str(tmp_path))


def test_a_set_with_other_fields_is_read_without_them(folder):
  batch = sources.tfds(dataset='counted_pictures', data_dir=folder).read(np.array([0]))
  assert set(batch) == {'image', 'label'}


@pytest.mark.parametrize(
  'options, reason',
  [
    (dict(dataset='picturs'), "knows no data set 'picturs'"),
    (dict(dataset='not a name'), "cannot open a data set called 'not a name'"),
    (dict(dataset='cifar10'), r'tfds build cifar10 --file_format array_record --data_dir .*`prepare` extra'),
    (dict(dataset='pictures', train='trian'), "no split 'trian'; did you mean 'train'"),
    (dict(dataset='pictures', image_key='imag'), "no 8-bit image called 'imag'; did you mean 'image'"),
    (dict(dataset='counted_pictures', label_key='weight'), "field 'weight' .* is no class"),
  ],
)
def test_what_cannot_be_read_is_refused_with_what_is_needed(folder, options, reason):
  with pytest.raises(Refusal, match=reason):
    sources.tfds(data_dir=folder, **options)


def test_cifar_that_is_not_prepared_is_refused_with_its_command(tmp_path):
  for name in ('cifar10', 'cifar100'):
    with pytest.raises(Refusal, match=f'tfds build {name} --file_format array_record'):
      getattr(sources, name)(data_dir=str(tmp_path))


def test_a_set_in_a_format_without_random_access_is_refused(folder, monkeypatch):
  def no(*_, **__):
    raise NotImplementedError

  monkeypatch.setattr(tfds.core.read_only_builder.ReadOnlyBuilder, 'as_data_source', no)
  monkeypatch.setattr(Pictures, 'as_data_source', no)
  with pytest.raises(Refusal, match='without random access'):
    sources.tfds(dataset='pictures', data_dir=folder)


def test_reading_imports_no_tensorflow_and_needs_no_builder_code(folder):
  code = (
    'import sys; from contrastive_jax.data import sources\n'
    'assert "tensorflow_datasets" not in sys.modules\n'
    f'source = sources.tfds(dataset="pictures", data_dir={folder!r})\n'
    'assert source.read([1])["image"].shape == (1, 8, 10, 3) and "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
