"""Arrays that take long to make, kept between runs in the user's cache folder, by a checksum of what they come from."""

import hashlib
import json
import logging
import os
import pathlib
import secrets
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

_log = logging.getLogger(__name__)


def folder() -> pathlib.Path:
  """`contrastive_jax` in $XDG_CACHE_HOME, or in ~/.cache."""
  return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'contrastive_jax'


def checksum(*parts: bytes | str | pathlib.Path) -> str:
  """A checksum of bytes, texts and contents of files, in their order."""
  digest = hashlib.sha256()
  for part in parts:
    raw = part.read_bytes() if isinstance(part, pathlib.Path) else part.encode() if isinstance(part, str) else part
    digest.update(len(raw).to_bytes(8) + raw)  # so that no two lists of parts are one text
  return digest.hexdigest()[:32]


def kept(kind: str, key: str, make: Callable[[], Arrays]) -> Arrays:
  """The arrays that `make` returns: from the cache if it made them before for this key, else made and put there.

  An archive of NumPy, never unpickled. It appears whole or not at all, so that several processes may make it at once. A
  damaged one is made again; a folder that cannot be written is said in the log, and nothing is kept.
  """
  path = folder() / f'{kind}-{key}.npz'
  arrays = read(path)
  if arrays is None:
    arrays = make()
    write(path, arrays)
  return arrays


def read(path: pathlib.Path) -> Arrays | None:
  """The arrays of an archive, never unpickled; None where there is none or, which is said in the log, it is damaged."""
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, ValueError, EOFError, AttributeError, TypeError, KeyError, zipfile.BadZipFile) as error:
    _log.warning('%s is damaged and is made again: %s', path, error)
  return None


def write(path: pathlib.Path, arrays: Mapping[str, Any]):
  """Writes an archive whole or not at all; a folder that cannot be written is said in the log."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.stem}-{secrets.token_hex(4)}.part')
    try:
      with part.open('xb') as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
    finally:
      part.unlink(missing_ok=True)
  except OSError as error:
    _log.warning('%s cannot be kept for the next run: %s', path, error)


def packed(content) -> np.ndarray:
  """What JSON can hold, as an array of its bytes."""
  return np.frombuffer(json.dumps(content, ensure_ascii=False).encode(), np.uint8)


def unpacked(array: np.ndarray):
  """What `packed` was given, tuples as lists."""
  return json.loads(array.tobytes())
