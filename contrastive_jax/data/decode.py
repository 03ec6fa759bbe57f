"""Encoded pictures to arrays of one shape, with Pillow, in threads."""

import concurrent.futures
import functools
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from contrastive_jax.types import Refusal

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
THREADS = min(16, os.cpu_count() or 1)


def check_size(image_size: int | None):
  """Refuses a side that is no positive number of pixels; None keeps images as they are."""
  if image_size is not None and image_size < 1:
    raise Refusal(f'image_size is {image_size}; at least 1 pixel is needed')


def pixels(
  file: IO[bytes] | pathlib.Path | str,
  channels: int,
  image_size: int | None = None,
  formats: tuple[str, ...] | None = None,
) -> np.ndarray:
  """The picture of a file, uint8 [h, w, channels].

  Args:
    file: JPEG, PNG or whatever else Pillow reads; its first picture where it has several.
    channels: 1 (grey), 3 (colour) or 4 (with opacity).
    image_size: pixels; the short side is resized to it (bicubic, antialiased; JPEG decoded at a reduced scale where
      that suffices) and the centre cropped to a square. None keeps the picture's size.
    formats: Pillow's names of those to read; None is all. Some run programs (EPS): not for pictures of strangers.

  Raises:
    OSError, SyntaxError, ValueError, EOFError: what Pillow raises on files that it cannot read.
    Image.DecompressionBombError: a picture of more than 179 million pixels.
  """
  mode = MODES[channels]
  with Image.open(file, formats=formats) as opened:
    if image_size is not None:
      opened.draft(mode, (image_size, image_size))
    picture = opened.convert(mode)
  if image_size is not None and picture.size != (image_size, image_size):
    picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
  return np.asarray(picture).reshape(picture.height, picture.width, channels)


def in_threads(function: Callable, items: Iterable) -> list:
  """`[function(item) for item in items]`, several at a time: Pillow decodes without holding the interpreter."""
  return list(_pool().map(function, items))


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
  return concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix='decode')
