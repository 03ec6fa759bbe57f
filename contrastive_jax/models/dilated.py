"""Dilated convolutions over time: an encoder of series whose every step sees exponentially far."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.models import options
from contrastive_jax.models.encoder import Encoder, from_module
from contrastive_jax.models.options import Fields
from contrastive_jax.types import Refusal


class Dilated(nn.Module):
  """A linear map of every step, then residual blocks of two dilated convolutions, the last as wide as the features."""

  width: int
  depth: int
  features: int
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, 'b t f'], *, train: bool, pooled: bool = True) -> Float[Array, 'b ...']:
    """The features of a batch, the maximum over time, or those of every step."""
    fields: Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    if x.ndim != 3:
      raise Refusal(f'series [b, t, f] are needed, an array of shape {list(x.shape)} was given')
    x = nn.Dense(self.width, name='input', **fields)(x)
    for i, width in enumerate([self.width] * self.depth + [self.features]):
      rest = x if x.shape[-1] == width else nn.Dense(width, name=f'rest_{i}', **fields)(x)
      for j in range(2):
        x = nn.Conv(width, (3,), kernel_dilation=(2**i,), name=f'conv_{i}_{j}', **fields)(nn.gelu(x))
      x = x + rest
    return x.astype(self.param_dtype).max(1) if pooled else x


def make(*, width: int = 64, depth: int = 10, features: int = 320, dtype: str = 'float32') -> Encoder:
  """The encoder of TS2Vec (Yue et al., 2022), which AutoTCL builds on, without its masks of timestamps.

  Block i has two convolutions of three steps, 2^i apart, each after a GELU, and a residual connection; the last block
  has the width of the features. Series may be of any length; outside of them are zeros. `map` gives the features of
  every step, `[b, t, d]`, of which `apply` takes the maximum over time.

  Args:
    width: of the steps in all blocks but the last.
    depth: blocks besides the last; each doubles what a step sees.
    features: width of the features.
    dtype: of the computation: 'float32', 'bfloat16' or 'float64'.

  Raises:
    Refusal: an unknown dtype, a size that is not a positive integer; `init` and `apply`: what is no series [b, t, f].
  """
  options.sizes(width=width, depth=depth, features=features)
  module = Dilated(width, depth, features, **options.precision(dtype))
  return from_module(module, per_example=True, stochastic=False, mapped=True)
