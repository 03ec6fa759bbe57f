"""Text transformer: tokens to features, behind learned positions (Vaswani et al., 2017; Radford et al., 2021)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax.models import options, vit
from contrastive_jax.models.encoder import Encoder, from_module
from contrastive_jax.models.options import Fields
from contrastive_jax.types import Refusal

PADDING = 0  # the token that stands for none


def _attendable(present: Bool[Array, 'b t'], causal: bool) -> Bool[Array, 'b 1 t t']:
  """Which token each token attends to: those that are there, with `causal` only itself and those before it."""
  mask = jnp.broadcast_to(present[:, None, None, :], (present.shape[0], 1, present.shape[1], present.shape[1]))
  return mask & jnp.tril(jnp.ones(mask.shape[-2:], bool)) if causal else mask


def _mean(present: Bool[Array, 'b t'], dtype) -> Float[Array, 'b t']:
  weights = present.astype(dtype)
  return weights / jnp.maximum(weights.sum(1, keepdims=True), 1)


def _last(present: Bool[Array, 'b t'], dtype) -> Float[Array, 'b t']:
  after = jnp.flip(jnp.cumsum(jnp.flip(present, 1), 1), 1)  # tokens from here to the end
  return (present & (after == 1)).astype(dtype)


# What each token counts for in the features, by pool; the others pool in ways of their own.
_WEIGHTS = {'mean': _mean, 'last': _last}
POOLS = ('attention', 'class', *_WEIGHTS)


class Text(nn.Module):
  """Embedding, learned positions, blocks, norm, pooling."""

  vocab_size: int
  variant: vit.Variant
  pool: str
  causal: bool
  dropout: float
  stochastic_depth: float
  remat: bool
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Int[Array, 'b l'], *, train: bool) -> Float[Array, 'b d']:
    """The features of a batch."""
    fields: Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    present = x != PADDING
    embedding = nn.Embed(
      self.vocab_size, self.variant.width, embedding_init=nn.initializers.normal(0.02), name='tokens', **fields
    )
    x = embedding(x) + self._positions(x.shape[1]).astype(self.dtype)
    if self.pool == 'class':  # behind the others, so that it attends to all of them with `causal` too
      token = self.param('class_token', nn.initializers.zeros, (1, 1, self.variant.width), self.param_dtype)
      x = jnp.concatenate([x, jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, x.shape[2]))], axis=1)
      present = jnp.pad(present, ((0, 0), (0, 1)), constant_values=True)
    x = vit.blocks(
      x,
      train,
      _attendable(present, self.causal),
      variant=self.variant,
      dropout=self.dropout,
      stochastic_depth=self.stochastic_depth,
      remat=self.remat,
      fields=fields,
    )
    if self.pool == 'class':
      return x[:, -1]
    if self.pool == 'attention':
      return self._attention(x, present, fields)
    return jnp.where(present[:, :, None], x * _WEIGHTS[self.pool](present, x.dtype)[:, :, None], 0).sum(1)

  def _positions(self, length: int) -> Float[Array, 'l d']:
    """Those of the first places; there are as many as the text had tokens that the parameters were made for."""
    there = self.get_variable('params', 'positions').shape[0] if self.has_variable('params', 'positions') else length
    if length > there:
      raise Refusal(f'this text encoder was initialised with {there} tokens, but a text of {length} was given')
    shape = there, self.variant.width
    return self.param('positions', nn.initializers.normal(0.01), shape, self.param_dtype)[:length]

  def _attention(self, x: Float[Array, 'b l d'], present: Bool[Array, 'b l'], fields: Fields) -> Float[Array, 'b d']:
    """What a learned query finds; nothing where no token is there."""
    query = self.param('query', nn.initializers.xavier_uniform(), (1, 1, x.shape[2]), self.param_dtype)
    query = jnp.broadcast_to(query, (x.shape[0], 1, x.shape[2]))
    found = vit.attention(self.variant.heads, 'pool', fields)(query, x, mask=present[:, None, None, :])[:, 0]
    return jnp.where(present.any(1, keepdims=True), found, 0)


def make(
  *,
  vocab_size: int,
  width: int = 192,
  depth: int = 12,
  heads: int = 3,
  pool: str = 'mean',
  causal: bool = False,
  dropout: float = 0.0,
  stochastic_depth: float = 0.0,
  remat: bool = False,
  dtype: str = 'float32',
) -> Encoder:
  """Transformer on tokens: int32 [b, L], of which 0 is padding, to features [b, width].

  The blocks are those of `vit`, its size by default that of the variant 'ti'; the text tower of CLIP (Radford et al.,
  2021) has width=512, depth=12, heads=8, pool='last', causal=True. Padding is never attended to and never pooled, so
  more of it changes nothing. Texts may have any number of tokens up to that of the batch that `init` was given.

  Args:
    vocab_size: number of tokens, the padding included; ids are 0 ... vocab_size - 1, another id gives nan.
    width: of the tokens and the features.
    depth: number of blocks.
    heads: of attention; divides the width.
    pool: 'mean' over the tokens; 'last', the last that is no padding; 'class', a learned token behind them;
      'attention', a learned query that attends to them (Zhai et al., 2022, without its perceptron). A text that is all
      padding has features 0, but for 'class' those of the learned token.
    causal: a token attends to itself and to those before it only.
    dropout: as of `vit`.
    stochastic_depth: as of `vit`.
    remat: as of `vit`.
    dtype: of the computation: 'float32', 'bfloat16' or 'float64'. Norms and softmax are never below float32.

  Raises:
    Refusal: an unknown pool or dtype, a size that is not a positive integer, heads that do not divide the width, a
      probability outside of [0, 1); `init` and `apply`: inputs that are not integers [b, L]; `apply`: longer texts than
      that of `init`.
  """
  options.choice('pool', pool, POOLS)
  options.sizes(vocab_size=vocab_size, width=width, depth=depth, heads=heads)
  options.rates(dropout=dropout, stochastic_depth=stochastic_depth)
  if width % heads:
    raise Refusal(f'heads={heads} does not divide width={width}')
  variant = vit.Variant(width, depth, heads)
  module = Text(vocab_size, variant, pool, causal, dropout, stochastic_depth, remat, **options.precision(dtype))
  return from_module(module, per_example=True, stochastic=dropout > 0 or stochastic_depth > 0, check=options.tokens)
