"""Normalisation layers by name."""

from collections.abc import Callable

import flax.linen as nn

from contrastive_jax.models.options import Fields
from contrastive_jax.types import Array

GROUPS = 32


def _none(channels, *, train, least, name, **_):
  return lambda x: x


def _batch(channels, *, train, least, **fields):
  # Under jit the batch is a global array: these are statistics of the global batch on any mesh.
  return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, **fields)


def _layer(channels, *, train, least, **fields):
  return nn.LayerNorm(**fields)


def _group(channels, *, train, least, **fields):
  return nn.GroupNorm(num_groups=groups(channels, least), **fields)


NORMS = {'none': _none, 'batch': _batch, 'layer': _layer, 'group': _group}


def layer(
  norm: str, channels: int, *, train: bool, name: str, fields: Fields, least: int = 16, affine: bool = True
) -> Callable[[Array], Array]:
  """The layer called `norm`: 'none', 'batch', 'layer' or 'group' (Wu and He, 2018).

  Args:
    norm: a key of `NORMS`.
    channels: size of the last axis of its input.
    train: batch norm uses (and updates) the statistics of the batch instead of the running ones (momentum 0.9).
    least: fewest channels in a group. Statistics over two values, as 32 groups of a narrow [b, d] layer would have,
      keep nothing but a sign; the default is Wu and He's 16 channels.
    affine: learn a scale and a bias.
    name: name of the layer's parameters.
    fields: `dtype`, `param_dtype` and, optionally, `scale_init`.
  """
  return NORMS[norm](channels, train=train, least=least, name=name, use_bias=affine, use_scale=affine, **fields)


def groups(channels: int, least: int) -> int:
  """The most groups, at most 32, that divide the channels into groups of at least `least` (one if none does)."""
  return max((g for g in range(1, GROUPS + 1) if channels % g == 0 and channels // g >= least), default=1)
