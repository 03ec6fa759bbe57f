"""Image files in folders: which are found, of which class and split, and what they are decoded to."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import decode, folders, sources
from contrastive_jax.types import Refusal


def write(path, *, shade=0, size=(8, 6), mode='RGB', **options):
  """An image of one shade, width x height."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('L', size, shade).convert(mode).save(path, **options)


def classes(root, count=10, names=('cat', 'dog'), ending='png'):
  """`count` images of each class, whose shade is their number."""
  for number, name in enumerate(names):
    for k in range(count):
      write(root / name / f'{k:03}.{ending}', shade=100 * number + k)
  return root


def shades(source):
  """The shade of each image, in the order of the rows."""
  return source.read(np.arange(source.num_examples))['image'][:, 0, 0, 0].tolist()


def both(root, **options):
  return {split: sources.image_folder(path=str(root), split=split, **options) for split in sources.SPLITS}


def test_images_come_from_the_folders_of_both_splits_with_the_classes_of_training(tmp_path):
  classes(tmp_path / 'train', 3)
  write(tmp_path / 'val' / 'dog' / 'x.png', shade=7)
  train, test = both(tmp_path).values()
  assert (train.num_examples, test.num_examples) == (6, 1) and train.input_shape == (6, 8, 3)
  assert train.label_names == test.label_names == ('cat', 'dog')
  assert shades(train) == [0, 1, 2, 100, 101, 102]
  batch = train.read(np.array([4, 1, 4]))
  assert batch['image'].dtype == np.uint8 and batch['label'].dtype == np.int32
  assert batch['image'][:, 0, 0, 0].tolist() == [101, 1, 101] and batch['label'].tolist() == [1, 0, 1]
  assert test.read(np.array([0]))['label'].tolist() == [1]  # not 0: its class is the second of training
  assert train.name == tmp_path.name and train.mean == test.mean


def test_the_first_of_the_usual_test_folders_serves_unless_one_is_named(tmp_path):
  classes(tmp_path / 'train', 3)
  for number, name in enumerate(('validation', 'valid', 'val', 'test')):
    write(tmp_path / name / 'cat' / 'x.png', shade=number)
    assert shades(sources.image_folder(path=str(tmp_path), split='test')) == [number]
  assert shades(sources.image_folder(path=str(tmp_path), split='test', test='valid')) == [1]


@pytest.mark.parametrize('inside', ['', 'train'])
def test_a_fixed_fifth_of_every_class_is_held_out_where_no_test_folder_is(tmp_path, inside):
  classes(tmp_path / inside, 10, names=('a', 'b'))
  train, test = both(tmp_path).values()
  assert sorted(shades(train) + shades(test)) == [100 * c + k for c in range(2) for k in range(10)]
  for source, count in ((train, 8), (test, 2)):
    assert np.bincount(source.read(np.arange(source.num_examples))['label']).tolist() == [count] * 2
  # The stream of the generator is promised never to change; and classes have orders of their own.
  assert shades(test) == [0, 2, 103, 105]
  assert shades(test) == shades(sources.image_folder(path=str(tmp_path), split='test'))


def test_images_without_folders_have_no_classes(tmp_path):
  for k in range(5):
    write(tmp_path / f'{k}.png', shade=k)
  train, test = both(tmp_path).values()
  assert train.label_names == () and sorted(shades(train) + shades(test)) == [0, 1, 2, 3, 4]
  assert train.read(np.arange(4))['label'].tolist() == [-1] * 4 and test.num_examples == 1


def test_only_what_pillow_reads_counts_and_hidden_files_do_not(tmp_path):
  classes(tmp_path, 3)
  write(tmp_path / 'cat' / 'b' / 'deep.JPEG', shade=50)
  write(tmp_path / 'cat' / 'drawn.gif', shade=60)
  write(tmp_path / 'cat' / '.hidden.png')
  write(tmp_path / '.cache' / 'x.png')
  (tmp_path / 'notes').mkdir()
  for name in ('cat/labels.txt', 'readme.md', 'notes/list.csv', 'cat/.DS_Store'):
    (tmp_path / name).write_text('no image')
  found = folders.find(tmp_path)
  assert found.classes == ('cat', 'dog')
  assert [pathlib.PurePath(path).as_posix() for path in found.paths[:5]] == [
    'cat/000.png', 'cat/001.png', 'cat/002.png', 'cat/b/deep.JPEG', 'cat/drawn.gif'
  ]  # fmt: skip
  assert found.label.tolist() == [0] * 5 + [1] * 3


def test_images_of_several_sizes_need_an_image_size_and_are_then_cut_to_squares(tmp_path):
  classes(tmp_path, 4)
  write(tmp_path / 'cat' / 'zoe.png', size=(30, 12))
  with pytest.raises(Refusal, match=r"'cat.zoe.png' of .* has 30 x 12 pixels and .* 8 x 6; give image_size"):
    both(tmp_path)
  source = sources.image_folder(path=str(tmp_path), image_size=5)
  assert source.input_shape == (5, 5, 3)
  assert source.read(np.arange(source.num_examples))['image'].shape == (source.num_examples, 5, 5, 3)


def test_the_short_side_is_resized_and_the_centre_cropped():
  wide = np.random.default_rng(0).integers(0, 256, (4, 16, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(wide).save(file, 'PNG')
  np.testing.assert_array_equal(decode.pixels(file, 3, 4), wide[:, 6:10])
  whole = Image.fromarray(wide).resize((8, 2), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(decode.pixels(file, 3, 2), np.asarray(whole)[:, 3:5])
  assert decode.pixels(file, 1).shape == (4, 16, 1)


@pytest.mark.parametrize(
  'mode, ending', [('L', 'png'), ('P', 'png'), ('RGBA', 'png'), ('CMYK', 'jpg'), ('1', 'png'), ('L', 'jpg')]
)
def test_images_of_every_mode_are_read_as_colour_or_as_grey(tmp_path, mode, ending):
  classes(tmp_path, 4, ending='png')
  write(tmp_path / 'cat' / f'other.{ending}', shade=255, mode=mode)
  for channels in (1, 3):
    source = sources.image_folder(path=str(tmp_path), channels=channels)
    images = source.read(np.arange(source.num_examples))['image']
    assert images.shape[1:] == source.input_shape == (6, 8, channels) and len(source.mean) == channels
  found = folders.find(tmp_path)
  (white,) = folders.read(found, [found.paths.index(f'cat/other.{ending}')], channels=3, image_size=None)
  assert white.min() >= 254


@pytest.mark.parametrize('content', [b'', b'no image', b'cut'])
def test_a_file_that_cannot_be_decoded_is_refused_by_name_and_not_passed_over(tmp_path, content):
  classes(tmp_path / 'train', 4)
  classes(tmp_path / 'test', 1)
  bad = tmp_path / 'test' / 'dog' / 'bad.png'
  if content == b'cut':
    write(bad, size=(64, 64))
    content = bad.read_bytes()[:60]
  bad.write_bytes(content)
  source = sources.image_folder(path=str(tmp_path), split='test')  # what is not read is not looked at
  assert source.read(np.array([0]))['image'].shape == (1, 6, 8, 3)
  with pytest.raises(Refusal, match=r'dog.bad\.png cannot be decoded \(.*put a sound image in its place'):
    source.read(np.arange(3))


def test_a_damaged_training_image_is_refused_when_the_set_is_opened_where_it_is_measured(tmp_path):
  classes(tmp_path, 4)
  (tmp_path / 'cat' / 'bad.jpg').write_bytes(b'\xff\xd8 no jpeg')
  with pytest.raises(Refusal, match=r'bad\.jpg cannot be decoded'):
    both(tmp_path)


@pytest.mark.parametrize(
  ('make', 'options', 'reason'),
  [
    (lambda root: None, {}, 'has no image files'),
    (lambda root: None, dict(path='absent'), 'no such folder of images: .*absent'),
    (lambda root: classes(root, 2), {}, "split 'test' is empty"),
    (lambda root: (classes(root, 4), write(root / 'loose.png')), {}, r"images of its own \('loose.png'\) and folders"),
    (lambda root: classes(root, 4), dict(image_size=0), 'image_size is 0'),
    (lambda root: classes(root, 4), dict(channels=2), 'channels is 2'),
    (lambda root: classes(root, 4), dict(split='tset'), "unknown split 'tset'; did you mean 'test'"),
    (lambda root: classes(root / 'train', 4), dict(test='vla'), "has no folder 'vla'"),
    (
      lambda root: (classes(root / 'train', 4), classes(root / 'test', 1, names=('dgo',))),
      {},
      "has a class 'dgo' that .*train lacks; did you mean 'dog'",
    ),
  ],
)
def test_what_cannot_serve_is_refused_with_what_is_needed(tmp_path, make, options, reason):
  make(tmp_path)
  if 'path' in options:
    options = options | dict(path=str(tmp_path / options['path']))
  with pytest.raises(Refusal, match=reason):
    sources.image_folder(**dict(path=str(tmp_path)) | dict(split='test') | options)


def test_a_pickle_with_the_name_of_an_image_is_refused_and_not_executed(tmp_path):
  import pickle

  classes(tmp_path, 4)
  bomb = tmp_path / 'exploded'

  class Bomb:
    def __reduce__(self):
      return pathlib.Path.touch, (bomb,)

  (tmp_path / 'cat' / 'bomb.png').write_bytes(pickle.dumps(Bomb()))
  with pytest.raises(Refusal, match=r'bomb\.png cannot be decoded'):
    both(tmp_path)
  assert not bomb.exists()


def test_a_run_can_begin_on_a_folder_of_photographs(tmp_path):
  from contrastive_jax.engine import resolve, setup

  classes(tmp_path, 10)
  overrides = {
    'data.source.name': 'image_folder',
    'data.source.path': str(tmp_path),
    'data.source.image_size': '8',
    'data.views.name': 'byol',
    'data.batch_size': '8',
    'optimiser.name': 'lion',
  }
  config = pathlib.Path(__file__).parents[2] / 'configs' / 'ssl' / 'simclr.py'
  run = setup.build(resolve.load(f'{config}:tiny', overrides))
  run.check()
  assert run.sources['train'].num_examples == 16 and run.info.num_classes == 2
