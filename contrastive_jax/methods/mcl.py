"""`mcl`: training in stages, each of whose batches come from one cluster of what the stages before have learned."""

import functools
import inspect

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory.clusters import kmeans
from contrastive_jax.methods import pair
from contrastive_jax.methods.base import Info, Method
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = pair.GLOSSARY


def options(*, loss: str = 'nt_xent', **_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of `make`."""
  return pair.options(loss=loss)


def _ends(info: Info, stages: int, clusters: int) -> tuple[int, ...]:
  """The epochs at whose end a stage ends, but for the last."""
  epochs = info.total_steps // info.steps_per_epoch
  if stages < 1 or clusters < 1:
    raise Refusal(f'stages={stages} and clusters={clusters} must be at least 1')
  if epochs < stages > 1:
    raise Refusal(f'stages={stages} need an epoch each, but the run has {info.total_steps} steps, {epochs} epochs')
  if info.steps_per_epoch < clusters ** (stages - 1):
    raise Refusal(
      f'clusters={clusters} in each of {stages - 1} stages may leave no cluster that fills a batch: an epoch must have '
      f'{clusters ** (stages - 1)} batches, but it has {info.steps_per_epoch}; a smaller batch_size is needed'
    )
  return tuple(round(epochs * k / stages) for k in range(1, stages))


def _of_stage(s: int, stage, live, kept):
  return jnp.where(s < stage, kept[s], live)


def _embedding(host: Method, stages: int):
  """The `embed` slot: what all stages make of a view, side by side."""

  def embed(params, state, batch):
    stage, live = state['stage'], {'params': params, 'stats': state['stats']}
    blocks = []
    for s in range(stages):
      # The stages that are over were kept; the parameters of the one in progress are the run's.
      own = live if s == stages - 1 else jax.tree.map(functools.partial(_of_stage, s, stage), live, state['stages'])
      out = host.embed(own['params'], own, batch)
      blocks.append({name: jnp.where(s <= stage, losses.unit(x), 0) for name, x in out.items()})
    whole = {name: jnp.concatenate([block[name] for block in blocks], axis=1) for name in blocks[0]}
    return {**whole, 'projection': losses.unit(whole['projection'])}

  return embed


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  loss: str = 'nt_xent',
  stages: int = 2,
  clusters: int = 10,
  fold='auto',
  precision: str | None = None,
  **hyper,
) -> Method:
  """Multistage contrastive learning: what is learned already tells no negatives apart, so other features are learned.

  When a stage ends, the projections of the whole training set, as the stage has learned them, are clustered by k-means.
  Each row's pseudo-label is the mixed-radix number of its clusters of all stages so far, y <- y K + c; from then on all
  rows of a batch have one pseudo-label, and so have all negatives. Training goes on from the weights of the stage.
  Features are those of all stages side by side, each of unit norm; the cosine of two projections is the mean of the
  stages' cosines. Stages are equally long, in whole epochs. Later stages train on fewer rows: a cluster that is smaller
  than a batch is left out of them.

  Args:
    encoder: backbone.
    head: projection head.
    info: of the run: rows, steps, epochs.
    loss: name of a public loss, as of `pair`.
    stages: how many; with 1, or with one cluster, it is `pair`.
    clusters: K, of each stage.
    fold: as of `pair`.
    precision: likewise.
    **hyper: the loss's hyper-parameters.

  Raises:
    Refusal: what `pair` refuses; fewer epochs than stages; clusters that may all be smaller than a batch.

  Source: Zhang et al., 2024, "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning". Its code
  makes pseudo-labels of the last stage's clusters alone; here they are of all stages, as the paper says.
  """
  host = pair.make(encoder, head, info, loss=loss, fold=fold, precision=precision, **hyper)
  ends = _ends(info, stages, clusters)

  def init(key, batch):
    params, state = host.init(key, batch)
    live = {'params': params, 'stats': state['stats']}
    kept = jax.tree.map(lambda x: jnp.zeros((stages - 1, *x.shape), x.dtype), live)
    plan = {'group': jnp.zeros(info.num_examples, jnp.int32)}
    return params, {**state, 'plan': plan, 'stage': jnp.zeros((), jnp.int32), 'stages': kept if stages > 1 else {}}

  def refresh(params, state, embed_all, *, key, step):
    epoch = step // info.steps_per_epoch
    if epoch not in ends:
      return state
    stage = ends.index(epoch)
    own = jnp.split(jnp.asarray(embed_all('train').projection), stages, axis=1)[stage]
    group = state['plan']['group'] * clusters + kmeans(losses.unit(own), num_clusters=clusters, key=key).labels
    live = {'params': params, 'stats': state['stats']}
    kept = jax.tree.map(lambda all_, x: all_.at[stage].set(x), state['stages'], live)
    return {**state, 'plan': {'group': group}, 'stage': jnp.int32(stage + 1), 'stages': kept}

  return host._replace(init=init, embed=_embedding(host, stages), refresh=refresh)
