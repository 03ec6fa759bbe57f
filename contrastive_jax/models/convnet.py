"""Small convolutional net for small images, cheap to train on a CPU."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.models import norm as norms
from contrastive_jax.models import options
from contrastive_jax.models.encoder import Encoder, from_module
from contrastive_jax.models.options import Fields

POOLS = {'mean': lambda x: x.mean(axis=(1, 2)), 'flatten': lambda x: x.reshape(x.shape[0], -1)}


def gathered_convolution(
  x: Float[Array, 'b h w c'],
  kernel: Float[Array, 'k k c d'],
  strides: tuple[int, int],
  padding: Sequence[tuple[int, int]],
  **_: Any,
) -> Float[Array, 'b h2 w2 d']:
  """A strided convolution as one matrix product over gathered windows; the convolution primitive of `nn.Conv`.

  Same values as `lax.conv_general_dilated`. XLA's gradients of strided convolutions are slow on a CPU: forward and
  backward through this is 1.1 to 4 times faster there, for (k / stride)^2 times the memory of the input.
  """
  size, stride = kernel.shape[0], strides[0]
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = ((side - size) // stride + 1 for side in x.shape[1:3])

  def shifted(i, j):
    return x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]

  windows = jnp.concatenate([shifted(i, j) for i in range(size) for j in range(size)], axis=-1)
  return windows @ kernel.reshape(-1, kernel.shape[-1])


class ConvNet(nn.Module):
  """Strided convolutions, each with norm and ReLU; pooling; optionally a dense layer."""

  widths: tuple[int, ...]
  stride: int
  norm: str
  pool: str
  features: int | None
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool, pooled: bool = True) -> Float[Array, 'b ...']:
    """The features of a batch, or its maps before pooling."""
    fields: Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    options.image(x, smallest=self.stride, reason=f'a stem of stride {self.stride}')
    for i, width in enumerate(self.widths):
      stride = self.stride if i == 0 else 2
      size = max(3, 2 * stride - 1)  # windows overlap, and every pixel is seen
      x = nn.Conv(
        width,
        (size, size),
        (stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        use_bias=self.norm == 'none',
        conv_general_dilated=gathered_convolution,
        name=f'conv_{i}',
        **fields,
      )(x)
      x = nn.relu(norms.layer(self.norm, width, train=train, name=f'norm_{i}', fields=fields)(x))
    if not pooled:
      return x
    x = POOLS[self.pool](x.astype(self.param_dtype))
    return x if self.features is None else nn.Dense(self.features, name='dense', **fields)(x)


def make(
  *,
  widths: tuple[int, ...] = (32, 64, 128),
  stride: int = 2,
  norm: str = 'group',
  pool: str = 'mean',
  features: int | None = None,
  dtype: str = 'float32',
) -> Encoder:
  """Small convolutional net: one strided convolution a stage, each followed by norm and ReLU, then pooling.

  Works on any image at least as large as the stride, also where a stage has a single position left; made for
  8x8x1 to 64x64x3.

  Args:
    widths: channels of the stages. The first has `stride`, every other stride 2.
    stride: of the first stage: 2 for images of 8 to 32 pixels, 4 above (three times cheaper). Kernels are 3x3 for
      strides 1 and 2, 2 * stride - 1 above.
    norm: 'group' (16 channels a group), 'none', 'layer' or 'batch'.
    pool: 'mean' over positions (the features' width is the last of the widths), or 'flatten', which keeps the
      positions (fixes the size of the images; useful for 8x8 images).
    features: width of a last dense layer; None is no such layer. With one the encoder has no `map`.
    dtype: of the computation: 'float32', 'bfloat16' (slower on a CPU) or 'float64'.

  Raises:
    Refusal: an unknown norm, pool or dtype, a size that is not a positive integer; `init` and `apply`: images that
      are not [b, h, w, c] or smaller than the stride.
  """
  options.sizes(widths=widths, stride=stride, **({} if features is None else {'features': features}))
  options.choice('norm', norm, norms.NORMS)
  options.choice('pool', pool, POOLS)
  module = ConvNet(tuple(widths), stride, norm, pool, features, **options.precision(dtype))
  return from_module(module, per_example=norm != 'batch', stochastic=False, mapped=features is None)
