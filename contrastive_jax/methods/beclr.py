r"""`beclr`: BYOL with a term of uniformity, and a memory whose neighbours join the batch (BECLR).

.. math:: \mathcal{L} = -\tfrac12 \, \mathrm{mean} \big( p_1^\top \mathrm{stop}(t_2) + p_2^\top \mathrm{stop}(t_1)
          \big) + \lambda \log \mathrm{mean}_a \, e^{e_a}

With e of `losses.instance_energy` of the student's projections, p its predictions, t the teacher's projections, two
views. Each of the three has a memory, a queue in clusters: embeddings of both views go in with the prototype that
optimal transport assigns them, prototypes are the means of their embeddings, and clusters are found anew by k-means at
the end of an epoch, first when the queue has filled. From then on, and from `memory_epochs`, each row is followed by
its k nearest of its own memory and cluster. They are constants on both sides: they change the gradient of the
projections through the energy, and weigh down that of the positives by 1 / (1 + k).

Source: Poulakakis-Daktylidis and Jamali-Rad, 2024, with the constants of its code, but for two slips of that:
assignment is to near prototypes, not to far ones, and neighbours are those of the cluster, not others.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import clustered_queue, ema
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.methods.prototypes import check_at_least_0
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = {
  'positive_similarity': "mean cosine between predictions and the teacher's projections of the other view",
  'energy': 'logarithm of the mean exponential similarity of projections of different examples; 0 where they spread',
  'neighbours_used': '1 where neighbours from the memory are part of the batch, 0 before',
}
# Whose embeddings the three memories hold: a view's neighbours come from the memory of its own kind.
SIDES = ('prediction', 'projection', 'target')


def _check(momentum: float, every_epochs: int, **at_least_0: float):
  """Refuses numbers out of range."""
  ema.check_momentum(momentum)
  check_at_least_0(**at_least_0)
  if every_epochs < 1:
    raise Refusal(f'config.method.every_epochs must be at least 1, but it is {every_epochs}')


def _check_sizes(count: int, memory_size: int):
  """Refuses a memory that remembers nothing but the batch."""
  if count >= memory_size:
    raise Refusal(
      f'config.method.memory_size={memory_size} must hold more than the embeddings of a batch, but they are {count}: '
      'neighbours are looked for after these have gone in'
    )


def _start(info: Info, memory_epochs: int) -> int:
  """The step from which neighbours join the batch."""
  start = memory_epochs * info.steps_per_epoch
  if start >= info.total_steps:
    raise Refusal(
      f'config.method.memory_epochs={memory_epochs} are {start} steps, but the run has {info.total_steps}, so '
      'neighbours would never join the batch: fewer are needed, a longer run, or neighbours=0'
    )
  return start


def assigned(bank: clustered_queue.ClusteredQueue, z, *, eps: float, iterations: int):
  """The prototype of which each row has the largest share, by optimal transport of Euclidean distances.

  The shares are soft, and their sums over the batch are the same for all prototypes, as nearly as the iterations make
  them. How many rows have their largest share of a prototype is only roughly the same: three iterations give each of 32
  prototypes from 1 to 30 of 512 random rows, 16 being alike, and some of them none where rows crowd around a few.
  """
  prototypes = losses.unit(bank.prototypes)
  square = 2 - 2 * jnp.matmul(z, prototypes.T, precision='highest')
  return losses.sinkhorn(-jnp.sqrt(jnp.maximum(square, 0)), eps=eps, iterations=iterations).argmax(1)


def objective(prediction, projection, target, *, temperature, weight: float, fold, precision):
  """(loss, mean cosine of the positives, energy) of unit rows `[2, B, d]`."""
  positive = (prediction * target[::-1]).sum(-1).mean()
  each = losses.instance_energy(projection, temperature=temperature, fold=fold, precision=precision)
  energy = jax.nn.logsumexp(each) - jnp.log(each.size)
  return -positive + weight * energy, positive, energy


def _grown(bank: clustered_queue.ClusteredQueue, z, k: int, options):
  """Rows `[2, B, d]` and after them the neighbours of each, nearest first."""
  found, _ = clustered_queue.neighbours(bank, z.reshape(-1, z.shape[2]), k=k, **options)
  return jnp.concatenate([z, found.reshape(*z.shape[:2], k, -1).swapaxes(1, 2).reshape(2, -1, z.shape[2])], axis=1)


def _branches(student: towers.Tower, teacher: towers.Tower, memory_size: int, clusters: int):
  """The `init` and `encode` slots: predictions and projections of the student, projections of the teacher."""

  def init(key, batch):
    of_tower, of_memory = jax.random.split(key)
    params, stats = student.init(of_tower, batch['view_0'])
    (_, g, _), _ = jax.eval_shape(student.apply, params, stats, batch['view_0'])
    state = {'stats': stats, 'teacher': towers.teacher_of(teacher, params, stats)}
    if memory_size:
      keys = jax.random.split(of_memory, len(SIDES))
      banks = [clustered_queue.init(own, memory_size, g.shape[1], num_clusters=clusters) for own in keys]
      state['memory'] = dict(zip(SIDES, banks, strict=True))
    return params, state

  def encode(params, state, batch, *, key, step, train):
    (_, g, p), stats = towers.of_views(student, params, state['stats'], batch, key=key, train=train)
    (_, t), taught = towers.taught(teacher, state['teacher'], batch, key=key, train=train)
    return {'prediction': p, 'projection': g, 'target': t}, {**state, 'stats': stats, 'teacher': taught}

  return init, encode


def _loss(neighbours: int, start: int, assign: Callable, of_rows: Callable, options):
  """The `loss` slot."""

  def of_batch(params, state, features, batch, *, key, step):
    p, target, _ = towers.compared(features['prediction'], features['target'])
    sides = {'prediction': p, 'target': target, 'projection': jnp.swapaxes(losses.unit(features['projection']), 0, 1)}
    sides = {name: x[:2] for name, x in sides.items()}
    used, out = jnp.zeros((), bool), None
    if neighbours:
      memory = {}
      for name, rows in sides.items():
        # The search runs after the batch has gone in, so a row may find itself or its other view.
        rows = jax.lax.stop_gradient(rows).swapaxes(0, 1).reshape(-1, rows.shape[2])
        _check_sizes(len(rows), len(state['memory'][name].labels))
        memory[name] = clustered_queue.push(state['memory'][name], rows, assign(state['memory'][name], rows))
      used = (step >= start) & jnp.stack([bank.clustered > 0 for bank in memory.values()]).all()

      def grown():
        return of_rows(**{name: _grown(memory[name], rows, neighbours, options) for name, rows in sides.items()})

      out = jax.lax.cond(used, grown, lambda: of_rows(**sides))
      state = {**state, 'memory': memory}
    value, _, energy = of_rows(**sides) if out is None else out
    positive = (sides['prediction'] * sides['target'][::-1]).sum(-1).mean()
    metrics = {'positive_similarity': positive, 'energy': energy, 'neighbours_used': used.astype(value.dtype)}
    return Output(value, state, metrics)

  return of_batch


def _refresh(info: Info, every_epochs: int):
  """The `refresh` slot: clusters of a memory when it has filled, and again every few epochs."""

  def refresh(params, state, embed_all, *, key, step):
    del params, embed_all
    epoch, memory = int(step) // info.steps_per_epoch, dict(state['memory'])
    for name, own in zip(SIDES, jax.random.split(key, len(SIDES)), strict=True):
      bank = memory[name]
      if bool(clustered_queue.is_full(bank)) and (not int(bank.clustered) or epoch % every_epochs == 0):
        memory[name] = clustered_queue.recluster(bank, own)
    return {**state, 'memory': memory}

  return refresh


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  info: Info,
  *,
  temperature: float = 2.0,
  weight: float = 0.1,
  neighbours: int = 5,
  clusters: int = 200,
  memory_size: int = 8192,
  memory_epochs: int = 60,
  every_epochs: int = 60,
  eps: float = 0.05,
  iterations: int = 3,
  momentum: float = 0.995,
  fold='auto',
  precision: str | None = None,
) -> Method:
  """BECLR, as in the module's docstring.

  Args:
    encoder: backbone; the student's is what evaluators probe.
    head: projection head.
    predictor: of the student alone; its output is as wide as the head's.
    info: of the run: the momentum rises to 1 over its steps.
    temperature: of the energy.
    weight: lambda.
    neighbours: k; 0: no memory.
    clusters: of each memory.
    memory_size: of each memory; more than both views of a batch, or neighbours would be of the batch itself.
    memory_epochs: before neighbours are used; fewer than the run has.
    every_epochs: after which clusters are found anew.
    eps: of `losses.sinkhorn`, for the assignment to prototypes.
    iterations: of `losses.sinkhorn`.
    momentum: of the teacher at the first step; rises to 1 along half a cosine.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: a memory no larger than both views of a batch, neighbours that would join after the end of the run, fewer
      than two clusters or views, a number out of range.
  """
  _check(momentum, every_epochs, weight=weight, neighbours=neighbours, memory_epochs=memory_epochs)
  start = _start(info, memory_epochs) if neighbours else 0
  student = towers.stack(encoder=encoder, head=head, predictor=predictor)
  teacher = towers.stack(encoder=encoder, head=head)
  options = dict(fold=fold, precision=precision)
  of_rows = functools.partial(objective, temperature=temperature, weight=weight, **options)
  assign = functools.partial(assigned, eps=eps, iterations=iterations)
  init, encode = _branches(student, teacher, memory_size if neighbours else 0, clusters)

  def update(params, state, *, step):
    return params, towers.followed(state, params, ema.cosine_momentum(momentum, step, info.total_steps))

  loss = _loss(neighbours, start, assign, of_rows, options)
  refresh = _refresh(info, every_epochs) if neighbours else None
  return Method(init, encode, loss, towers.embedding(student), update, refresh, student.per_example)
