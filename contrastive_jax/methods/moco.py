"""`moco`: queries against a teacher's keys, with a queue of earlier keys as negatives (MoCo v2)."""

import jax

from contrastive_jax import losses
from contrastive_jax.losses.inputs import of_rows
from contrastive_jax.memory import ema, queue
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder

GLOSSARY = {'positive_similarity': "mean cosine between queries and their keys, the teacher's other view"}


def _branches(tower: towers.Tower, queue_size: int, views: int):
  """The `init` and `encode` slots: queries of all crops but the second view, and the teacher's key of that."""
  queries = (0, *range(2, views))

  def init(key, batch):
    of_tower, of_queue = jax.random.split(key)
    params, stats = tower.init(of_tower, batch['view_0'])
    (_, g), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
    bank = queue.init(of_queue, queue_size, g.shape[1])
    return params, {'stats': stats, 'teacher': towers.teacher_of(tower, params, stats), 'queue': bank}

  def encode(params, state, batch, *, key, step, train):
    (_, q), stats = towers.of_crops(tower, params, state['stats'], batch, views=queries, key=key, train=train)
    (_, k), teacher = towers.taught(tower, state['teacher'], batch, views=(1,), key=key, train=train)
    return {'query': q, 'key': k[:, 0]}, {**state, 'stats': stats, 'teacher': teacher}

  return init, encode


def sides(features):
  """Unit-norm queries, those of an instance side by side, the key of each, both `[B Q, d]`, and the keys `[B, d]`."""
  q, k = losses.unit(features['query']), jax.lax.stop_gradient(losses.unit(features['key']))
  return q.reshape(-1, q.shape[2]), of_rows(k, q.shape[1]), k


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  temperature: float = 0.2,
  momentum: float = 0.999,
  queue_size: int = 65536,
  include_positive: bool = True,
  fold='auto',
  precision: str | None = None,
) -> Method:
  """MoCo v2: the first view's queries find the teacher's keys of the second view among the queue's.

  Further views and small ones are queries too, for the same keys; the loss is the mean over all queries.

  The teacher follows the student after each step, with a constant momentum. Batch norm, where an encoder has it, uses
  the statistics of the global batch, so no device can tell its own examples by them and keys need not be shuffled.

  Args:
    encoder: backbone; the student's is what evaluators probe.
    head: projection head.
    info: of the run: its views.
    temperature: divides similarities.
    momentum: of the teacher.
    queue_size: keys that are kept; at least a batch.
    include_positive: without, the decoupled contrastive loss.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: a momentum outside [0, 1]; a queue smaller than a batch; fewer than two views.

  Source: He et al., 2020, algorithm 1; defaults of Chen et al., 2020, "Improved Baselines with Momentum Contrastive
  Learning".
  """
  ema.check_momentum(momentum)
  queue.check_size(queue_size)
  tower = towers.stack(encoder=encoder, head=head)
  init, encode = _branches(tower, queue_size, info.num_views)

  def loss(params, state, features, batch, *, key, step):
    q, positive, k = sides(features)
    options = dict(temperature=temperature, include_positive=include_positive, fold=fold, precision=precision)
    values = losses.queue_nce(q, positive, state['queue'].values, **options)
    metrics = {'positive_similarity': (q * positive).sum(-1).mean()}
    return Output(values.mean(), {**state, 'queue': queue.push(state['queue'], k)}, metrics)

  def update(params, state, *, step):
    return params, towers.followed(state, params, momentum)

  return Method(init, encode, loss, towers.embedding(tower), update=update, per_example=tower.per_example)
