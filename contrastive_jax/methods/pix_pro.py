"""`pix_pro`: cells of a view, propagated, agree with a teacher's cells of another view at the same place (PixPro)."""

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import ema
from contrastive_jax.methods import cells, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = cells.GLOSSARY | {
  'instance_similarity': 'mean cosine between predictions of whole views and the targets of other views, where there '
  'is an instance branch',
}


def _towers(encoder: Encoder, head: Encoder, predictor: Encoder, instance: bool) -> tuple[towers.Tower, towers.Tower]:
  """Those of the student and of its teacher."""
  whole, of_whole = dict(instance_head=head, instance_predictor=head), dict(instance_head=head)
  student = cells.tower(encoder, dict(head=head, predictor=predictor), *([whole] if instance else []))
  return student, cells.tower(encoder, dict(head=head), *([of_whole] if instance else []))


def _branches(student: towers.Tower, teacher: towers.Tower, gamma: float, instance: bool):
  """The `init` and `encode` slots: propagated cells of the student, cells of the teacher; of whole views, too."""

  def init(key, batch):
    params, stats = student.init(key, batch['view_0'])
    return params, {'stats': stats, 'teacher': towers.teacher_of(teacher, params, stats)}

  def encode(params, state, batch, *, key, step, train):
    (_, g, values, *whole), stats = towers.of_views(student, params, state['stats'], batch, key=key, train=train)
    (_, target, *of_whole), taught = towers.taught(teacher, state['teacher'], batch, key=key, train=train)
    # A map is one row of `propagate`: cells are smoothed within their view.
    x, v = (z.reshape(-1, z.shape[2] * z.shape[3], z.shape[4]) for z in (g, values))
    features = {'prediction': losses.propagate(x, v, gamma=gamma).reshape(values.shape), 'target': target}
    if instance:
      features |= {'whole_prediction': whole[-1].mean((2, 3)), 'whole_target': of_whole[-1].mean((2, 3))}
    return features, {**state, 'stats': stats, 'teacher': taught}

  return init, encode


def _agreement(threshold: float, instance_weight: float, scale: float):
  """The `loss` slot."""

  def of_batch(params, state, features, batch, *, key, step):
    pairs = cells.compared(features['prediction'], features['target'], batch, threshold=threshold)
    value, metrics = jnp.stack([losses.pix_pro(*pair).mean() for pair in pairs]).mean(), cells.metrics(pairs)
    if instance_weight:
      p, k, views = towers.compared(features['whole_prediction'], features['whole_target'])
      similarity = jnp.stack([(p[v] * k[w]).sum(-1).mean() for v, w in views]).mean()
      value, metrics = value - instance_weight * similarity, metrics | {'instance_similarity': similarity}
    return Output(scale * value, state, metrics)

  return of_batch


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  info: Info,
  *,
  threshold: float = 0.7,
  gamma: float = 2.0,
  momentum: float = 0.99,
  instance_weight: float = 0.0,
  scale: float = 4.0,
) -> Method:
  r"""PixPro: cells of a map, smoothed along their similarities, predict a teacher's cells at their place. No negatives.

  .. math:: \mathcal{L} = \frac{c}{V(V-1)} \sum_{v \ne w} \mathrm{mean}_b \Big( - \frac{\sum_{ij} M_{ij} \;
            y_{v,i}^\top k_{w,j}}{\sum_{ij} M_{ij}} - \lambda \, \cos(p_v, k'_w) \Big)

  y is `losses.propagate` of the student's projected cells and their values after the predictor. k are projected cells
  of the teacher, an exponential moving average of the student's encoder and projectors. M, `losses.pair_mask`, pairs
  cells by `box_0`, `box_1`, ... of the batch; images whose views do not overlap count as 0. The instance branch has a
  projector and a predictor of its own, both made as `head`, whose outputs p and k' are averaged over a view's cells.

  Args:
    encoder: backbone with a map; its pooled features are what evaluators probe.
    head: projector, of every cell.
    predictor: g of the values that are propagated; one linear layer in the paper. As wide as the head.
    info: of the run: the momentum rises to 1 over its steps.
    threshold: greatest distance of positives, in diagonals of the larger cells.
    gamma: sharpness of the propagation.
    momentum: of the teacher at the first step; rises to 1 along half a cosine.
    instance_weight: lambda; 0 is no instance branch.
    scale: c; 4 is twice the sum over both orders of two views, so -4 is perfect agreement of cells.

  Raises:
    Refusal: an encoder without a map; views that do not tell where they were cut; fewer than two; a predictor of
      another width than the head; a threshold, gamma or scale <= 0, a weight < 0; a momentum outside [0, 1].

  Source: Xie et al., 2021, section 3.2 and 3.3, and the code, zdaxie/PixPro.
  """
  ema.check_momentum(momentum)
  cells.check_positive(threshold=threshold, gamma=gamma, scale=scale)
  if not instance_weight >= 0:
    raise Refusal(f'config.method.instance_weight must be at least 0, but it is {instance_weight}')
  student, teacher = _towers(encoder, head, predictor, instance_weight > 0)
  init, encode = _branches(student, teacher, gamma, instance_weight > 0)

  def update(params, state, *, step):
    return params, towers.followed(state, params, ema.cosine_momentum(momentum, step, info.total_steps))

  return Method(
    init,
    encode,
    _agreement(threshold, instance_weight, scale),
    cells.embedding(encoder, student),
    update=update,
    per_example=student.per_example,
  )
