"""`dino`: a student's crops match a teacher's centred and sharpened outputs for other crops (DINO)."""

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import ema
from contrastive_jax.methods import prototypes as clusters
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = clusters.GLOSSARY | {
  'teacher_temperature': "divides the teacher's outputs",
  'centre_norm': "norm of the centre, the running mean of the teacher's outputs",
}


def _check(centre_momentum: float, **teacher_temperatures: float):
  if not 0 <= centre_momentum <= 1:
    raise Refusal(f'config.method.centre_momentum must be from 0 to 1, but it is {centre_momentum}')
  for name, value in teacher_temperatures.items():
    if not value > 0:
      raise Refusal(f'config.method.{name} must be > 0, but it is {value}')


def _branches(tower: towers.Tower, prototypes: int):
  """The `init` and `encode` slots: bottlenecks of the student's crops and of the teacher's views."""

  def init(key, batch):
    of_tower, of_last = jax.random.split(key)
    params, stats = tower.init(of_tower, batch['view_0'])
    (_, g), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
    params = {**params, 'last': clusters.init(of_last, prototypes, g.shape[1])}
    teacher = towers.teacher_of(tower, params, stats)
    teacher['params']['last'] = params['last']
    return params, {'stats': stats, 'teacher': teacher, 'centre': jnp.zeros(prototypes, params['last'].dtype)}

  def encode(params, state, batch, *, key, step, train):
    (_, g), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    (_, t), teacher = towers.taught(tower, state['teacher'], batch, key=key, train=train)
    return {'student': g, 'teacher': t}, {**state, 'stats': stats, 'teacher': teacher}

  return init, encode


def _distillation(temperature, student_temperature: float, centre_momentum: float, frozen_steps: int):
  """The `loss` slot; `temperature` is the teacher's, a function of the step."""

  def of_batch(params, state, features, batch, *, key, step):
    z, centre, tau = clusters.crops(features['student']), state['centre'], jnp.asarray(temperature(step))
    student = clusters.scores(z, losses.unit(clusters.frozen(params['last'], step < frozen_steps)))
    bottleneck = jnp.swapaxes(losses.unit(features['teacher']), 0, 1)
    teacher = jax.lax.stop_gradient(clusters.scores(bottleneck, losses.unit(state['teacher']['params']['last'])))
    values = losses.dino(student, teacher, centre, student_temperature=student_temperature, teacher_temperature=tau)
    targets = losses.dino_targets(teacher, centre, teacher_temperature=tau)
    metrics = clusters.metrics(z, targets, student / student_temperature)
    metrics |= {'teacher_temperature': tau, 'centre_norm': jnp.linalg.norm(centre)}
    moved = losses.dino_centre(centre, teacher, momentum=centre_momentum)
    return Output(values.mean(), {**state, 'centre': moved}, metrics)

  return of_batch


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  prototypes: int = 65536,
  student_temperature: float = 0.1,
  teacher_temperature: float = 0.04,
  warmup_teacher_temperature: float = 0.04,
  warmup_epochs: float = 0.0,
  momentum: float = 0.996,
  centre_momentum: float = 0.9,
  freeze_last_epochs: float = 1.0,
) -> Method:
  """DINO: self-distillation without labels, negatives or predictor; collapse is kept off by centring and sharpening.

  The head's output is the bottleneck: of unit norm, it meets the last layer, `params['last']`, K directions. The
  teacher is an average of encoder, head and last layer; it sees the views, the student small views too.

  Args:
    encoder: backbone; the teacher's is what evaluators probe, as in the paper's code. Of images of every size, where
      there are small views.
    head: projection head, up to the bottleneck.
    info: of the run: its views and steps.
    prototypes: K, outputs of the last layer.
    student_temperature: of the student's outputs.
    teacher_temperature: of the teacher's outputs, after the warm-up.
    warmup_teacher_temperature: at the first step, from which it moves linearly.
    warmup_epochs: of the teacher's temperature.
    momentum: of the teacher at the first step; rises to 1 along half a cosine.
    centre_momentum: of the centre, which the loss uses before it moves.
    freeze_last_epochs: epochs before the last layer begins to learn.

  Raises:
    Refusal: fewer than two crops or prototypes; a momentum outside [0, 1]; epochs below 0.

  Source: Caron et al., 2021, algorithm 1, with the constants of its code.
  """
  ema.check_momentum(momentum)
  clusters.check_at_least_0(warmup_epochs=warmup_epochs, freeze_last_epochs=freeze_last_epochs)
  first, last = warmup_teacher_temperature, teacher_temperature
  _check(centre_momentum, warmup_teacher_temperature=first, teacher_temperature=last)
  tower = towers.stack(encoder=encoder, head=head)
  init, encode = _branches(tower, prototypes)
  warmup, freeze = (round(epochs * info.steps_per_epoch) for epochs in (warmup_epochs, freeze_last_epochs))

  def temperature(step):
    done = jnp.minimum(step / warmup, 1) if warmup else 1
    return first + done * (last - first)

  def update(params, state, *, step):
    return params, towers.followed(state, params, ema.cosine_momentum(momentum, step, info.total_steps))

  def embed(params, state, batch):
    return towers.embedding(tower)(state['teacher']['params'], state['teacher'], batch)

  loss = _distillation(temperature, student_temperature, centre_momentum, freeze)
  return Method(init, encode, loss, embed, update=update, per_example=tower.per_example)
