"""Multi-layer perceptron: on flattened inputs, and under every projection and prediction head."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.models import norm as norms
from contrastive_jax.models import options
from contrastive_jax.models.encoder import Encoder, from_module
from contrastive_jax.models.options import Fields
from contrastive_jax.types import Refusal, nearest


class Mlp(nn.Module):
  """Dense layers with norm, ReLU and dropout between them; nothing but an optional norm after the last."""

  widths: tuple[int | None, ...]  # None: the width of the input
  norm: str
  norm_last: bool
  bias_last: bool
  dropout: float
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, 'b ...'], *, train: bool) -> Float[Array, 'b d']:
    """The features of a batch."""
    fields: Fields = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
    x = x.reshape(x.shape[0], -1)
    widths = tuple(x.shape[1] if width is None else width for width in self.widths)
    for i, width in enumerate(widths):
      last = i == len(widths) - 1
      normed = self.norm != 'none' and (self.norm_last or not last)
      # Hidden norms bring a bias of their own; the published heads have neither before nor after the last one.
      bias = not normed and (self.bias_last or not last)
      x = nn.Dense(width, use_bias=bias, name=f'dense_{i}', **fields)(x)
      if normed:
        x = norms.layer(self.norm, width, train=train, affine=not last, name=f'norm_{i}', fields=fields)(x)
      if not last:
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
    return x


def build(
  *, widths: tuple[int | None, ...], norm: str, norm_last: bool, bias_last: bool, dropout: float, dtype: str
) -> Encoder:
  """The Encoder of an Mlp, its options checked; None among the widths stands for the width of the input."""
  options.sizes(widths=tuple(1 if width is None else width for width in widths))
  options.choice('norm', norm, norms.NORMS)
  options.rates(dropout=dropout)
  if norm_last and norm == 'none':
    raise Refusal(f'norm_last=True needs a norm{nearest("none", norms.NORMS.keys() - {"none"})}')
  module = Mlp(
    widths=tuple(widths),
    norm=norm,
    norm_last=norm_last,
    bias_last=bias_last,
    dropout=dropout,
    **options.precision(dtype),
  )
  normed = norm_last or len(widths) > 1
  return from_module(module, per_example=not (normed and norm == 'batch'), stochastic=dropout > 0)


def make(
  *,
  widths: tuple[int, ...] = (512, 512, 128),
  norm: str = 'none',
  dropout: float = 0.0,
  dtype: str = 'float32',
) -> Encoder:
  """Multi-layer perceptron on flattened inputs: dense layers, with norm, ReLU and dropout after all but the last.

  Args:
    widths: widths of the layers; the last is the width of the features.
    norm: 'none', 'batch', 'layer' or 'group'.
    dropout: probability of zeroing a hidden unit.
    dtype: of the computation: 'float32', 'bfloat16' or 'float64'.

  Raises:
    Refusal: an unknown norm or dtype, a width that is not a positive integer, a dropout outside of [0, 1), dropout
      with batch norm.
  """
  return build(widths=widths, norm=norm, norm_last=False, bias_last=True, dropout=dropout, dtype=dtype)
