"""`sirl`: an encoder alone, trained on answers to "which two of these three are alike?" (SIRL)."""

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import VIEW, Refusal

GLOSSARY = {'agreement': 'share of queries of which the encoder, too, has the two that are alike nearest to each other'}
_OTHERS = ('partner', 'odd')


def make(encoder: Encoder, info: Info, *, margin: float = 1.0) -> Method:
  """A method of one encoder, of which the loss and evaluators see the output itself, not scaled to unit norm.

  Batches are queries: view 0 is one of the two that are alike, the raw field `partner` the other, `odd` the third.
  Both must be what an encoder may see: of a source whose statistics are 0 and 1, with the views `unaltered`.

  Args:
    encoder: trajectories to embeddings; about as wide as the features that people look at.
    info: of the run: how many views there are.
    margin: of `losses.similarity_query`.

  Raises:
    Refusal: several views; by the first step, for data without queries and for a negative margin.

  Source: Bobu et al., 2023.
  """
  if info.num_views != 1:
    raise Refusal(f'queries are of three examples: config.data.num_views=1 is needed, but it is {info.num_views}')
  tower = towers.stack(encoder=encoder)

  def init(key, batch):
    params, stats = tower.init(key, batch['view_0'])
    return params, {'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    if not {*_OTHERS} <= {*batch}:
      raise Refusal(
        "the method learns from queries, fields 'partner' and 'odd' of the data, as source 'paths' has them"
      )
    three = {'index': batch['index'], f'{VIEW}0': batch['view_0']}
    three |= {f'{VIEW}{v}': batch[name] for v, name in enumerate(_OTHERS, 1)}
    (h,), stats = towers.of_views(tower, params, state['stats'], three, key=key, train=train)
    return {'h': h}, {**state, 'stats': stats}

  def objective(params, state, features, batch, *, key, step):
    p, q, odd = features['h'].swapaxes(0, 1)
    values = losses.similarity_query(p, q, odd, margin=margin)
    near, *far = (jnp.square(a - b).sum(-1) for a, b in ((p, q), (p, odd), (q, odd)))
    return Output(values.mean(), state, {'agreement': (near < jnp.minimum(*far)).mean()})

  return Method(init, encode, objective, towers.embedding(tower), per_example=tower.per_example)
