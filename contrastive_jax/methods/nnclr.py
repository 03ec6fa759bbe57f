"""`nnclr`: the nearest neighbour of one view among earlier embeddings finds the other view (NNCLR)."""

import functools

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import queue
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.similarity import Similarity, top

GLOSSARY = {
  'positive_similarity': 'mean cosine between neighbours and the predictions of other views of the same example',
  'neighbour_similarity': 'mean cosine between an embedding and its nearest neighbour in the queue',
}


def _nearest(z, bank, **folding):
  """The nearest neighbours of rows in a bank, and their mean cosine."""
  ((found, at),), _ = Similarity({'z': z}, {'z': bank}, **folding).reduce([top(1)])
  return bank[at[:, 0]], found.mean()


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  info: Info,
  *,
  temperature: float = 0.1,
  queue_size: int = 98304,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""NNCLR: positives are the nearest neighbours of a view in a queue of earlier embeddings, the support set.

  .. math:: \mathcal{L} = \frac{1}{V(V+S-1)} \sum_{v \le V} \sum_{w \ne v} \mathrm{mean} \;
            \mathrm{InfoNCE} \big( \mathrm{nn}(z_v) \to p_w \big)

  Neighbours get no gradient and are of the V views; p are the predictions, of S small views too. The
  first view's projections go into the queue after the loss.

  Args:
    encoder: backbone.
    head: projection head.
    predictor: its output is as wide as the head's.
    info: of the run: its views.
    temperature: divides similarities.
    queue_size: embeddings that are kept; at least a batch.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: a queue smaller than a batch; a predictor of another width than the head; fewer than two views.

  Source: Dwibedi et al., 2021, eq. 4.
  """
  queue.check_size(queue_size)
  tower = towers.stack(encoder=encoder, head=head, predictor=predictor)
  folding = dict(fold=fold, precision=precision)

  def init(key, batch):
    of_tower, of_queue = jax.random.split(key)
    params, stats = tower.init(of_tower, batch['view_0'])
    (_, g, _), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
    return params, {'stats': stats, 'queue': queue.init(of_queue, queue_size, g.shape[1])}

  def encode(params, state, batch, *, key, step, train):
    (_, g, p), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    return {'prediction': p, 'projection': jax.lax.stop_gradient(g[:, : info.num_views])}, {**state, 'stats': stats}

  def loss(params, state, features, batch, *, key, step):
    p, z, pairs = towers.compared(features['prediction'], features['projection'])
    neighbours, near = jax.lax.map(functools.partial(_nearest, bank=state['queue'].values, **folding), z)
    of_sides = functools.partial(losses.info_nce, temperature=temperature, **folding)
    value = towers.mean_of_pairs(lambda query, neighbour: of_sides(neighbour, query), p, neighbours, pairs)
    metrics = {
      'positive_similarity': jnp.stack([(p[v] * neighbours[w]).sum(-1).mean() for v, w in pairs]).mean(),
      'neighbour_similarity': near.mean(),
    }
    return Output(value, {**state, 'queue': queue.push(state['queue'], z[0])}, metrics)

  return Method(init, encode, loss, towers.embedding(tower), per_example=tower.per_example)
