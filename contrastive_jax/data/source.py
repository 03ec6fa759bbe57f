"""What a source is, and what sources share: the splits, a random order that never changes, statistics of images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from contrastive_jax.data.captions import Captions
from contrastive_jax.types import Refusal, nearest

SPLITS = ('train', 'test')
TEST_PART = 0.2  # of sets that come without a test split
SPLIT_SEED = 0
READ_AT_ONCE = 4096  # rows, when labels are gathered
MEASURED_ROWS = 1024  # rows of a set on disk that are read to measure it


class Source(NamedTuple):
  """One split of a data set of images, or of what else is one of `types.INPUTS`."""

  name: str
  split: str
  num_examples: int
  read: Callable[[np.ndarray], dict[str, np.ndarray]]  # rows [b] -> the input [b, ...], label int32 [b], ...
  input_shape: tuple[int, ...]  # of one input: [h, w, c] of an image, [t, f] of a series, [f] of a vector
  label_names: tuple[str, ...]  # empty where classes have no names
  mean: tuple[float, ...]  # per channel, in [0, 1] units, of the training split
  std: tuple[float, ...]
  captions: Captions | None = None  # of a source whose examples have some
  input: str = 'image'  # the raw field that views are made of


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  """A random order of 0..size-1, int32 [size]: the same for the same arguments on any machine, for ever.

  Raw bits are sorted because NumPy promises the stream of a bit generator, but not that of `Generator.permutation`.
  """
  bits = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(size)
  return np.argsort(bits, kind='stable').astype(np.int32)


def measure(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation per channel: of uint8 images [n, h, w, c] in [0, 1] units (std at least 1/255).

  Of floating-point inputs [n, ..., f] in their own; of a channel that never changes the standard deviation is 1.
  """
  if images.dtype != np.uint8:
    flat = images.reshape(-1, images.shape[-1]).astype(np.float64)
    spread = flat.std(0)
    return tuple(flat.mean(0).tolist()), tuple(np.where(spread > 0, spread, 1.0).tolist())
  values = np.arange(256) / 255
  mean, std = [], []
  for channel in range(images.shape[3]):
    # Counting values needs no copy of the images in floating point.
    parts = np.array_split(images[..., channel], 1 + len(images) // 4096)
    counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in parts], axis=0)
    mean.append(float(counts @ values / counts.sum()))
    std.append(float(max(np.sqrt(counts @ (values - mean[-1]) ** 2 / counts.sum()), 1 / 255)))
  return tuple(mean), tuple(std)


def labels(source: Source) -> np.ndarray:
  """The label of every row, int32 [n], which are read once, in pieces."""
  starts = range(0, source.num_examples, READ_AT_ONCE)
  parts = [np.arange(start, min(start + READ_AT_ONCE, source.num_examples), dtype=np.int32) for start in starts]
  return np.concatenate([source.read(part)['label'] for part in parts])


def in_memory(name, split, images, labels, label_names, train, *, input: str = 'image') -> Source:
  """A source whose images (or other input) and labels are arrays; `train` are those of training, which are measured."""

  def read(indices):
    return {input: images[indices], 'label': labels[indices]}

  return Source(name, split, len(images), read, images.shape[1:], label_names, *measure(train), input=input)


def sample(size: int) -> np.ndarray:
  """The rows of a set on disk that are read to measure it, spread over it."""
  return np.linspace(0, size - 1, min(MEASURED_ROWS, size)).astype(int)


def check_split(split: str):
  """Refuses what is no split."""
  if split not in SPLITS:
    raise Refusal(f"unknown split '{split}'{nearest(split, SPLITS)}")
