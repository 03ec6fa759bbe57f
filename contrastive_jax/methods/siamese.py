"""`siamese`: a predictor tells one view's target from another view. BYOL, SimSiam and MoCo v3 are its configs."""

import inspect

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import ema
from contrastive_jax.methods import objective, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder

GLOSSARY = {
  'positive_similarity': 'mean cosine between predictions and the targets of other views of the same example',
  'target_spread': 'standard deviation of the unit-norm targets over a batch, times the root of their width: near 1 '
  'where they spread, 0 where they have collapsed',
}
_LOSSES = tuple(name for name in losses.OBJECTIVES if objective.arguments(name) == ['x', 'y'])


def options(*, loss: str = 'normalized_mse', **_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of a loss: config keys of `method` besides those of `make`."""
  return objective.options(loss, _LOSSES)


def _branches(student: towers.Tower, teacher: towers.Tower | None, views: int):
  """The `init` and `encode` slots: the student predicts from all crops the views' targets, a teacher's or its own."""

  def init(key, batch):
    params, stats = student.init(key, batch['view_0'])
    taught = {} if teacher is None else {'teacher': towers.teacher_of(teacher, params, stats)}
    return params, {'stats': stats, **taught}

  def encode(params, state, batch, *, key, step, train):
    (_, g, p), stats = towers.of_crops(student, params, state['stats'], batch, key=key, train=train)
    state = {**state, 'stats': stats}
    if teacher is not None:
      (_, g), state['teacher'] = towers.taught(teacher, state['teacher'], batch, key=key, train=train)
    return {'prediction': p, 'target': jax.lax.stop_gradient(g[:, :views])}, state

  return init, encode


def _regression(of_sides, scale: float):
  """The `loss` slot: every crop's prediction against the targets of the other views."""

  def of_batch(params, state, features, batch, *, key, step):
    p, k, pairs = towers.compared(features['prediction'], features['target'])
    value = towers.mean_of_pairs(of_sides, p, k, pairs)
    metrics = {
      'positive_similarity': jnp.stack([(p[v] * k[w]).sum(-1).mean() for v, w in pairs]).mean(),
      'target_spread': k.std(1).mean() * k.shape[2] ** 0.5,
    }
    return Output(scale * value, state, metrics)

  return of_batch


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  info: Info,
  *,
  loss: str = 'normalized_mse',
  momentum: float | None = 0.996,
  scale: float = 2.0,
  fold='auto',
  precision: str | None = None,
  **hyper,
) -> Method:
  r"""A student with a predictor, and targets that get no gradient: a teacher's projections, or the student's own.

  .. math:: \mathcal{L} = \frac{c}{V(V+S-1)} \sum_{w \le V} \sum_{v \ne w} \mathrm{mean} \;
            \ell \big( p_v, \mathrm{stop}(k_w) \big)

  With p the student's predictions of V views and S small ones, and k the projections of the views by the teacher, an
  exponential moving average of the student's encoder and head. BYOL: the defaults. MoCo v3: loss='info_nce', scale = 4
  temperature. SimSiam: momentum=None, scale=0.5.

  Args:
    encoder: backbone; the student's is what evaluators probe.
    head: projection head.
    predictor: of the student alone; its output is as wide as the head's.
    info: of the run: its views; the momentum rises to 1 over its steps.
    loss: of two sides, x the predictions and y the targets, both of unit norm.
    momentum: of the teacher at the first step; rises to 1 along half a cosine. None: no teacher.
    scale: c; 2 is the sum over both orders of two views.
    fold: as of `pair`.
    precision: as of `pair`.
    **hyper: the loss's hyper-parameters.

  Raises:
    Refusal: a loss that is not of two sides; a hyper-parameter that it does not have; a momentum outside [0, 1]; fewer
      than two views; a predictor of another width than the head.

  Source: Grill et al., 2020; Chen and He, 2021; Chen, Xie and He, 2021.
  """
  of_sides = objective.bound(loss, _LOSSES, hyper, fold=fold, precision=precision)
  if momentum is not None:
    ema.check_momentum(momentum)
  student = towers.stack(encoder=encoder, head=head, predictor=predictor)
  teacher = None if momentum is None else towers.stack(encoder=encoder, head=head)
  init, encode = _branches(student, teacher, info.num_views)

  def update(params, state, *, step):
    rising = None if momentum is None else ema.cosine_momentum(momentum, step, info.total_steps)
    return params, state if rising is None else towers.followed(state, params, rising)

  return Method(
    init,
    encode,
    _regression(of_sides, scale),
    towers.embedding(student),
    update=update,
    per_example=student.per_example,
  )
