"""Splits of captioned images, already embedded: noisy copies of one cloud."""

import numpy as np

from contrastive_jax.types import Embedded, Texts


def unit(x):
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def split(n=40, k=3, d=8, seed=0, noise=0.7, missing=0.0, concepts=None, shift=0.0):
  """n images with captions in k slots; more noise in later ones, and a share of them missing."""
  random = np.random.default_rng(seed)
  cloud = random.standard_normal((n, d))
  x = unit(cloud + 0.3 * random.standard_normal((n, d)))
  spread = noise * (1 + np.arange(k))[None, :, None] / k
  t = unit(cloud[:, None] + spread * random.standard_normal((n, k, d)) + shift)
  mask = random.random((n, k)) >= missing
  t[~mask] = 0
  concept = np.arange(n) if concepts is None else random.integers(0, concepts, n)
  label = random.integers(0, 4, n).astype(np.int32)
  slots = tuple(('en', 'de', 'ja', 'zh', 'sw')[:k])
  index = np.arange(n, dtype=np.int32)
  return Embedded(x, x, label, index, Texts(t, mask, slots), concept.astype(np.int32))


class Fixed:
  """`embed` of given splits, with a text tower that knows given strings."""

  def __init__(self, label_names=(), strings=None, **splits):
    self.label_names, self._strings, self._splits = label_names, strings or {}, splits

  def __call__(self, split, view=None):
    return self._splits[split]

  def texts(self, strings):
    return np.stack([self._strings[each] for each in strings])
