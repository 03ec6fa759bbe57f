"""Vision transformer (Dosovitskiy et al., 2021), in the plain form of Beyer et al. (2022) and MoCo v3."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from contrastive_jax.models import options
from contrastive_jax.models.encoder import Encoder, from_module
from contrastive_jax.models.options import Fields
from contrastive_jax.types import Refusal


class Variant(NamedTuple):
  """Size of a transformer; the hidden layer of its perceptrons is four times the width."""

  width: int
  depth: int
  heads: int


VARIANTS = {
  'mu': Variant(32, 1, 2),  # for tests and dry runs
  'ti': Variant(192, 12, 3),
  's': Variant(384, 12, 6),
  'b': Variant(768, 12, 12),
}
POOLS = {'mean': lambda tokens: tokens.mean(axis=1), 'class': lambda tokens: tokens[:, 0]}


def sincos_2d(height: int, width: int, features: int) -> np.ndarray:
  r"""Fixed position embedding [height * width, features] of a grid, rows first.

  .. math:: [\sin(x \omega), \cos(x \omega), \sin(y \omega), \cos(y \omega)],
            \quad \omega_i = 10000^{-i / (d / 4)}, \; i = 0 \dots d / 4 - 1

  Reference: MoCo v3 (Chen et al., 2021), and its code.
  """
  y, x = np.mgrid[:height, :width].reshape(2, -1, 1)
  omega = 10_000.0 ** -(np.arange(features // 4) / (features // 4))
  return np.concatenate([np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)], axis=1)


def attention(heads: int, name: str, fields: Fields) -> nn.MultiHeadDotProductAttention:
  """Attention of several heads, called as `(queries, keys, mask=None)`; its softmax is float32 at least."""
  # JAX's softmax is float32 between bfloat16 products, but float32 in a float64 model too; flax's is in `dtype`.
  attend = nn.dot_product_attention if fields['dtype'] == jnp.float64 else jax.nn.dot_product_attention
  initial = nn.initializers.xavier_uniform()
  return nn.MultiHeadDotProductAttention(heads, attention_fn=attend, kernel_init=initial, name=name, **fields)


class Block(nn.Module):
  """Self-attention, then a two-layer perceptron: each behind its norm and beside a residual connection."""

  heads: int
  dropout: float
  drop_path: float  # probability that an example skips each of the two branches
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b t d'], train: bool, mask: Bool[Array, 'b 1 t t'] | None = None
  ) -> Float[Array, 'b t d']:
    """The tokens for the next block; `mask[i, 0, p, q]` is False where token p must not attend to token q."""
    fields: Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    dense = dict(fields, kernel_init=nn.initializers.xavier_uniform())

    def drop(y):
      y = nn.Dropout(self.dropout, deterministic=not train)(y)
      return nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)(y)

    y = nn.LayerNorm(name='attention_norm', **fields)(x)
    y = attention(self.heads, 'attention', fields)(y, mask=mask)
    x = x + drop(y)
    y = nn.LayerNorm(name='mlp_norm', **fields)(x)
    y = nn.gelu(nn.Dense(4 * x.shape[-1], name='mlp_0', **dense)(y))
    y = nn.Dropout(self.dropout, deterministic=not train)(y)
    return x + drop(nn.Dense(x.shape[-1], name='mlp_1', **dense)(y))


def blocks(
  x: Float[Array, 'b t d'],
  train: bool,
  mask: Bool[Array, 'b 1 t t'] | None = None,
  *,
  variant: Variant,
  dropout: float,
  stochastic_depth: float,
  remat: bool,
  fields: Fields,
) -> Float[Array, 'b t d']:
  """Dropout, the blocks of a transformer and its last norm, as parts of the module that calls it."""
  x = nn.Dropout(dropout, deterministic=not train)(x)
  block = nn.remat(Block, static_argnums=(2,)) if remat else Block  # 2 is `train`
  for i in range(variant.depth):
    drop_path = stochastic_depth * (i + 1) / variant.depth
    x = block(variant.heads, dropout, drop_path, name=f'block_{i}', **fields)(x, train, mask)
  wide = fields['param_dtype']
  return nn.LayerNorm(name='norm', dtype=wide, param_dtype=wide)(x)


class ViT(nn.Module):
  """Patches to tokens, position embedding, blocks, norm, pooling."""

  variant: Variant
  patch: int
  pool: str
  dropout: float
  stochastic_depth: float
  remat: bool
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool, pooled: bool = True) -> Float[Array, 'b ...']:
    """The features of a batch, or the tokens of its patches as maps."""
    fields: Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    width = self.variant.width
    options.image(x, smallest=self.patch, reason=f'patch {self.patch}')
    if x.shape[1] % self.patch or x.shape[2] % self.patch:
      raise Refusal(f'patch {self.patch} does not divide images of {x.shape[1]}x{x.shape[2]} pixels')
    x = nn.Conv(width, (self.patch,) * 2, (self.patch,) * 2, padding='VALID', name='embedding', **fields)(x)
    shape = x.shape
    positions = sincos_2d(shape[1], shape[2], width)
    x = x.reshape(x.shape[0], -1, width) + jnp.asarray(positions, x.dtype)
    if self.pool == 'class':
      token = self.param('class_token', nn.initializers.zeros, (1, 1, width), self.param_dtype)
      x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, width)), x], axis=1)
    x = blocks(
      x,
      train,
      variant=self.variant,
      dropout=self.dropout,
      stochastic_depth=self.stochastic_depth,
      remat=self.remat,
      fields=fields,
    )
    return POOLS[self.pool](x) if pooled else x[:, -shape[1] * shape[2] :].reshape(shape)


def make(
  *,
  variant: str = 'ti',
  patch: int = 16,
  pool: str = 'mean',
  dropout: float = 0.0,
  stochastic_depth: float = 0.0,
  remat: bool = False,
  dtype: str = 'float32',
) -> Encoder:
  """Vision transformer (Dosovitskiy et al., 2021) with fixed sine-cosine positions and without its classifier.

  Args:
    variant: width, depth, heads: 'ti' 192, 12, 3; 's' 384, 12, 6; 'b' 768, 12, 12 (Steiner et al., 2022, table 2);
      'mu' 32, 1, 2 for dry runs. The width is that of the features.
    patch: side of a patch in pixels; divides both sides of the image.
    pool: 'mean' over the tokens (Beyer et al., 2022) or 'class', a learned token beside them (MoCo v3).
    dropout: probability of zeroing a unit after the embedding, after attention and in the perceptrons.
    stochastic_depth: probability that an example skips a branch of the last block; grows linearly from 0 at the
      embedding (Huang et al., 2016).
    remat: the backward pass makes the activations inside of each block again, instead of keeping them (Chen et al.,
      2016): less memory for about a third more computation.
    dtype: of the computation: 'float32', 'bfloat16' or 'float64'. Norms and softmax are never below float32.

  Raises:
    Refusal: an unknown variant, pool or dtype, a patch that is not a positive integer, a probability outside of
      [0, 1); `init` and `apply`: images that are not [b, h, w, c], are smaller than the patch or not divided by it.
  """
  options.choice('variant', variant, VARIANTS)
  options.choice('pool', pool, POOLS)
  options.sizes(patch=patch)
  options.rates(dropout=dropout, stochastic_depth=stochastic_depth)
  module = ViT(VARIANTS[variant], patch, pool, dropout, stochastic_depth, remat, **options.precision(dtype))
  return from_module(module, per_example=True, stochastic=dropout > 0 or stochastic_depth > 0, mapped=True)
