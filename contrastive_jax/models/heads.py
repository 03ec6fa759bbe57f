"""Heads on top of an encoder, [b, d] -> [b, features]: projector, predictor and the identity."""

from contrastive_jax.models import mlp, options
from contrastive_jax.models.encoder import Encoder


def projector(
  *,
  hidden: int | None = None,
  features: int | None = 128,
  layers: int = 2,
  norm: str = 'none',
  norm_last: bool = False,
  bias: bool = True,
  dtype: str = 'float32',
) -> Encoder:
  r"""Projection head g(h) = W2 relu(W1 h), into the space where the loss compares.

  The defaults are the head of SimCLR (Chen et al., 2020a, section 2.1: 2048 hidden units on a ResNet-50, that is
  the width of its features). MoCo v3 (Chen et al., 2021): hidden=4096, features=256, layers=3, norm='batch',
  norm_last=True. SimSiam (Chen and He, 2021): features=2048, layers=3, norm='batch', norm_last=True.

  Args:
    hidden: width of the hidden layers; None is the width of the input.
    features: width of the output; None is the width of the input.
    layers: number of dense layers; 1 is a linear map.
    norm: after each hidden layer, before its ReLU: 'none', 'batch', 'layer' or 'group'.
    norm_last: the same norm, without learned scale and bias, after the last layer too.
    bias: the last layer has a bias (never where a norm follows).
    dtype: of the computation: 'float32', 'bfloat16' or 'float64'.

  Raises:
    Refusal: an unknown norm or dtype, a size that is not a positive integer, norm_last=True without a norm.
  """
  return _head(hidden, features, layers, norm, norm_last, bias, dtype)


def predictor(
  *,
  hidden: int | None = 4096,
  features: int | None = None,
  layers: int = 2,
  norm: str = 'batch',
  norm_last: bool = False,
  bias: bool = True,
  dtype: str = 'float32',
) -> Encoder:
  """Prediction head of methods that predict one branch's projection from the other's; options as in `projector`.

  The defaults are the head of BYOL (Grill et al., 2020, section 3.3), on any width. MoCo v3: norm_last=True.
  SimSiam: hidden=512. Batch norm mixes the examples: norm='layer' or 'group' keeps them apart.
  """
  return _head(hidden, features, layers, norm, norm_last, bias, dtype)


def identity() -> Encoder:
  """The head that changes nothing and has no parameters."""

  def init(key, x):
    return {}, {}

  def apply(params, stats, x, *, keys=None, train=False):
    return x, stats

  return Encoder(init, apply, per_example=True)


def _head(
  hidden: int | None, features: int | None, layers: int, norm: str, norm_last: bool, bias: bool, dtype: str
) -> Encoder:
  options.sizes(layers=layers, **{k: v for k, v in {'hidden': hidden, 'features': features}.items() if v is not None})
  widths = (hidden,) * (layers - 1) + (features,)
  return mlp.build(widths=widths, norm=norm, norm_last=norm_last, bias_last=bias, dropout=0.0, dtype=dtype)
