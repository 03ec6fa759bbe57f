"""What methods of cells share: towers over the encoder's map, and which cells of two views are compared."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from contrastive_jax import losses
from contrastive_jax.methods import towers
from contrastive_jax.methods.towers import Tower
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import BOX, Batch, Refusal

GLOSSARY = {
  'positive_similarity': 'mean cosine of predictions and targets over cells of two views that lie at the same place',
  'target_spread': 'standard deviation of the unit-norm targets over all cells of a batch, times the root of their '
  'width: near 1 where they spread, 0 where they have collapsed',
  'overlap': 'share of pairs of views that have cells at the same place',
}


def check_positive(**options: float):
  """Refuses options of a method that are not positive."""
  for name, value in options.items():
    if not value > 0:
      raise Refusal(f'config.method.{name} must be > 0, but it is {value}')


def tower(encoder: Encoder, *branches: dict[str, Encoder]) -> Tower:
  """The encoder's map `[n, h, w, c]`, and branches of networks that each begin there; outputs in this order.

  Networks [n, d] -> [n, e] are applied to every cell by itself, as convolutions 1 x 1 are. Their batch norms see all
  cells of a batch.

  Raises:
    Refusal: an encoder that has no map.
  """
  if encoder.map is None:
    raise Refusal(
      'the method compares cells of feature maps, and this encoder has none: config.encoder must be a convnet (without '
      'features), resnet or vit'
    )
  of_map, stacks = encoder.map, [towers.stack(**{k: _on_cells(each) for k, each in b.items()}) for b in branches]

  def init(key, x):
    own, *keys = jax.random.split(key, 1 + len(stacks))
    of_encoder, of_stats = encoder.init(own, x)
    out, _ = jax.eval_shape(of_map, of_encoder, of_stats, x)
    params, stats = {'encoder': of_encoder}, {'encoder': of_stats}
    for stack, own in zip(stacks, keys, strict=True):
      of_stack, of_stats = stack.init(own, jnp.zeros(out.shape, out.dtype))
      params, stats = params | of_stack, stats | of_stats
    return params, stats

  def apply(params, stats, x, *, keys=None, train=False):
    maps, of_encoder = of_map(params['encoder'], stats['encoder'], x, keys=keys, train=train)
    outputs, stats = [maps], {**stats, 'encoder': of_encoder}
    for stack in stacks:
      out, stats = stack.apply(params, stats, maps, train=train)
      outputs += out
    return tuple(outputs), stats

  names = ('encoder', *(name for stack in stacks for name in stack.names))
  per_example = encoder.per_example and all(stack.per_example for stack in stacks)
  return Tower(names, init, apply, per_example)


def _on_cells(network: Encoder) -> Encoder:
  """A network of rows, of every cell of a map."""

  def init(key, x):
    return network.init(key, x.reshape(-1, x.shape[-1]))

  def apply(params, stats, x, *, keys=None, train=False):
    y, stats = network.apply(params, stats, x.reshape(-1, x.shape[-1]), train=train)
    return y.reshape(*x.shape[:-1], -1), stats

  return Encoder(init, apply, network.per_example)


def embedding(encoder: Encoder, of_cells: Tower):
  """`Method.embed`: the encoder's own features, pooled, and the mean over cells of the first network on the map."""

  def embed(params, state, batch):
    stats, x = state['stats'], batch['view_0']
    features, _ = encoder.apply(params['encoder'], stats['encoder'], x)
    (_, g, *_), _ = of_cells.apply(params, stats, x)
    return {'features': features, 'projection': losses.unit(g.mean((1, 2)))}

  return embed


class Compared(NamedTuple):
  """The cells of two views of each image, of which the first predicts the second."""

  x: Float[Array, 'b p d']  # unit norm
  y: Float[Array, 'b p d']  # unit norm, constant
  mask: Bool[Array, 'b p p']


def compared(
  prediction: Float[Array, 'b v h w d'], target: Float[Array, 'b v h w d'], batch: Batch, *, threshold: float
) -> list[Compared]:
  """Every ordered pair of different views.

  Raises:
    Refusal: fewer than two views; predictions of another width than the targets; views that do not tell where they
      were cut.
  """
  if f'{BOX}0' not in batch:
    raise Refusal(
      'the method pairs cells by where views were cut, which these views do not tell: choose others in '
      'config.data.views, byol or garments say'
    )
  views, *shape, wide = prediction.shape[1:]
  if views < 2:
    raise Refusal(f'the method compares 2 views of an example, but config.data.num_views={views}')
  if wide != target.shape[-1]:
    raise Refusal(f'the predictor must be as wide as the head ({target.shape[-1]}), but it is {wide} wide')
  p, k = (losses.unit(z.reshape(*z.shape[:2], -1, wide)) for z in (prediction, jax.lax.stop_gradient(target)))

  def pair(v: int, w: int) -> Compared:
    mask = losses.pair_mask(batch[f'{BOX}{v}'], batch[f'{BOX}{w}'], (shape[0], shape[1]), threshold=threshold)
    return Compared(p[:, v], k[:, w], mask)

  return [pair(v, w) for v, w in itertools.permutations(range(views), 2)]


def metrics(pairs: list[Compared]) -> dict[str, Array]:
  """Those of the glossary."""
  there = jnp.stack([pair.mask.any((1, 2)) for pair in pairs])
  similarity = -jnp.stack([losses.pix_pro(*pair) for pair in pairs])
  targets = jnp.stack([pair.y for pair in pairs])
  return {
    'positive_similarity': losses.mean(similarity, there),
    'target_spread': targets.std((0, 1, 2)).mean() * targets.shape[-1] ** 0.5,
    'overlap': there.mean(dtype=targets.dtype),
  }
