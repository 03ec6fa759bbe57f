"""Image files in folders, one of each class, read at random and decoded with Pillow."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from contrastive_jax.data import decode
from contrastive_jax.types import Refusal, nearest

TEST_FOLDERS = ('test', 'val', 'valid', 'validation')  # the first of them that is there
# What Pillow raises on files that it cannot read.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class Files(NamedTuple):
  """Image files in a fixed order, with their classes."""

  root: str
  paths: tuple[str, ...]  # relative to the root
  label: np.ndarray  # int32 [n], -1 where there are no classes
  classes: tuple[str, ...]  # names of the classes' folders, sorted; empty where images lie in the folder itself


def find(folder: pathlib.Path) -> Files:
  """The image files of a folder: those in its subfolders, each a class, or those in itself, without classes.

  Files are images by their name's ending, whichever Pillow reads; others are passed over, as is what begins with a dot.
  Folders inside of a class belong to it.

  Raises:
    Refusal: no such folder; no image in it; images both in it and in its subfolders; a class without images.
  """
  if not folder.is_dir():
    raise Refusal(f'no such folder of images: {folder}')
  endings = _endings()
  with os.scandir(folder) as entries:
    shown = sorted((entry for entry in entries if not entry.name.startswith('.')), key=lambda entry: entry.name)
  loose = [entry.name for entry in shown if entry.is_file() and _ends(entry.name, endings)]
  of_class = {entry.name: _images(folder, entry.name, endings) for entry in shown if entry.is_dir()}
  held = {name: paths for name, paths in of_class.items() if paths}
  if loose and held:
    raise Refusal(
      f"{folder} has images of its own ('{loose[0]}') and folders of images ('{next(iter(held))}'): either all in "
      'folders, one of each class, or none'
    )
  if loose:
    return Files(str(folder), tuple(loose), np.full(len(loose), -1, np.int32), ())
  if not held:
    raise Refusal(f'{folder} has no image files, in it or in a folder of each class')
  label = np.repeat(np.arange(len(held), dtype=np.int32), [len(paths) for paths in held.values()])
  return Files(str(folder), tuple(path for paths in held.values() for path in paths), label, tuple(held))


def both(root: pathlib.Path, train: str, test: str | None) -> dict[str, Files] | None:
  """The splits that lie in folders of their own, if they do: the folder `train` and one for the test split.

  Raises:
    Refusal: a test folder was named and is not there; it has a class that the training folder lacks.
  """
  if test is not None and not (root / test).is_dir():
    raise Refusal(f"{root} has no folder '{test}'{nearest(test, _folders(root))}")
  if not (root / train).is_dir():
    return None
  test = test or next((name for name in TEST_FOLDERS if (root / name).is_dir()), None)
  if test is None:
    return None
  found = {'train': find(root / train), 'test': find(root / test)}
  return found | {'test': _numbered(found['test'], found['train'])}


def read(files: Files, rows: Sequence[int], *, channels: int, image_size: int | None) -> list[np.ndarray]:
  """The images of some rows, decoded in threads: uint8 [h, w, channels] each, of whatever size.

  Raises:
    Refusal: a file that cannot be decoded, by name. It is not passed over: which rows a batch has, and what row an
      image has, would change.
  """

  def one(row):
    path = os.path.join(files.root, files.paths[row])
    try:
      return decode.pixels(path, channels, image_size)
    except UNREADABLE as error:
      text = ' '.join(str(error).split()) or type(error).__name__
      raise Refusal(
        f'{path} cannot be decoded ({text}); put a sound image in its place or, before a run begins, remove it'
      ) from None

  return decode.in_threads(one, map(int, rows))


def _numbered(files: Files, like: Files) -> Files:
  """With the classes of another folder, by name."""
  unknown = [name for name in files.classes if name not in like.classes]
  if unknown:
    raise Refusal(f"{files.root} has a class '{unknown[0]}' that {like.root} lacks{nearest(unknown[0], like.classes)}")
  number = np.array([like.classes.index(name) for name in files.classes], np.int32)
  return files._replace(label=number[files.label] if files.classes else files.label, classes=like.classes)


def _images(root: pathlib.Path, name: str, endings: tuple[str, ...]) -> list[str]:
  """The images below a class's folder, by their paths from the root, sorted."""
  found = []
  for place, folders, names in os.walk(root / name, followlinks=True):
    folders[:] = [folder for folder in folders if not folder.startswith('.')]
    inside = os.path.relpath(place, root)
    found += [os.path.join(inside, each) for each in names if _ends(each, endings)]
  return sorted(found)


def _ends(name: str, endings: tuple[str, ...]) -> bool:
  return not name.startswith('.') and name.lower().endswith(endings)


def _folders(root: pathlib.Path) -> list[str]:
  return sorted(path.name for path in root.iterdir() if path.is_dir())


def _endings() -> tuple[str, ...]:
  """Those of the formats that Pillow reads ('.jpg', '.png', ...)."""
  return tuple(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)
