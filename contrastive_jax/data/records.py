"""Image records of a prepared TFDS data set, read at random and decoded with Pillow; no TensorFlow, no network.

TFDS reads sets stored as ArrayRecord or Parquet without TensorFlow. Preparing one (downloading and writing the files)
needs it once: ``pip install contrastive_jax[prepare]`` and ``tfds build NAME --file_format array_record``.
"""

import io
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from contrastive_jax.data import decode
from contrastive_jax.types import Refusal, nearest


class Records(NamedTuple):
  """One split of a prepared set."""

  num_examples: int
  read: Callable[[np.ndarray], dict[str, np.ndarray]]  # rows [b] -> image uint8 [b, h, w, c], label int32 [b]
  image_shape: tuple[int, int, int]
  label_names: tuple[str, ...]


def prepare_command(dataset: str, data_dir: str | None = None) -> str:
  """The shell command that prepares a set for `open_records`."""
  place = f' --data_dir {data_dir}' if data_dir else ''
  return f'tfds build {dataset} --file_format array_record{place}'


def open_records(
  dataset: str, split: str, *, data_dir=None, image_size=None, image_key='image', label_key='label'
) -> Records:
  """Opens one split of a prepared set.

  Args:
    dataset: name TFDS knows ('cifar10', 'imagenet2012', 'name/config'), or of a set prepared in data_dir by others.
    split: TFDS split, slices included ('train', 'train[:90%]').
    data_dir: where sets are prepared; None is TFDS's default, ~/tensorflow_datasets or $TFDS_DATA_DIR.
    image_size: as of `decode.pixels`; None keeps images as they are, all of one size.
    image_key: field with the image.
    label_key: field with the class; where the set has none, labels are -1.

  Raises:
    Refusal: unknown name, set not prepared or prepared in another format, unknown split or field, images of several
      sizes without image_size.
  """
  import tensorflow_datasets as tfds

  builder = _prepared(tfds, dataset, data_dir)
  fields = dict(builder.info.features.items())
  image, label = _image(tfds, dataset, fields, image_key), fields.get(label_key)
  if label is not None and (label.shape or not np.issubdtype(label.np_dtype, np.integer)):
    raise Refusal(f"field '{label_key}' of data set '{dataset}' is no class: {label}")
  # Only what is wanted is parsed. (PartialDecoding would do this too, but imports TensorFlow.)
  parser = tfds.features.FeaturesDict({name: fields[name] for name in (image_key, label_key) if name in fields})
  decoders = {image_key: tfds.decode.SkipDecoding()}
  shape = _image_shape(dataset, image.shape, image_size)
  rows = _rows(tfds, builder, dataset, split, data_dir)

  def one(record):
    example = parser.deserialize_example_np(record, decoders=decoders)
    image = decode.pixels(io.BytesIO(example[image_key]), shape[2], image_size)
    return image, example.get(label_key, -1)

  def read(indices):
    records = rows.__getitems__([int(i) for i in indices])
    images, labels = zip(*decode.in_threads(one, records), strict=True)
    return {'image': np.stack(images), 'label': np.array(labels, np.int32)}

  return Records(len(rows), read, shape, tuple(getattr(label, 'names', None) or ()))


def open_captioned(
  dataset: str, split: str, *, data_dir=None, image_key='image', caption_key='captions'
) -> tuple[int, Callable[[int], tuple[bytes, list[bytes]]], tuple[str, ...]]:
  """Opens one split of a prepared set of images with captions, as they are stored: not decoded, nor looked at.

  Args:
    dataset: as in `open_records`.
    split: as in `open_records`.
    data_dir: as in `open_records`.
    image_key: field with the image.
    caption_key: field with a text or several; of a field inside of a sequence its path ('captions/text').

  Returns:
    The number of records, a function from a row to its encoded image and its captions, and name, size and time of
    change of every file.

  Raises:
    Refusal: as `open_records`; no text under that key.
  """
  import tensorflow_datasets as tfds

  builder = _prepared(tfds, dataset, data_dir)
  fields = dict(builder.info.features.items())
  _image(tfds, dataset, fields, image_key)
  first, *inner = caption_key.split('/')
  field = fields.get(first)
  for name in inner:
    within = getattr(field, 'feature', None)
    field = dict(within.items()).get(name) if isinstance(within, tfds.features.FeaturesDict) else None
  field = getattr(field, 'feature', field)
  if not isinstance(field, tfds.features.Text):
    raise Refusal(f"data set '{dataset}' has no text called '{caption_key}'{nearest(caption_key, fields)}")
  parser = tfds.features.FeaturesDict({name: fields[name] for name in (image_key, first)})
  decoders = {image_key: tfds.decode.SkipDecoding()}
  rows = _rows(tfds, builder, dataset, split, data_dir)

  def fetch(row):
    example = parser.deserialize_example_np(rows.__getitems__([int(row)])[0], decoders=decoders)
    found = example[first]
    for name in inner:
      found = found[name]
    return example[image_key], [found] if isinstance(found, bytes) else list(found)

  paths = sorted(pathlib.Path(str(builder.data_path)).iterdir())
  stats = tuple(f'{path} {path.stat().st_size} {path.stat().st_mtime_ns}' for path in paths)
  return len(rows), fetch, stats


def is_prepared(dataset: str, data_dir: str | None = None) -> bool:
  """Whether TFDS finds the set's files.

  Raises:
    Refusal: unknown name.
  """
  import tensorflow_datasets as tfds

  return _is_prepared(_builder(tfds, dataset, data_dir))


def _prepared(tfds, dataset, data_dir):
  builder = _builder(tfds, dataset, data_dir)
  if not _is_prepared(builder):
    raise Refusal(
      f"data set '{dataset}' is not prepared in {builder.data_path}; `{prepare_command(dataset, data_dir)}` "
      f'prepares it (with the `prepare` extra, which brings TensorFlow){_by_hand(builder)}'
    )
  return builder


def _image(tfds, dataset, fields, image_key):
  image = fields.get(image_key)
  if not isinstance(image, tfds.features.Image) or np.dtype(image.np_dtype) != np.uint8:
    raise Refusal(f"data set '{dataset}' has no 8-bit image called '{image_key}'{nearest(image_key, fields)}")
  return image


def _builder(tfds, dataset, data_dir):
  try:
    return tfds.builder(dataset, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError:
    known = tfds.list_builders(with_community_datasets=False)
    hint = nearest(dataset, known).partition(' (known')[0]  # TFDS knows hundreds
    place = data_dir or tfds.core.constants.DATA_DIR
    raise Refusal(f"TFDS knows no data set '{dataset}' and none is prepared under that name in {place}{hint}") from None
  except (ValueError, ImportError) as error:
    raise Refusal(f"TFDS cannot open a data set called '{dataset}': {str(error).splitlines()[0]}") from None


def _is_prepared(builder) -> bool:
  # TFDS warns about a folder that does not exist, which is no news here.
  return builder.data_path.exists() and builder.is_prepared()


def _by_hand(builder) -> str:
  """What TFDS says of files that it cannot download."""
  words = ' '.join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or '').split())
  return words and f'; its manual_dir is {builder.data_dir_root / "downloads" / "manual"}: {words}'


def _rows(tfds, builder, dataset, split, data_dir):
  try:
    return builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
  except NotImplementedError:
    raise Refusal(
      f"data set '{dataset}' is prepared in {builder.data_path} in a format without random access; remove it and run "
      f'`{prepare_command(dataset, data_dir)}`'
    ) from None
  except ValueError:
    raise Refusal(f"data set '{dataset}' has no split '{split}'{nearest(split, builder.info.splits)}") from None


def _image_shape(dataset, shape, image_size) -> tuple[int, int, int]:
  height, width, channels = shape
  channels = channels or 3
  decode.check_size(image_size)
  if image_size is not None:
    return image_size, image_size, channels
  if height is None or width is None:
    raise Refusal(f"images of '{dataset}' have different sizes; give image_size (pixels), to which they are resized")
  return height, width, channels
