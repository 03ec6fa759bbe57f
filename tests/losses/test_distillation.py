"""DINO: the equation in a NumPy loop, its bounds, what gets no gradient, and the centre."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.types import Refusal

RANDOM = np.random.default_rng(0)
STUDENT = RANDOM.uniform(-1, 1, size=(4, 6, 9)).astype(np.float32)
TEACHER = RANDOM.uniform(-1, 1, size=(2, 6, 9)).astype(np.float32)
CENTRE = RANDOM.uniform(-0.3, 0.3, size=9).astype(np.float32)


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def looped(student, teacher, centre, student_temperature, teacher_temperature):
  """The value of each instance, pair of crops by pair of crops, in float64."""
  student, teacher, centre = (np.asarray(x, np.float64) for x in (student, teacher, centre))
  values = []
  for i in range(student.shape[1]):
    terms = []
    for a in range(len(teacher)):
      q = softmax((teacher[a, i] - centre) / teacher_temperature)
      for v in range(len(student)):
        if v != a:
          terms.append(-(q * np.log(softmax(student[v, i] / student_temperature))).sum())
    values.append(np.mean(terms))
  return np.array(values)


@pytest.mark.parametrize(('views', 'crops'), [(4, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize(('of_student', 'of_teacher'), [(0.1, 0.04), (0.3, 0.07)])
def test_the_loss_is_that_of_a_loop_over_pairs_of_crops(views, crops, of_student, of_teacher):
  options = dict(student_temperature=of_student, teacher_temperature=of_teacher)
  got = jit(lambda *arrays: losses.dino(*arrays, **options))(STUDENT[:views], TEACHER[:crops], CENTRE)
  np.testing.assert_allclose(got, looped(STUDENT[:views], TEACHER[:crops], CENTRE, of_student, of_teacher), rtol=1e-5)


def test_the_gradient_is_that_of_the_loop_and_teacher_and_centre_get_none():
  of_student, of_teacher, of_centre = jit(jax.grad(lambda *arrays: losses.dino(*arrays).mean(), (0, 1, 2)))(
    STUDENT, TEACHER, CENTRE
  )
  assert (np.asarray(of_teacher) == 0).all() and (np.asarray(of_centre) == 0).all()
  direction, step = np.random.default_rng(1).normal(size=STUDENT.shape), 1e-5
  up, down = (looped(STUDENT + sign * step * direction, TEACHER, CENTRE, 0.1, 0.04).mean() for sign in (1, -1))
  np.testing.assert_allclose((of_student * direction).sum(), (up - down) / (2 * step), rtol=1e-4)


def test_the_loss_is_no_less_than_the_mean_entropy_of_the_targets():
  q = np.asarray(losses.dino_targets(TEACHER, CENTRE, teacher_temperature=0.3), np.float64)
  np.testing.assert_allclose(q.sum(-1), 1, rtol=1e-6)
  entropy = -(q * np.log(q)).sum(-1).mean(0)
  assert (losses.dino(STUDENT, TEACHER, CENTRE, teacher_temperature=0.3) > entropy).all()
  same = np.stack([0.1 * np.log(q[0])] * 2).astype(np.float32)  # a student that says what the teacher says of both
  reached = losses.dino(same, np.stack([TEACHER[0]] * 2), CENTRE, teacher_temperature=0.3)
  np.testing.assert_allclose(reached, -(q[0] * np.log(q[0])).sum(-1), rtol=1e-4)


def test_a_uniform_student_costs_the_logarithm_of_its_outputs():
  np.testing.assert_allclose(losses.dino(jnp.full_like(STUDENT, 0.4), TEACHER, CENTRE), np.log(9), rtol=1e-6)


def test_two_views_and_no_centre_make_two_symmetric_terms():
  student, none = STUDENT[:2], np.zeros(9, np.float32)
  each = [-(jax.nn.softmax(TEACHER[a] / 0.04) * jax.nn.log_softmax(student[1 - a] / 0.1)).sum(-1) for a in range(2)]
  value = losses.dino(student, TEACHER, none)
  np.testing.assert_allclose(value, (each[0] + each[1]) / 2, rtol=1e-5)
  np.testing.assert_allclose(losses.dino(student[::-1], TEACHER[::-1], none), value, rtol=1e-6)


def test_what_is_common_to_teacher_and_centre_changes_nothing():
  offset = np.linspace(-1, 1, 9, dtype=np.float32)
  want = losses.dino(STUDENT, TEACHER, CENTRE)
  np.testing.assert_allclose(losses.dino(STUDENT, TEACHER + offset, CENTRE + offset), want, rtol=1e-4)
  assert np.abs(losses.dino(STUDENT, TEACHER + offset, CENTRE) - want).max() > 0.1


def test_the_centre_moves_to_the_mean_of_both_crops_over_the_global_batch_and_gets_no_gradient():
  mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
  split = jax.device_put(TEACHER, NamedSharding(mesh, P(None, 'data')))
  want = 0.7 * CENTRE + 0.3 * TEACHER.reshape(-1, 9).mean(0)
  for teacher in (TEACHER, split):
    got = jit(lambda c, t: losses.dino_centre(c, t, momentum=0.7))(CENTRE, teacher)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
  usual = 0.9 * CENTRE + 0.1 * TEACHER.reshape(-1, 9).mean(0)
  np.testing.assert_allclose(losses.dino_centre(CENTRE, TEACHER), usual, rtol=1e-5, atol=1e-7)
  gradients = jax.grad(lambda *arrays: losses.dino_centre(*arrays).sum(), (0, 1))(CENTRE, TEACHER)
  assert all((np.asarray(each) == 0).all() for each in gradients)


def test_the_loss_of_each_device_may_be_taken_but_not_the_centre():
  mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
  specs = dict(mesh=mesh, in_specs=(P(None, 'data'), P(None, 'data'), P()), out_specs=P('data'))
  np.testing.assert_allclose(
    jax.shard_map(losses.dino, **specs)(STUDENT, TEACHER, CENTRE), losses.dino(STUDENT, TEACHER, CENTRE), rtol=1e-5
  )
  local = jax.shard_map(losses.dino_centre, mesh=mesh, in_specs=(P(), P(None, 'data')), out_specs=P())
  with pytest.raises(Refusal, match='dino_centre inside shard_map or pmap would see the statistics of one device'):
    local(CENTRE, TEACHER)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: losses.dino(STUDENT[:1], TEACHER[:1], CENTRE), 'V >= 2 views are needed'),
    (lambda: losses.dino(STUDENT, TEACHER, CENTRE[:3]), r'and centre \[K\], but they are \(2, 6, 9\) and \(3,\)'),
    (lambda: losses.dino(STUDENT[:, :, :4], TEACHER, CENTRE), r'of the scores, \(4, 6, 4\), but they are \(2, 6, 9\)'),
    (lambda: losses.dino(STUDENT, TEACHER, CENTRE, student_temperature=0.0), r'student_temperature must be > 0'),
    (lambda: losses.dino(STUDENT, TEACHER, CENTRE, teacher_temperature=-1), r'teacher_temperature must be > 0'),
    (lambda: losses.dino_centre(CENTRE, TEACHER[0]), r'teacher must be \[A, B, K\]'),
    (lambda: losses.dino_centre(CENTRE.astype(int), TEACHER), 'centre must be floating-point'),
  ],
)
def test_what_cannot_be_distilled_is_refused(call, message):
  with pytest.raises(Refusal, match=message):
    call()
