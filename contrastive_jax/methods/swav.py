"""`swav`: crops predict each other's soft assignment to prototypes, which uses all prototypes alike (SwAV)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import queue
from contrastive_jax.methods import prototypes as clusters
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder

GLOSSARY = clusters.GLOSSARY


def _branches(tower: towers.Tower, views: int, prototypes: int, queue_size: int):
  """The `init` and `encode` slots: projections of all crops."""

  def init(key, batch):
    of_tower, of_prototypes, of_queue = jax.random.split(key, 3)
    params, stats = tower.init(of_tower, batch['view_0'])
    (_, g), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
    state: dict[str, Any] = {'stats': stats}
    if queue_size:
      state['queue'] = tuple(queue.init(key, queue_size, g.shape[1]) for key in jax.random.split(of_queue, views))
    return {**params, 'prototypes': clusters.init(of_prototypes, prototypes, g.shape[1])}, state

  def encode(params, state, batch, *, key, step, train):
    (_, g), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    return {'g': g}, {**state, 'stats': stats}

  return init, encode


def _codes(assign, scores, prototypes, bank: queue.Queue, use):
  """The codes of a view's scores `[B, K]`, assigned together with those of its queue where `use` holds."""
  (earlier,) = clusters.scores(bank.values[None], prototypes)
  take_part = jnp.concatenate([jnp.broadcast_to(use, len(earlier)), jnp.ones(len(scores), bool)])
  return assign(jnp.concatenate([earlier, scores]), where=take_part)[len(earlier) :]


def _prediction(assign, views: int, temperature: float, freeze_steps: int, queue_start: int):
  """The `loss` slot: every crop predicts the codes of the views."""

  def of_batch(params, state, features, batch, *, key, step):
    z = clusters.crops(features['g'])
    scores = clusters.scores(z, clusters.frozen(params['prototypes'], step < freeze_steps))
    fixed, prototypes = jax.lax.stop_gradient((scores[:views], params['prototypes']))
    if 'queue' not in state:
      codes = jnp.stack([assign(own) for own in fixed])
    else:
      banks = state['queue']
      full = step - queue_start >= -(-len(banks[0].values) // z.shape[1])  # filled since it began to
      codes = jnp.stack([_codes(assign, own, prototypes, bank, full) for own, bank in zip(fixed, banks, strict=True)])
      state = {**state, 'queue': tuple(queue.push(bank, own) for bank, own in zip(banks, z, strict=False))}
    values = losses.swapped_prediction(scores, codes, temperature=temperature)
    return Output(values.mean(), state, clusters.metrics(z, codes, scores / temperature))

  return of_batch


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  prototypes: int = 3000,
  temperature: float = 0.1,
  eps: float = 0.05,
  iterations: int = 3,
  freeze_steps: int = 313,
  queue_size: int = 0,
  queue_start: float = 15.0,
) -> Method:
  """SwAV: the codes of each view, from `losses.sinkhorn`, are predicted from all other crops, small views included.

  Prototypes are `params['prototypes']`, [K, D] of unit norm, scaled back after each step. The codes of a view are made
  over the global batch; with a queue, for small batches, over its last embeddings too. Each view has its own queue.

  Args:
    encoder: backbone; of images of every size, where there are small views.
    head: projection head.
    info: of the run: its views, steps an epoch.
    prototypes: K.
    temperature: of the predictions.
    eps: of the codes, which sharpen as it falls.
    iterations: of `losses.sinkhorn`.
    freeze_steps: steps before the prototypes begin to learn.
    queue_size: embeddings of each view that are kept, at least a batch; 0: no queue.
    queue_start: epochs before the queues begin to fill; they are used from when they are full.

  Raises:
    Refusal: fewer than two crops or prototypes; a queue smaller than a batch; a number below 0.

  Source: Caron et al., 2020, with the constants of its code.
  """
  clusters.check_at_least_0(freeze_steps=freeze_steps, queue_size=queue_size, queue_start=queue_start)
  tower = towers.stack(encoder=encoder, head=head)
  init, encode = _branches(tower, info.num_views, prototypes, queue_size)
  assign = functools.partial(losses.sinkhorn, eps=eps, iterations=iterations)
  start = round(queue_start * info.steps_per_epoch)

  def update(params, state, *, step):
    return {**params, 'prototypes': losses.unit(params['prototypes'])}, state

  return Method(
    init,
    encode,
    _prediction(assign, info.num_views, temperature, freeze_steps, start),
    towers.embedding(tower),
    update=update,
    per_example=tower.per_example,
  )
