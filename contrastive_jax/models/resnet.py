"""Residual networks (He et al., 2016), with the stems and norms of contrastive learning."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from contrastive_jax.models import norm as norms
from contrastive_jax.models import options
from contrastive_jax.models.encoder import Encoder, from_module
from contrastive_jax.models.options import Fields

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # in each of the four stages
BOTTLENECK = (50,)
DOWNSAMPLING = {'imagenet': 32, 'cifar': 8}  # pixels of the image a position of the last stage, by stem
NORMS = ('batch', 'group')


def _conv(width: int, size: int, stride: int, name: str, fields: Fields) -> nn.Conv:
  # Padding is written out: 'SAME' pads strided convolutions on the other side than the published models do.
  return nn.Conv(
    width,
    (size, size),
    (stride, stride),
    padding=[(size // 2, size // 2)] * 2,
    use_bias=False,
    kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
    name=name,
    **fields,
  )


def _norm(
  norm: str, channels: int, train: bool, name: str, fields: Fields, scale_init: Initializer = nn.initializers.ones
) -> Callable:
  # At least two channels a group: 32 groups from 64 channels on.
  return norms.layer(norm, channels, train=train, name=name, fields=fields | {'scale_init': scale_init}, least=2)


class Block(nn.Module):
  """relu(F(x) + shortcut(x)), F of two 3x3 convolutions, or 1x1, 3x3 and 1x1 in a bottleneck."""

  width: int
  stride: int
  bottleneck: bool
  zero_init: bool
  norm: str
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h2 w2 c2']:
    """The maps of the next block."""
    fields: Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    layers: tuple[tuple[int, int, int], ...]
    if self.bottleneck:  # with the stride in the 3x3 convolution ("version 1.5"), as the published weights have it
      layers = ((self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1))
    else:
      layers = ((self.width, 3, self.stride), (self.width, 3, 1))
    y = x
    for i, (width, size, stride) in enumerate(layers):
      last = i == len(layers) - 1
      scale_init = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
      y = _conv(width, size, stride, f'conv_{i}', fields)(y)
      y = _norm(self.norm, width, train, f'norm_{i}', fields, scale_init=scale_init)(y)
      y = y if last else nn.relu(y)
    if x.shape != y.shape:
      x = _conv(y.shape[-1], 1, self.stride, 'shortcut_conv', fields)(x)
      x = _norm(self.norm, y.shape[-1], train, 'shortcut_norm', fields)(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Stem, four stages of residual blocks, mean over positions."""

  depth: int
  stem: str
  norm: str
  width: int
  zero_init_residual: bool
  remat: bool
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool, pooled: bool = True) -> Float[Array, 'b ...']:
    """The features of a batch, or its maps before pooling."""
    fields: Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    options.image(x, smallest=DOWNSAMPLING[self.stem], reason=f"stem '{self.stem}'")
    imagenet = self.stem == 'imagenet'
    x = _conv(self.width, 7 if imagenet else 3, 2 if imagenet else 1, 'stem_conv', fields)(x)
    x = nn.relu(_norm(self.norm, self.width, train, 'stem_norm', fields)(x))
    if imagenet:
      x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block  # 2 is `train`
    for stage, blocks in enumerate(BLOCKS[self.depth]):
      for i in range(blocks):
        x = block(
          width=self.width * 2**stage,
          stride=2 if stage > 0 and i == 0 else 1,
          bottleneck=self.depth in BOTTLENECK,
          zero_init=self.zero_init_residual,
          norm=self.norm,
          name=f'stage_{stage}_block_{i}',
          **fields,
        )(x, train)
    return jnp.mean(x, axis=(1, 2), dtype=self.param_dtype) if pooled else x


def make(
  *,
  depth: int = 18,
  stem: str = 'imagenet',
  norm: str = 'batch',
  width: int = 64,
  zero_init_residual: bool = True,
  remat: bool = False,
  dtype: str = 'float32',
) -> Encoder:
  """Residual network (He et al., 2016) without its classifier: features of width 8 * width, 32 * width at depth 50.

  Args:
    depth: 18, 34 (basic blocks) or 50 (bottlenecks).
    stem: 'imagenet' (7x7 convolution of stride 2 and max pooling, images from 32 pixels on), or 'cifar' (3x3
      convolution of stride 1: Chen et al., 2020a, appendix B.9; images from 8 pixels on).
    norm: 'batch' (over the global batch; the encoder is not per_example) or 'group' (Wu and He, 2018; 32 groups, or
      fewer where a group would have a single channel).
    width: channels of the first stage.
    zero_init_residual: the last norm of each block starts at scale 0, so that the block starts as the identity
      (Goyal et al., 2017).
    remat: the backward pass makes the activations inside of each block again, instead of keeping them (Chen et al.,
      2016): less memory for about a third more computation.
    dtype: of the computation: 'float32', 'bfloat16' or 'float64'. Statistics of the norms are never below float32.

  Raises:
    Refusal: an unknown depth, stem, norm or dtype, a width that is not a positive integer; `init` and `apply`:
      images that are not [b, h, w, c] or are too small for the stem.
  """
  options.choice('depth', depth, BLOCKS)
  options.choice('stem', stem, DOWNSAMPLING)
  options.choice('norm', norm, NORMS)
  options.sizes(width=width)
  module = ResNet(depth, stem, norm, width, zero_init_residual, remat, **options.precision(dtype))
  return from_module(module, per_example=norm != 'batch', stochastic=False, mapped=True)
