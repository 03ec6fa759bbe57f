"""`cacr_momentum`: contrastive attraction and repulsion of a student's predictions and a teacher's keys (CACR)."""

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import ema, queue
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder

GLOSSARY = {
  'positive_similarity': "mean cosine between a student's predictions and the teacher's keys of other views",
  'attraction_entropy': 'entropy of the weights of the queries of a key, over its largest, log of their number: 1 is '
  'equal weights; absent where a key has one query',
}


def _entropy(p, k, temperature):
  """Of the weights of the queries p `[V, B, d]` of a key k `[B, d]`, relative to equal ones."""
  weights = jax.nn.softmax(jnp.square(p - k).sum(-1) / temperature, axis=0)
  return jax.scipy.special.entr(weights).sum(0).mean() / jnp.log(len(p))


def _objective(info: Info, options: dict):
  """The `loss` slot: keys of every view against the predictions of all other crops."""

  def of_batch(params, state, features, batch, *, key, step):
    crops = features['prediction']
    _, keys, _ = towers.compared(crops[:, : info.num_views], features['target'])
    p = jnp.swapaxes(losses.unit(crops), 0, 1)
    others = [jnp.concatenate([p[:v], p[v + 1 :]]) for v in range(len(keys))]
    bank = state.get('queue')
    values = [
      losses.cacr_momentum(q, k, queue=None if bank is None else bank.values, **options).mean()
      for q, k in zip(others, keys, strict=True)
    ]
    cosines = [(q * k).sum(-1).mean() for q, k in zip(others, keys, strict=True)]
    metrics = {'positive_similarity': jnp.stack(cosines).mean()}
    if len(p) > 2:
      entropies = [_entropy(q, k, options['temperature']) for q, k in zip(others, keys, strict=True)]
      metrics['attraction_entropy'] = jnp.stack(entropies).mean()
    state = state if bank is None else {**state, 'queue': queue.push(bank, keys[0])}
    return Output(jnp.stack(values).mean(), state, metrics)

  return of_batch


def _branches(student: towers.Tower, teacher: towers.Tower, queue_size: int):
  """The `init` and `encode` slots: predictions of every crop, keys of every view."""

  def init(key, batch):
    of_tower, of_queue = jax.random.split(key)
    params, stats = student.init(of_tower, batch['view_0'])
    state = {'stats': stats, 'teacher': towers.teacher_of(teacher, params, stats)}
    if queue_size:
      (_, g, _), _ = jax.eval_shape(student.apply, params, stats, batch['view_0'])
      state['queue'] = queue.init(of_queue, queue_size, g.shape[1])
    return params, state

  def encode(params, state, batch, *, key, step, train):
    (_, _, p), stats = towers.of_crops(student, params, state['stats'], batch, key=key, train=train)
    (_, k), taught = towers.taught(teacher, state['teacher'], batch, key=key, train=train)
    return {'prediction': p, 'target': k}, {**state, 'stats': stats, 'teacher': taught}

  return init, encode


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  info: Info,
  *,
  temperature: float = 1.0,
  cost: str = 'rbf',
  momentum: float = 0.996,
  queue_size: int = 0,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""CACR with a momentum encoder: the predictions of all other crops meet the teacher's key of each view.

  .. math:: \mathcal{L} = \frac1V \sum_w \mathrm{mean} \; \mathrm{CACR} \big( (p_v)_{v \ne w}, k_w \big)

  with `losses.cacr_momentum`, p the student's predictions of views and small views, k the teacher's projections of
  views. The teacher is an exponential moving average of the student's encoder and head, and follows after each step.
  With two views and cost 'rbf' a key has one query, and this is the loss of MoCo v3, halved.

  Args:
    encoder: backbone; the student's is what evaluators probe.
    head: projection head.
    predictor: of the student alone; its output is as wide as the head's.
    info: of the run: the momentum rises to 1 over its steps.
    temperature: of the loss; 1 for the paper's ResNet-50, 0.2 for its ViT-B.
    cost: 'rbf' or 'euclidean', whose mean over the batch is taken, too; the official code takes its sum.
    momentum: of the teacher at the first step; rises to 1 along half a cosine.
    queue_size: keys of the first view that are kept as further negatives, at least a batch; 0, as in the official code
      of this form: none.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: an unknown cost; a momentum outside [0, 1]; a queue smaller than a batch; fewer than two views; a predictor
      of another width than the head.

  Source: Zheng et al., 2023, the experiments on ImageNet, as in its repository, JegZheng/CACR-SSL, with small views in
  its light mode: they are queries and have no keys.
  """
  ema.check_momentum(momentum)
  if queue_size:
    queue.check_size(queue_size)
  student = towers.stack(encoder=encoder, head=head, predictor=predictor)
  teacher = towers.stack(encoder=encoder, head=head)

  init, encode = _branches(student, teacher, queue_size)

  def update(params, state, *, step):
    return params, towers.followed(state, params, ema.cosine_momentum(momentum, step, info.total_steps))

  options = dict(temperature=temperature, cost=cost, fold=fold, precision=precision)
  of_batch = _objective(info, options)
  return Method(init, encode, of_batch, towers.embedding(student), update=update, per_example=student.per_example)
