"""A network that tells of every step of a series how likely it is to be kept, and its factor (AutoTCL)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.models import options
from contrastive_jax.models.dilated import Dilated
from contrastive_jax.models.encoder import Encoder, from_module


class Augmenter(nn.Module):
  """Dilated convolutions, then a linear map of every step."""

  width: int
  depth: int
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, 'b t f'], *, train: bool) -> Float[Array, 'b t g']:
    """Logits of the mask, then of the factor, g = 2 f."""
    fields: options.Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    steps = Dilated(self.width, self.depth, self.width, **fields, name='steps')(x, train=train, pooled=False)
    return nn.Dense(2 * x.shape[-1], name='output', **fields)(steps).astype(self.param_dtype)


def of_series(*, width: int = 16, depth: int = 3, dtype: str = 'float32') -> Encoder:
  """The augmentation network of AutoTCL (Zheng et al., 2024): series [b, t, f] to logits [b, t, 2 f].

  The first half are those of a mask, the second those of a factor, of every step and feature.

  Args:
    width: of the steps in all blocks.
    depth: blocks of dilated convolutions besides the last.
    dtype: of the computation, as of the encoders.

  Raises:
    Refusal: an unknown dtype, a size that is not a positive integer; `init` and `apply`: what is no series [b, t, f].
  """
  options.sizes(augmenter_width=width, augmenter_depth=depth)
  return from_module(Augmenter(width, depth, **options.precision(dtype)), per_example=True, stochastic=False)
