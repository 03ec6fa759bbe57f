"""`nnclr`: the nearest neighbour of one view among earlier embeddings finds the other view (NNCLR)."""

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import queue
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.similarity import Similarity, top

GLOSSARY = {
  'positive_similarity': 'mean cosine between neighbours and the predictions of other views of the same example',
  'neighbour_similarity': 'mean cosine between an embedding and its nearest neighbour in the queue',
}


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  *,
  temperature: float = 0.1,
  queue_size: int = 98304,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""NNCLR: positives are the nearest neighbours of a view in a queue of earlier embeddings, the support set.

  .. math:: \mathcal{L} = \frac{1}{V(V-1)} \sum_{v \ne w} \mathrm{mean} \;
            \mathrm{InfoNCE} \big( \mathrm{nn}(z_v) \to p_w \big)

  Neighbours get no gradient; p are the predictions. The first view's projections go into the queue after the loss.

  Args:
    encoder: backbone.
    head: projection head.
    predictor: its output is as wide as the head's.
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

  def init(key, batch):
    of_tower, of_queue = jax.random.split(key)
    params, stats = tower.init(of_tower, batch['view_0'])
    (_, g, _), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
    return params, {'stats': stats, 'queue': queue.init(of_queue, queue_size, g.shape[1])}

  def encode(params, state, batch, *, key, step, train):
    (_, g, p), stats = towers.of_views(tower, params, state['stats'], batch, key=key, train=train)
    return {'prediction': p, 'projection': jax.lax.stop_gradient(g)}, {**state, 'stats': stats}

  def nearest(z, bank):
    ((found, at),), _ = Similarity({'z': z}, {'z': bank}, fold=fold, precision=precision).reduce([top(1)])
    return bank[at[:, 0]], found.mean()

  def loss(params, state, features, batch, *, key, step):
    p, z, pairs = towers.compared(features['prediction'], features['projection'])
    neighbours, near = zip(*(nearest(each, state['queue'].values) for each in z), strict=True)
    options = dict(temperature=temperature, fold=fold, precision=precision)
    value = jnp.stack([losses.info_nce(neighbours[v], p[w], **options).mean() for v, w in pairs]).mean()
    metrics = {
      'positive_similarity': jnp.stack([(neighbours[v] * p[w]).sum(-1).mean() for v, w in pairs]).mean(),
      'neighbour_similarity': jnp.stack(near).mean(),
    }
    return Output(value, {**state, 'queue': queue.push(state['queue'], z[0])}, metrics)

  return Method(init, encode, loss, towers.embedding(tower), per_example=tower.per_example)
