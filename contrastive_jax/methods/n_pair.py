"""`n_pair`: views -> encoder -> head, trained on batches of two examples of each class (N-pair)."""

import inspect

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import objective, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = {
  'positive_similarity': 'mean cosine of the two examples of a class, after the head',
  'norm': 'mean norm of the outputs of the head, which the loss takes as they are',
}
_LOSS = 'n_pair'
_PAIR = 2  # examples of a class


def options(**_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of the loss: config keys of `method` besides those of `make`."""
  return objective.options(_LOSS, (_LOSS,))


def make(encoder: Encoder, head: Encoder, info: Info, *, fold='auto', precision: str | None = None, **hyper) -> Method:
  """`losses.n_pair` of the head's outputs, not scaled to unit norm: of each class the first example is the anchor.

  Batches must be of two examples of each class, side by side, and no class twice: what the engine draws where
  `config.data.per_class` is 2. Classes are known by that order alone, so one view is made of each example.

  Args:
    encoder: backbone; its output is what evaluators probe.
    head: projection head.
    info: of the run: how batches are drawn, and how many views there are.
    fold: as of `pair`.
    precision: as of `pair`.
    **hyper: of the loss: `penalty`, `normalize`, `distance`.

  Raises:
    Refusal: batches that are drawn otherwise; several views; a hyper-parameter that the loss does not have or refuses.

  Source: Sohn, 2016.
  """
  if info.per_class != _PAIR:
    raise Refusal(f'the loss is of two examples of each class: config.data.per_class=2, but it is {info.per_class}')
  if info.num_views != 1:
    raise Refusal(f'pairs are of two examples: config.data.num_views=1 is needed, but it is {info.num_views}')
  of_arrays = objective.bound(_LOSS, (_LOSS,), hyper, fold=fold, precision=precision)
  tower = towers.stack(encoder=encoder, head=head)

  def init(key, batch):
    params, stats = tower.init(key, batch['view_0'])
    return params, {'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    (_, g), stats = towers.of_views(tower, params, state['stats'], batch, key=key, train=train)
    return {'g': g[:, 0]}, {**state, 'stats': stats}

  def of_batch(params, state, features, batch, *, key, step):
    pairs = features['g'].reshape(-1, _PAIR, features['g'].shape[1])
    x, y = pairs[:, 0], pairs[:, 1]
    cosine = (losses.unit(x) * losses.unit(y)).sum(-1).mean()
    metrics = {'positive_similarity': cosine, 'norm': jnp.linalg.norm(pairs, axis=-1).mean()}
    return Output(of_arrays(x, y).mean(), state, metrics)

  return Method(init, encode, of_batch, towers.embedding(tower), per_example=tower.per_example)
