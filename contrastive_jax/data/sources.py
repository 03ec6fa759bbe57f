"""Sources of images: one split of a data set, readable at any rows.

Each function is a factory with keyword options; `KNOWN` lists their names. `split` is 'train' or 'test' everywhere. A
source that is missing or damaged raises a Refusal that says what brings it. Nothing is downloaded here.
"""

import functools
import gzip
import math
import pathlib
import struct
import zipfile

import numpy as np

from contrastive_jax.data import decode, folders, records
from contrastive_jax.data.composite import composite as composite
from contrastive_jax.data.diabetes import diabetes as diabetes
from contrastive_jax.data.emoji import emoji as emoji
from contrastive_jax.data.glucose import glucose as glucose
from contrastive_jax.data.image_text import image_text as image_text
from contrastive_jax.data.packages import packages as packages
from contrastive_jax.data.paths import paths as paths
from contrastive_jax.data.source import (
  SPLIT_SEED,
  SPLITS,
  TEST_PART,
  Source,
  check_split,
  in_memory,
  measure,
  permutation,
  sample,
)
from contrastive_jax.types import Refusal, nearest

# fmt: off
KNOWN = (
  'arrays', 'cifar10', 'cifar100', 'composite', 'diabetes', 'digits', 'emoji', 'fashion_mnist', 'glucose',
  'image_folder', 'image_text', 'imagenet2012', 'packages', 'paths', 'tfds',
)
# fmt: on

FASHION_DIR = '/usr/share/datasets/fashion-mnist'  # Debian's dataset-fashion-mnist
FASHION_FILES = {'train': 'train', 'test': 't10k'}
FASHION_LABELS = (
  'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip

# Mean and standard deviation of the training images' channels, in [0, 1] units; other sets are measured.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
  'cifar10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  'cifar100': ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
  'imagenet2012': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def digits(*, split: str = 'train') -> Source:
  """Handwritten digits 8x8 of scikit-learn (1,797 images, 10 classes; Alpaydin and Kaynak, 1998); in its wheel.

  The set's values 0..16 become round(value * 255 / 16) as uint8. It comes without a test split: a fixed fifth of every
  class (train_test_split with stratify, test_size 0.2, random_state 0) is 'test', 360 images, and 1,437 are 'train'.

  Raises:
    Refusal: unknown split.
  """
  check_split(split)
  images, labels, rows = _digits()
  label_names = tuple(str(k) for k in range(10))
  return in_memory('digits', split, images[rows[split]], labels[rows[split]], label_names, images[rows['train']])


def fashion_mnist(*, split: str = 'train', data_dir: str | None = None) -> Source:
  """Fashion-MNIST (Xiao et al., 2017): garments 28x28x1, 10 classes, 60,000 train and 10,000 test images.

  Args:
    split: 'train' or 'test'.
    data_dir: folder of the four idx files (gzipped or not), or a TFDS folder where the set is prepared. None looks in
      the folder of Debian's package dataset-fashion-mnist, then in TFDS's default folder.

  Raises:
    Refusal: unknown split; files missing (with the two commands that bring them) or damaged.
  """
  check_split(split)
  folder = pathlib.Path(data_dir or FASHION_DIR).expanduser()
  files = {part: _fashion_files(folder, part) for part in SPLITS}
  if all(len(found) == 2 for found in files.values()):
    images, labels = (read_idx(path) for path in files[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
      raise Refusal(f'{folder} has images {list(images.shape)} and labels {list(labels.shape)} for {split}')
    train = images if split == 'train' else read_idx(files['train'][0])
    return in_memory(
      'fashion_mnist', split, images[..., None], labels.astype(np.int32), FASHION_LABELS, train[..., None]
    )
  if records.is_prepared('fashion_mnist', data_dir):
    return tfds(dataset='fashion_mnist', split=split, data_dir=data_dir)
  raise Refusal(
    f'Fashion-MNIST is not in {folder}; `apt-get install dataset-fashion-mnist` or '
    f'`{records.prepare_command("fashion_mnist", data_dir)}` (with the `prepare` extra) brings it'
  )


def cifar10(*, split: str = 'train', data_dir: str | None = None) -> Source:
  """CIFAR-10 (Krizhevsky, 2009): 32x32x3, 10 classes, 50,000 train and 10,000 test images; see `tfds`."""
  return tfds(dataset='cifar10', split=split, data_dir=data_dir)


def cifar100(*, split: str = 'train', data_dir: str | None = None) -> Source:
  """CIFAR-100 (Krizhevsky, 2009): 32x32x3, 100 classes, 50,000 train and 10,000 test images; see `tfds`."""
  return tfds(dataset='cifar100', split=split, data_dir=data_dir)


def imagenet2012(*, split: str = 'train', data_dir: str | None = None, image_size: int = 256) -> Source:
  """ImageNet (Deng et al., 2009; ILSVRC 2012): 1,000 classes, 1,281,167 train and, as 'test', 50,000 validation images.

  Photographs of several sizes, each resized and cropped to a square on the host, of which views are then crops; so
  what lies beside the square is never seen. See `tfds`.

  Args:
    split: 'train' or 'test'.
    data_dir: where TFDS has prepared the set; None is its default.
    image_size: pixels of the square; at least that of the views.

  Raises:
    Refusal: unknown split; set not prepared, with the command that prepares it and what must be there for it.
  """
  return tfds(dataset='imagenet2012', split=split, data_dir=data_dir, test='validation', image_size=image_size)


def tfds(
  *,
  dataset: str,
  split: str = 'train',
  data_dir: str | None = None,
  train: str = 'train',
  test: str = 'test',
  image_size: int | None = None,
  image_key: str = 'image',
  label_key: str = 'label',
) -> Source:
  """Any set of images that TFDS has prepared in a format with random access (see `records.open_records`).

  Args:
    dataset: name TFDS knows, or of a set that lies prepared in data_dir.
    split: 'train' or 'test'.
    data_dir: where sets are prepared; None is TFDS's default.
    train: the TFDS split that serves as 'train', slices included ('train[:90%]').
    test: the TFDS split that serves as 'test' ('validation' for imagenet2012).
    image_size: pixels; resizes the short side to it and crops the centre. Needed where images differ in size.
    image_key: field with the image.
    label_key: field with the class; labels are -1 without it.

  Mean and standard deviation are the published ones for CIFAR and ImageNet, else those of 1,024 training images.

  Raises:
    Refusal: unknown split, name or field; set not prepared, with the command that prepares it.
  """
  check_split(split)
  opened = functools.partial(
    records.open_records, dataset, data_dir=data_dir, image_size=image_size, image_key=image_key, label_key=label_key
  )
  rows = opened({'train': train, 'test': test}[split])
  statistics = STATISTICS.get(dataset.partition(':')[0].partition('/')[0])
  if statistics is None:
    training = rows if split == 'train' else opened(train)
    statistics = measure(training.read(sample(training.num_examples))['image'])
  return Source(dataset, split, rows.num_examples, rows.read, rows.image_shape, rows.label_names, *statistics)


def image_folder(
  *,
  path: str,
  split: str = 'train',
  train: str = 'train',
  test: str | None = None,
  image_size: int | None = None,
  channels: int = 3,
) -> Source:
  """A user's own image files (JPEG, PNG and whatever else Pillow reads), in a folder of each class.

  The classes' folders lie in `path`/train and `path`/test, or in `path` itself: then a fixed random fifth of every
  class is 'test', as it is of `path`/train where no test folder is there. Images that lie in no folder of a class have
  label -1. Images are decoded when they are read, in threads. See `folders.find` for what counts as an image.

  Args:
    path: the folder.
    split: 'train' or 'test'.
    train: name of the folder of training images.
    test: name of the folder of test images; None is the first there of 'test', 'val', 'valid' and 'validation'.
    image_size: as in `tfds`.
    channels: 3, or 1 to read images as grey.

  Mean and standard deviation are those of 1,024 training images.

  Raises:
    Refusal: unknown split; no such folder or no images; a class of the test split that the training split lacks; a file
      that cannot be decoded; images of several sizes without `image_size`.
  """
  check_split(split)
  decode.check_size(image_size)
  if channels not in (1, 3):
    raise Refusal(f'channels is {channels}; 1 (grey) or 3 (colour) is needed')
  root = pathlib.Path(path).expanduser()
  files = folders.both(root, train, test) or _held_out(folders.find(root / train if (root / train).is_dir() else root))
  if not len(files[split].paths):
    raise Refusal(f"{root}: split '{split}' is empty; a class of at least 3 images, or a folder 'test', is needed")
  shape = folders.read(files['train'], [0], channels=channels, image_size=image_size)[0].shape

  def read(part, rows):
    images = folders.read(part, rows, channels=channels, image_size=image_size)
    for image, row in zip(images, rows, strict=True):
      if image.shape != shape:
        raise Refusal(
          f"'{part.paths[row]}' of {part.root} has {image.shape[1]} x {image.shape[0]} pixels and "
          f"'{files['train'].paths[0]}' {shape[1]} x {shape[0]}; give image_size (pixels), to which they are resized"
        )
    return {'image': np.stack(images), 'label': part.label[rows]}

  statistics = measure(read(files['train'], sample(len(files['train'].paths)))['image'])
  name, part = root.resolve().name, files[split]
  return Source(name, split, len(part.paths), functools.partial(read, part), shape, part.classes, *statistics)


def arrays(*, path: str, split: str = 'train') -> Source:
  """A user's own images in a NumPy archive (.npz, as numpy.savez writes it; never unpickled).

  The archive holds `image` uint8 [n, h, w] or [n, h, w, c] and, if known, `label` integers [n] and `label_names`
  strings. With `image_test` (and `label_test`) these are 'test' and the others 'train'; without, a fixed random fifth
  is 'test'.

  Args:
    path: the archive; read into memory.
    split: 'train' or 'test'.

  Raises:
    Refusal: unknown split; no such file; not an archive of plain arrays; arrays of the wrong type or shape.
  """
  check_split(split)
  content = _load_npz(path)
  train, label = _labelled(path, content, '')
  if 'image_test' in content:
    test, label_test = _labelled(path, content, '_test')
    if train.shape[1:] != test.shape[1:]:
      raise Refusal(
        f"{path}: 'image' is [n, {train.shape[1:]}] and 'image_test' [n, {test.shape[1:]}]; one shape is needed"
      )
    chosen = (train, label) if split == 'train' else (test, label_test)
  else:
    order = permutation(SPLIT_SEED, 0, len(train))
    cut = round(len(train) * TEST_PART)
    rows = {'test': np.sort(order[:cut]), 'train': np.sort(order[cut:])}
    chosen = train[rows[split]], label[rows[split]]
    train = train[rows['train']]
  if not len(chosen[0]):
    raise Refusal(f"{path}: split '{split}' is empty")
  names = tuple(str(name) for name in content.get('label_names', ()))
  return in_memory(pathlib.Path(path).stem, split, *chosen, names, train)


def read_images(path: str) -> np.ndarray:
  """The array `image` of an archive as in `arrays`, whole: uint8 [n, h, w, c].

  Raises:
    Refusal: no such file; not an archive of plain arrays; an array of the wrong type or shape.
  """
  return _labelled(path, _load_npz(path), '')[0]


def read_idx(path: str | pathlib.Path) -> np.ndarray:
  """Reads an idx file of unsigned bytes (LeCun's format for MNIST), gzipped or not.

  The format: two zero bytes, the type (8 is uint8), the number of dimensions, each size as a big-endian int32, the
  data.

  Raises:
    Refusal: the file is damaged or holds another type.
  """
  try:
    raw = pathlib.Path(path).read_bytes()
    data = gzip.decompress(raw) if raw[:2] == b'\x1f\x8b' else raw
  except (OSError, EOFError) as error:
    raise Refusal(f'{path} cannot be read: {error}') from None
  if len(data) < 4 or data[:3] != b'\x00\x00\x08' or len(data) < 4 + 4 * data[3]:
    raise Refusal(f'{path} is no idx file of unsigned bytes')
  shape = struct.unpack(f'>{data[3]}I', data[4 : 4 + 4 * data[3]])
  values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
  if values.size != math.prod(shape):
    raise Refusal(f'{path} announces {shape} and holds {values.size} bytes; {math.prod(shape)} are needed')
  return values.reshape(shape)


def _held_out(files: folders.Files) -> dict[str, folders.Files]:
  """A fixed random fifth of every class as 'test', and the rest."""
  rows: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
  for label in np.unique(files.label):
    of_class = np.flatnonzero(files.label == label)
    of_class = of_class[permutation(SPLIT_SEED, max(int(label), 0), len(of_class))]
    cut = round(len(of_class) * TEST_PART)
    rows['test'].append(of_class[:cut])
    rows['train'].append(of_class[cut:])
  kept = {split: np.sort(np.concatenate(parts)) for split, parts in rows.items()}
  return {s: files._replace(paths=tuple(files.paths[i] for i in r), label=files.label[r]) for s, r in kept.items()}


@functools.cache
def _digits():
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  images, labels = load_digits().images, load_digits().target.astype(np.int32)
  train, test = train_test_split(np.arange(len(labels)), test_size=TEST_PART, random_state=SPLIT_SEED, stratify=labels)
  pixels = np.round(images * (255 / 16)).astype(np.uint8)[..., None]
  return pixels, labels, {'train': np.sort(train), 'test': np.sort(test)}


def _fashion_files(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
  """The files of the split's images and labels, as far as they exist."""
  stems = [folder / f'{FASHION_FILES[split]}-{kind}' for kind in ('images-idx3-ubyte', 'labels-idx1-ubyte')]
  either = [(stem.with_name(f'{stem.name}.gz'), stem) for stem in stems]
  return [next(path for path in pair if path.is_file()) for pair in either if any(path.is_file() for path in pair)]


def _load_npz(path: str) -> dict[str, np.ndarray]:
  try:
    with np.load(pathlib.Path(path).expanduser(), allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except FileNotFoundError:
    raise Refusal(f'no such file: {path}; an .npz archive with an array `image` is needed') from None
  except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
    # A lone .npy array is no context manager and has no `files`: TypeError or AttributeError.
    raise Refusal(f'{path} is no .npz archive of plain arrays (pickled objects are never loaded): {error}') from None


def _labelled(path: str, content: dict[str, np.ndarray], suffix: str) -> tuple[np.ndarray, np.ndarray]:
  image = content.get(f'image{suffix}')
  if image is None:
    raise Refusal(f"{path} has no array 'image{suffix}'{nearest('image', content)}")
  if image.dtype != np.uint8 or image.ndim not in (3, 4) or 0 in image.shape:
    raise Refusal(
      f"{path}: 'image{suffix}' is {image.dtype} {list(image.shape)}; uint8 [n, h, w] or [n, h, w, c] is needed"
    )
  image = image if image.ndim == 4 else image[..., None]
  label = content.get(f'label{suffix}', np.full(len(image), -1))
  if not np.issubdtype(label.dtype, np.integer) or label.shape != (len(image),):
    raise Refusal(f"{path}: 'label{suffix}' is {label.dtype} {list(label.shape)}; integers [{len(image)}] are needed")
  return image, label.astype(np.int32)
