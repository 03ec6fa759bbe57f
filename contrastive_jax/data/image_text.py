"""A user's own images with captions, in tar shards or in a set that TensorFlow Datasets has prepared."""

import io
import json
import logging
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL
import tokenizers

from contrastive_jax.data import cache, decode, records, shards
from contrastive_jax.data import tokens as token_kinds
from contrastive_jax.data.captions import Captions
from contrastive_jax.data.folders import UNREADABLE
from contrastive_jax.data.source import SPLIT_SEED, TEST_PART, Source, check_split, measure, permutation, sample
from contrastive_jax.types import Refusal

FORMATS = ('JPEG', 'PNG', 'WEBP')  # no other is tried on a record's image, whatever it is called
LEARNT_FROM = 2**20  # training records, at most, of whose captions pieces are learnt
AT_ONCE = 4096  # records checked between two lines of the log
NAMED, LOGGED = 5, 20  # unusable records that a refusal and the log name
MADE = 1  # raised whenever this code keeps something else of the same files

_log = logging.getLogger(__name__)


class Stored(NamedTuple):
  """Records as they are stored, usable or not."""

  name: str
  key: str  # checksum of what the files are
  size: int
  fetch: Callable[[int], tuple[bytes, list[str]]]  # row -> encoded image, captions; raises shards.Damage
  where: Callable[[int], str]
  lost: list[str]  # what is wrong besides records


class Part(NamedTuple):
  """The records of one split."""

  stored: Stored
  rows: np.ndarray  # of usable records
  first: int  # the number of the first record of all, so that no two splits have one in common


def image_text(
  *,
  split: str = 'train',
  path: str | None = None,
  dataset: str | None = None,
  data_dir: str | None = None,
  train: str | None = None,
  test: str | None = None,
  image_size: int | None = None,
  captions: int = 5,
  tokens: str = 'bpe',
  vocabulary: int | None = None,
  length: int = 64,
  image_key: str = 'image',
  caption_key: str = 'captions',
  most_bad: float = 0.01,
) -> Source:
  """A user's own images with captions: tar shards in WebDataset's layout, or a prepared set of TFDS.

  A shard holds, of each record, an image `key.jpg` (jpeg, png, webp) and its captions: `key.txt`, one a line, or
  `key.json` with `caption` or `captions`, or both. Before the first use every record is checked, its image decoded, and
  the result kept (see `cache.folder`) until a file changes. Records that cannot be used are left out, counted and
  named in the log. Labels are -1; every record is a concept of its own. Mean and standard deviation are those of 1,024
  training images.

  Args:
    split: 'train' or 'test'.
    path: a folder of shards, or one shard. See `shards.split` for `train` and `test`; without test shards, a fixed
      random fifth of the records is 'test'.
    dataset: instead of `path`, name of a prepared set, as of the source `tfds`.
    data_dir: where TFDS has prepared the set; None is its default.
    train: of `path`, a folder in it or a pattern, ``train-*.tar``; of `dataset`, the TFDS split, 'train' if None.
    test: likewise.
    image_size: pixels; resizes the short side to it and crops the centre. Needed where images differ in size.
    captions: the most captions of a record that are used, the first ones.
    tokens: 'byte', 'bpe' or 'unigram', as in `tokens.make`; the last two learn from the training split's captions.
    vocabulary: the most tokens of a trained kind, 8,192 if None.
    length: tokens of a caption.
    image_key: of `dataset`, field with the image.
    caption_key: of `dataset`, field with a text or several ('captions/text' of a field inside of a sequence).
    most_bad: share of records that may be unusable.

  Raises:
    Refusal: unknown split, tokens or field; neither or both of `path` and `dataset`; no shards; more unusable records
      than `most_bad`, with the first of them; images of several sizes without `image_size`.
  """
  check_split(split)
  token_kinds.check(tokens, vocabulary, length)
  _check(image_size, captions, most_bad)
  if path is not None and dataset is None:
    stored = _of_shards(path, train, test)
  elif dataset is not None and path is None:
    stored = _of_dataset(dataset, data_dir, train or 'train', test or 'test', image_key, caption_key)
  else:
    raise Refusal("a folder 'path' of shards or the name 'dataset' of a prepared set is needed, and not both")
  checked = {name: _checked(each, most_bad) for name, each in stored.items()}
  parts = _parts(stored, {name: each['row'] for name, each in checked.items()})
  most = min(captions, max(int(each['captions'].max()) for each in checked.values()))
  made = _tokens(parts['train'], most, tokens, vocabulary, length)
  return _source(split, parts, _shape(stored, checked, image_size), image_size, most, made)


def _check(image_size: int | None, captions: int, most_bad: float):
  decode.check_size(image_size)
  if captions < 1 or not 0 <= most_bad <= 1:
    raise Refusal(f'captions is {captions} and most_bad {most_bad}; at least 1 and a share from 0 to 1 are needed')


# --- where records come from ---


def _of_shards(place: str, train: str | None, test: str | None) -> dict[str, Stored]:
  path = pathlib.Path(place).expanduser()
  if not path.exists():
    raise Refusal(f'no such folder of shards: {path}')
  return {name: _shards(path.resolve().name, paths) for name, paths in shards.split(path, train, test).items()}


def _shards(name: str, paths: tuple[pathlib.Path, ...]) -> Stored:
  key = cache.checksum(str(MADE), shards.key(paths))
  found = shards.unpack(paths, cache.kept('shards', key, lambda: shards.pack(shards.scan(paths))))
  return Stored(name, key, len(found.keys), found.fetch, found.where, found.lost)


def _of_dataset(dataset, data_dir, train, test, image_key, caption_key) -> dict[str, Stored]:
  def of_split(name):
    size, fetch, files = records.open_captioned(
      dataset, name, data_dir=data_dir, image_key=image_key, caption_key=caption_key
    )

    def one(row):
      image, found = fetch(row)
      try:
        return image, shards.clean([text.decode() for text in found])
      except UnicodeDecodeError as error:
        raise shards.Damage(f'a caption is no UTF-8 ({error.reason})') from None

    key = cache.checksum(str(MADE), name, image_key, caption_key, *files)
    return Stored(dataset, key, size, one, lambda row: f'{name}: record {row}', [])

  return {'train': of_split(train), 'test': of_split(test)}


# --- which records can be used ---


def _checked(stored: Stored, most_bad: float) -> cache.Arrays:
  """`row` [n] of usable records, and of each its `size` [n, 2] and number of `captions` [n]."""
  key = cache.checksum(stored.key, PIL.__version__)
  found = cache.kept('image-text', key, lambda: check(stored))
  bad = stored.lost + cache.unpacked(found['bad'])
  total = len(found['row']) + len(bad)
  what = f'{len(bad)} of {total} records of {stored.name} cannot be used'
  if len(bad) > most_bad * total:
    raise Refusal(f'{what}, more than the share most_bad={most_bad}: {_first(bad, NAMED)}')
  if not len(found['row']):
    raise Refusal(f'{stored.name} has no records: images with captions beside them')
  if bad:
    _log.warning('%s and are left out: %s', what, _first(bad, LOGGED))
  return found


def check(stored: Stored) -> cache.Arrays:
  """Decodes every image and reads every caption, once: `row`, `size`, `captions` of the usable, texts of the `bad`."""
  _log.info('checking %d records of %s, once', stored.size, stored.name)

  def one(row):
    try:
      image, texts = stored.fetch(row)
      return (*_pixels(image, None).shape[:2], len(texts))
    except shards.Damage as error:
      return str(error)
    except UNREADABLE as error:
      return f'the image cannot be decoded ({" ".join(str(error).split()) or type(error).__name__})'

  usable, bad = [], []
  for start in range(0, stored.size, AT_ONCE):
    rows = range(start, min(start + AT_ONCE, stored.size))
    for row, found in zip(rows, decode.in_threads(one, rows), strict=True):
      if isinstance(found, str):
        bad.append(' '.join(f'{stored.where(row)}: {found}'.split()))  # names are strangers' too
      else:
        usable.append((row, *found))
    _log.info('%d of %d records checked', rows.stop, stored.size)
  table = np.array(usable, np.int64).reshape(-1, 4)
  return {'row': table[:, 0], 'size': table[:, 1:3], 'captions': table[:, 3], 'bad': cache.packed(bad)}


def _first(bad: list[str], count: int) -> str:
  more = f'; and {len(bad) - count} more' if len(bad) > count else ''
  return '; '.join(bad[:count]) + more


def _parts(stored: dict[str, Stored], rows: dict[str, np.ndarray]) -> dict[str, Part]:
  if 'test' in stored:
    return {name: Part(each, rows[name], stored['train'].size * (name == 'test')) for name, each in stored.items()}
  whole, usable = stored['train'], rows['train']
  order = permutation(SPLIT_SEED, 0, len(usable))
  cut = round(len(usable) * TEST_PART)
  if not 0 < cut < len(usable):
    raise Refusal(f'{whole.name} has {len(usable)} usable records, too few to hold a fifth out; give test shards')
  of_split = {'train': order[cut:], 'test': order[:cut]}
  return {name: Part(whole, usable[np.sort(chosen)], 0) for name, chosen in of_split.items()}


def _shape(stored, checked, image_size: int | None) -> tuple[int, int, int]:
  if image_size is not None:
    return image_size, image_size, 3
  shape = checked['train']['size'][0]
  for name, each in checked.items():
    other = np.flatnonzero((each['size'] != shape).any(1))
    if len(other):
      height, width = each['size'][other[0]]
      where = stored[name].where(int(each['row'][other[0]]))
      first = stored['train'].where(int(checked['train']['row'][0]))
      raise Refusal(
        f'{where} has {width} x {height} pixels and {first} {shape[1]} x {shape[0]}; give image_size (pixels), to '
        'which they are resized'
      )
  return int(shape[0]), int(shape[1]), 3


# --- reading ---


def _pixels(image: bytes, image_size: int | None) -> np.ndarray:
  return decode.pixels(io.BytesIO(image), 3, image_size, FORMATS)


def _slots(texts: list[str], most: int) -> tuple[str, ...]:
  return tuple((texts + [''] * most)[:most])


def _source(split: str, parts: dict[str, Part], shape, image_size: int | None, most: int, made) -> Source:
  training, own = (_reader(parts[name], shape, image_size, most, made) for name in ('train', split))
  mean, std = measure(training(sample(len(parts['train'].rows)))['image'])
  part = parts[split]

  def texts(rows):
    return [_slots(part.stored.fetch(int(row))[1], most) for row in part.rows[rows]]

  slots = tuple(f'caption_{k}' for k in range(most))
  told = Captions(slots, made.length, made.vocabulary, made.encode, made.tokenizer, texts)
  return Source(part.stored.name, split, len(part.rows), own, shape, (), mean, std, told)


def _reader(part: Part, shape, image_size: int | None, most: int, made: token_kinds.Tokens):
  def one(row):
    image, texts = part.stored.fetch(int(row))
    return _pixels(image, image_size), _slots(texts, most)

  def read(indices):
    rows = part.rows[indices]
    try:
      images, texts = zip(*decode.in_threads(one, rows), strict=True)
    except (*UNREADABLE, shards.Damage) as error:
      raise Refusal(f'{part.stored.name} has changed since its records were checked: {error}') from None
    return {
      'image': np.stack(images).reshape(-1, *shape),
      'label': np.full(len(rows), -1, np.int32),
      'caption': made.encode([text for of_row in texts for text in of_row]).reshape(len(rows), most, made.length),
      'caption_mask': np.array([[bool(text) for text in of_row] for of_row in texts]),
      'concept': (part.first + rows).astype(np.int32),
    }

  return read


def _tokens(part: Part, most: int, tokens: str, vocabulary: int | None, length: int) -> token_kinds.Tokens:
  """Tokens of the captions of a training part, from the cache where they are learnt."""
  if tokens == 'byte':
    return token_kinds.make(tokens, (), length=length)
  count = min(LEARNT_FROM, len(part.rows))
  rows = part.rows[np.linspace(0, len(part.rows) - 1, count).astype(int)]
  options = json.dumps([most, tokens, vocabulary, length, tokenizers.__version__])

  def make():
    found = decode.in_threads(lambda row: part.stored.fetch(int(row))[1][:most], rows)
    learnt = [text for texts in found for text in texts]
    return {'tokenizer': cache.packed(token_kinds.make(tokens, learnt, vocabulary=vocabulary, length=length).tokenizer)}

  kept = cache.kept('image-text-tokens', cache.checksum(part.stored.key, rows.tobytes(), options), make)
  return token_kinds.restore(cache.unpacked(kept['tokenizer']))
