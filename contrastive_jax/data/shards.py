"""Tar shards in WebDataset's layout, read at random: `key.jpg` (png, webp) with `key.txt` or `key.json` beside it.

A shard is read through once for the places of its members; afterwards each is read where it lies. Nothing is unpacked.
"""

import json
import pathlib
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from contrastive_jax.data import cache
from contrastive_jax.data.folders import TEST_FOLDERS
from contrastive_jax.types import Refusal

IMAGES = ('jpg', 'jpeg', 'png', 'webp')
PARTS = ('image', 'txt', 'json')
ABSENT = (-1, -1)
BLOCK = 512  # bytes of a tar header; a shard ends with one of zeros


class Damage(ValueError):
  """A record that cannot be used, and why."""


class Shards(NamedTuple):
  """Records of some shards: what lies where, in the order of the shards and of the keys' first members."""

  paths: tuple[pathlib.Path, ...]
  shard: np.ndarray  # int32 [n]
  place: np.ndarray  # int64 [n, 3, 2]: offset and size of image, text and JSON, -1 where there is none
  keys: list[str]
  lost: list[str]  # what is wrong with the shards themselves

  def where(self, row: int) -> str:
    """The shard and the key of a record."""
    return f'{self.paths[self.shard[row]].name}: {self.keys[row]}'

  def fetch(self, row: int) -> tuple[bytes, list[str]]:
    """The encoded image and the captions of a record.

    Raises:
      Damage: it has none, or they are no text.
    """
    with open(self.paths[self.shard[row]], 'rb') as file:
      parts = [self._part(file, *map(int, place)) for place in self.place[row]]
    if parts[0] is None:
      raise Damage('no image')
    return parts[0], _captions(*parts[1:])

  def _part(self, file, offset: int, size: int) -> bytes | None:
    if offset < 0:
      return None
    file.seek(offset)
    raw = file.read(size)
    if len(raw) < size:
      raise Damage('the shard is cut off')
    return raw


def split(path: pathlib.Path, train: str | None, test: str | None) -> dict[str, tuple[pathlib.Path, ...]]:
  """The shards of 'train' and, where it has shards of its own, of 'test'.

  Args:
    path: a folder, or one shard.
    train: a folder in it or a pattern of names, ``train-*.tar``; None is the folder 'train', else all but the test's.
    test: the same; None is the first there of 'test', 'val', 'valid' and 'validation' beside a folder of training
      shards, else none.

  Raises:
    Refusal: no shard where one is said to be; a shard in both splits.
  """
  if path.is_file():
    return {'train': (path,)}
  if train is None and (path / 'train').is_dir():
    train = 'train'
  if test is None and train is not None and (path / train).is_dir():
    test = next((name for name in TEST_FOLDERS if (path / name).is_dir()), None)
  held = _found(path, test) if test is not None else ()
  training = _found(path, '*.tar' if train is None else train)
  if train is None:
    training = tuple(shard for shard in training if shard not in held)
  both = set(training) & set(held)
  if both or not training:
    which = f"'{min(both).name}' is in both splits" if both else 'no shard is left for training'
    raise Refusal(f'{path}: {which} (train={train!r}, test={test!r})')
  return {'train': training} | ({'test': held} if held else {})


def _found(path: pathlib.Path, which: str) -> tuple[pathlib.Path, ...]:
  inside = (path / which).rglob('*.tar') if (path / which).is_dir() else path.glob(which)
  found = tuple(sorted(shard for shard in inside if shard.is_file()))
  if not found:
    raise Refusal(f"{path} has no tar shards in '{which}', a folder in it or a pattern of names like 'train-*.tar'")
  return found


def key(paths: Sequence[pathlib.Path]) -> str:
  """A checksum of names, sizes and times of change."""
  stats = [(str(path.resolve()), path.stat()) for path in paths]
  return cache.checksum(*(f'{name} {stat.st_size} {stat.st_mtime_ns}' for name, stat in stats))


def scan(paths: Sequence[pathlib.Path]) -> Shards:
  """Reads through the headers of shards."""
  shard: list[int] = []
  places: list[list[tuple[int, int]]] = []
  keys: list[str] = []
  lost: list[str] = []
  for number, path in enumerate(paths):
    members, wrong = _members(path)
    lost += [f'{path.name}: {each}' for each in wrong]
    for name, parts in members.items():
      shard.append(number)
      keys.append(name)
      places.append([parts.get(part, ABSENT) for part in PARTS])
  place = np.array(places, np.int64).reshape(-1, len(PARTS), 2)
  return Shards(tuple(paths), np.array(shard, np.int32), place, keys, lost)


def pack(shards: Shards) -> cache.Arrays:
  """As arrays, but for the paths."""
  said = cache.packed({'keys': shards.keys, 'lost': shards.lost})
  return {'shard': shards.shard, 'place': shards.place, 'said': said}


def unpack(paths: Sequence[pathlib.Path], arrays: cache.Arrays) -> Shards:
  """What `pack` was given."""
  said = cache.unpacked(arrays['said'])
  return Shards(tuple(paths), arrays['shard'], arrays['place'], said['keys'], said['lost'])


def _members(path: pathlib.Path) -> tuple[dict[str, dict[str, tuple[int, int]]], list[str]]:
  """By key, the places of its parts; and what is wrong with the shard."""
  found: dict[str, dict[str, tuple[int, int]]] = {}
  wrong = []
  size = path.stat().st_size
  try:
    with tarfile.open(path, 'r:') as shard:
      for member in shard:
        name, part = _key(member.name)
        if not part or not member.isreg() or member.sparse is not None or member.offset_data + member.size > size:
          continue  # the last is a shard cut off, noticed below
        parts = found.setdefault(name, {})
        if part in parts:
          wrong.append(f'{name}: a second {part}')
        parts.setdefault(part, (member.offset_data, member.size))
      end = shard.offset
    with open(path, 'rb') as file:
      file.seek(end)
      # A damaged header ends the loop above as the end of the shard does.
      if file.read(BLOCK) != bytes(BLOCK):
        wrong.append(f'cut off or damaged after byte {end}')
  except (tarfile.TarError, OSError, ValueError, EOFError) as error:
    wrong.append(f'cut off or damaged: {" ".join(str(error).split())}')
  return found, wrong


def _key(name: str) -> tuple[str, str]:
  """The key of a member and which part of its record it is; '' for what is none."""
  folder, _, last = name.rpartition('/')
  stem, _, ending = last.partition('.')  # WebDataset's rule: a key has no dot
  part = 'image' if ending.lower() in IMAGES else ending.lower()
  return f'{folder}/{stem}'.removeprefix('/').removeprefix('./'), part if stem and part in PARTS else ''


def _captions(text: bytes | None, said: bytes | None) -> list[str]:
  """The lines of the text and the captions of the JSON, each once."""
  found: list[str] = []
  try:
    found += [] if text is None else text.decode().split('\n')
    content = {} if said is None else json.loads(said.decode())
  except UnicodeDecodeError as error:
    raise Damage(f'a caption is no UTF-8 ({error.reason})') from None
  except (ValueError, RecursionError) as error:
    raise Damage(f'no JSON ({" ".join(str(error).split())[:80]})') from None
  for name in ('caption', 'captions') if isinstance(content, dict) else ():
    value = content.get(name)
    found += [] if value is None else value if isinstance(value, list) else [value]
  return clean(found)


def clean(found: Sequence) -> list[str]:
  """Captions without empty ones and repetitions.

  Raises:
    Damage: something else than text among them, or nothing.
  """
  for text in found:
    if not isinstance(text, str):
      raise Damage(f'a caption is {type(text).__name__}, no text')
    try:
      text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which JSON can write
      raise Damage(f'a caption is no UTF-8 ({error.reason})') from None
  kept = list(dict.fromkeys(text.strip() for text in found if text.strip()))
  if not kept:
    raise Damage('no caption')
  return kept
