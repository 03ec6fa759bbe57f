"""Prototypes of methods that assign instances to them: vectors of unit norm, and what crops have to do with them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from contrastive_jax import losses
from contrastive_jax.types import Refusal

GLOSSARY = {
  'positive_similarity': 'mean cosine of the first and the last crop of an example, after the head',
  'code_entropy': 'mean entropy in nats of what crops have to predict: the loss cannot fall below it',
  'code_usage': 'entropy of the mean of what crops have to predict over a batch, as a share of log K: 1 where all '
  'prototypes are used alike, 0 where only one is',
  'prediction_usage': 'the same of the predictions: far below code_usage where they collapse to few prototypes',
}


def check_at_least_0(**options: float):
  """Refuses what is below 0 of these options of `method`."""
  for name, value in options.items():
    if not value >= 0:
      raise Refusal(f'config.method.{name} must be at least 0, but it is {value}')


def init(key: Key[Array, ''], count: int, features: int) -> Float[Array, 'k d']:
  """Random directions.

  Raises:
    Refusal: fewer than two prototypes.
  """
  if count < 2:
    raise Refusal(f'config.method.prototypes must be at least 2, but it is {count}')
  return losses.unit(jax.random.normal(key, (count, features)))


def scores(z: Float[Array, 'v b d'], prototypes: Float[Array, 'k d']) -> Float[Array, 'v b k']:
  """Inner products, in float32 on every device."""
  return jnp.einsum('vbd,kd->vbk', z, prototypes, precision='highest')


def frozen(prototypes: Float[Array, 'k d'], where) -> Float[Array, 'k d']:
  """Prototypes that get no gradient while `where` holds.

  The optimiser is handed zeros: they leave its moments at zero, and of steps it takes none but that of its decay.
  """
  return jnp.where(where, jax.lax.stop_gradient(prototypes), prototypes)


def crops(g: Float[Array, 'b v d']) -> Float[Array, 'v b d']:
  """Unit-norm projections, crops first.

  Raises:
    Refusal: fewer than two crops.
  """
  if g.shape[1] < 2:
    raise Refusal(
      'the method compares 2 crops of an example, but config.data.num_views=1 and config.data.num_small_views=0'
    )
  return jnp.swapaxes(losses.unit(g), 0, 1)


def _entropy(p):
  return -jax.scipy.special.xlogy(p, p).sum(-1)


def metrics(z: Float[Array, 'v b d'], codes: Float[Array, 'a b k'], logits: Float[Array, 'v b k']) -> dict[str, Array]:
  """The metrics of `GLOSSARY`; `logits` are those of the predictions."""
  most = jnp.log(codes.shape[2])
  return {
    'positive_similarity': (z[0] * z[-1]).sum(-1).mean(),
    'code_entropy': _entropy(codes).mean(),
    'code_usage': _entropy(codes.mean((0, 1))) / most,
    'prediction_usage': _entropy(jax.nn.softmax(logits, -1).mean((0, 1))) / most,
  }
