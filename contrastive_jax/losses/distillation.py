"""Losses of self-distillation: a student meets the sharpened outputs of its own average over time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.clustering import swapped_prediction
from contrastive_jax.types import Refusal

__all__ = ['dino', 'dino_centre', 'dino_targets']


def _check_teacher(teacher, centre):
  inputs.check_floats(teacher=teacher, centre=centre)
  if teacher.ndim != 3 or centre.shape != teacher.shape[2:]:
    raise Refusal(
      f'teacher must be [A, B, K] (crops, instances, outputs) and centre [K], but they are {teacher.shape} and '
      f'{centre.shape}'
    )


def dino_targets(
  teacher: Float[Array, 'a b k'],
  centre: Float[Array, ' k'],
  *,
  teacher_temperature: float | Float[Array, ''] = 0.04,
) -> Float[Array, 'a b k']:
  r"""What a teacher asks for, centred and sharpened: :math:`\mathrm{softmax}((t - c) / \tau)`, as constants.

  Arguments and refusals are those of `dino`.
  """
  inputs.check_positive('teacher_temperature', teacher_temperature)
  _check_teacher(teacher, centre)
  centred = inputs.wide(teacher) - inputs.wide(centre)
  return jax.lax.stop_gradient(jax.nn.softmax(centred / teacher_temperature, -1))


def dino(
  student: Float[Array, 'v b k'],
  teacher: Float[Array, 'a b k'],
  centre: Float[Array, ' k'],
  *,
  student_temperature: float | Float[Array, ''] = 0.1,
  teacher_temperature: float | Float[Array, ''] = 0.04,
) -> Float[Array, ' b']:
  r"""DINO: the student's crops match the centred and sharpened outputs of the teacher for the other crops.

  .. math:: \ell_i = -\frac{1}{A (V - 1)} \sum_{a} \sum_{v \ne a} \sum_k
            q_{a,ik} \log \mathrm{softmax}_k \Big( \frac{s_{v,i}}{\tau_s} \Big), \qquad
            q_a = \mathrm{softmax} \Big( \frac{t_a - c}{\tau_t} \Big)

  Centring keeps one output from winning for all instances, sharpening keeps all outputs from becoming alike: either
  alone collapses. Teacher and centre are constants. Of one instance alone, so it may be called inside `shard_map`.

  Args:
    student: s, `[V, B, K]`, outputs of all crops, V >= 2.
    teacher: t, `[A, B, K]`, outputs of the first A crops; two in the paper.
    centre: c, `[K]`: that of the steps before, which `dino_centre` moves afterwards.
    student_temperature: tau_s.
    teacher_temperature: tau_t, smaller than tau_s.

  Returns:
    `[B]`: no less than the mean entropy of the instance's targets.

  Raises:
    ValueError: `student` is not `[V, B, K]`, V < 2, a teacher of another shape or of more crops, a centre that is not
      `[K]`, a temperature <= 0.

  Source: Caron et al., 2021, eq. 1 to 3.
  """
  inputs.check_positive('student_temperature', student_temperature)
  targets = dino_targets(teacher, centre, teacher_temperature=teacher_temperature)
  return swapped_prediction(student, targets, temperature=student_temperature)


def dino_centre(
  centre: Float[Array, ' k'], teacher: Float[Array, 'a b k'], *, momentum: float | Float[Array, ''] = 0.9
) -> Float[Array, ' k']:
  r"""The centre moved towards the mean of a batch's teacher outputs, :math:`m c + (1 - m) \bar t`; no gradient.

  Args:
    centre: c, `[K]`.
    teacher: t, `[A, B, K]`, outputs as `dino` takes them: neither centred nor sharpened.
    momentum: m.

  Raises:
    ValueError: shapes that do not fit, a call inside `shard_map` or `pmap`.

  Source: Caron et al., 2021, eq. 4.
  """
  inputs.check_whole('dino_centre')
  _check_teacher(teacher, centre)
  mean = inputs.wide(teacher).mean((0, 1)).astype(centre.dtype)
  return jax.lax.stop_gradient(centre + (1 - jnp.asarray(momentum, centre.dtype)) * (mean - centre))
