"""Multi-crop, and the methods of prototypes: what their papers say of crops, codes, queue, teacher and centre."""

import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.types import Refusal

SWAV, DINO = 'ssl/swav', 'ssl/dino'
both = pytest.mark.parametrize('name', [SWAV, DINO])


@functools.cache
def stepped(name: str, count: int = 1, **overrides):
  """A run, its state before and after so many steps, and the metrics of the last."""
  of = tiny.run(name, **(dict(head__norm='none') | overrides))
  before, state, metrics = jax.device_get(tiny.fresh(of)), tiny.fresh(of), {}
  for batch in tiny.batches(of, count):
    state, metrics = of.step(state, batch)
  return of, before, jax.device_get(state), jax.device_get(metrics)


@functools.cache
def encoded(name: str, **overrides):
  """A run, its fresh state, a batch and the features of its crops, each of one example alone."""
  of = tiny.run(name, head__norm='none', **overrides)
  state, (raw,) = tiny.fresh(of), tiny.batches(of, 1)

  @compiling.jit
  def encode(state, raw):
    batch = tiny.views(of)(raw, 0)
    key = jax.random.key(0)
    features, _ = of.method.encode(state.params, state.state, batch, key=key, step=0, train=True)
    return batch, features

  return of, state, *encode(state, raw)


def crops(g):
  """Unit-norm projections, crops first."""
  return jnp.swapaxes(losses.unit(g), 0, 1)


def loss(of, state, features, step=0, **changed):
  """The method's `Output` at a step, with some of its state changed."""

  @compiling.jit
  def compiled(params, state, features, step):
    return of.method.loss(params, state, features, {}, key=jax.random.key(0), step=step)

  return compiled(state.params, {**state.state, **changed}, features, jnp.int32(step))


# --- crops ---


def test_a_batch_has_the_crops_that_it_should_on_one_device_and_on_eight():
  made = []
  for devices in (1, 8):
    of = tiny.run(SWAV, devices=devices, data__small_views__image_size='6', data__num_small_views='3')
    (raw,) = tiny.batches(of, 1)
    made.append(jax.device_get(compiling.jit(tiny.views(of))(raw, 3)))
  found = {name: x.shape[1:] for name, x in made[0].items() if name.startswith(('view_', 'small_'))}
  large = {f'view_{v}': (8, 8, 1) for v in range(2)}
  assert found == large | {f'small_{s}': (6, 6, 1) for s in range(3)}
  assert 'image' not in made[0]
  assert tiny.distance(made[1], made[0]) < 1e-5
  for name in ('small_1', 'small_2'):
    assert np.abs(made[0][name] - made[0]['small_0']).mean() > 0.05


def test_a_small_view_depends_neither_on_how_many_there_are_nor_on_the_large_ones():
  few, many = (
    tiny.run(SWAV, data__num_views=str(large), data__num_small_views=str(small)) for large, small in ((2, 4), (3, 5))
  )
  (raw,) = tiny.batches(few, 1)
  a, b = (compiling.jit(tiny.views(of))(raw, 3) for of in (few, many))
  for name in ('view_0', 'view_1', *(f'small_{s}' for s in range(4))):
    np.testing.assert_allclose(a[name], b[name], atol=1e-5)


def test_the_tower_sees_small_views_after_the_large_ones_at_their_own_size():
  of, state, batch, features = encoded(SWAV)
  assert features['g'].shape[:2] == (of.batch_size, 6)
  assert batch['small_0'].shape[1:] == (3, 3, 1)  # 3/7 of 8 pixels
  for at, name in enumerate(['view_0', 'view_1', *(f'small_{s}' for s in range(4))]):
    alone = compiling.jit(of.method.embed)(state.params, state.state, {'view_0': batch[name]})['projection']
    np.testing.assert_allclose(losses.unit(features['g'][:, at]), alone, atol=1e-5)


def test_the_teacher_sees_the_large_views_alone():
  *_, features = encoded(DINO)
  assert features['student'].shape[1] == 6 and features['teacher'].shape[1] == 2
  np.testing.assert_allclose(features['teacher'], features['student'][:, :2], atol=1e-5)  # it starts as its student


@pytest.mark.turns(2)
@both
def test_without_small_views_any_encoder_will_do(name):
  of, _, _, metrics = stepped(name, data__num_small_views='0', encoder__name='mlp', encoder__widths='(16,)')
  assert of.info.num_small_views == 0 and np.isfinite(metrics['loss'])


@pytest.mark.turns(2)
@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    (SWAV, dict(encoder__name='mlp'), r'inputs of another size than \[3, 3, 1\]: of the encoders, convnet'),
    (SWAV, dict(encoder__pool='flatten'), r'inputs of another size than'),
    (SWAV, dict(data__num_small_views='0', data__num_views='1'), 'the method compares 2 crops of an example'),
    (DINO, dict(data__num_small_views='0', data__num_views='1'), 'the method compares 2 crops of an example'),
    (SWAV, dict(method__prototypes='1'), 'prototypes must be at least 2, but it is 1'),
    (SWAV, dict(method__freeze_steps='-1'), 'freeze_steps must be at least 0, but it is -1'),
    (SWAV, dict(method__queue_size='-1'), 'queue_size must be at least 0, but it is -1'),
    (SWAV, dict(method__queue_size='16'), 'queue_size=16 must hold the keys of a batch, but they are 32'),
    (SWAV, dict(method__queue_start='-1'), 'queue_start must be at least 0, but it is -1.0'),
    (SWAV, dict(method__eps='0'), 'eps must be > 0, but it is 0.0'),
    (SWAV, dict(method__fold='ring'), "unknown key 'config.method.fold'"),
    (DINO, dict(method__momentum='1.5'), r'momentum must be from 0 to 1, but it is 1\.5'),
    (DINO, dict(method__centre_momentum='-1'), r'centre_momentum must be from 0 to 1, but it is -1\.0'),
    (DINO, dict(method__teacher_temperature='0'), r'method\.teacher_temperature must be > 0, but it is 0\.0'),
    (DINO, dict(method__student_temperature='0'), r'student_temperature must be > 0, but it is 0\.0'),
    (DINO, dict(method__warmup_epochs='-1'), r'warmup_epochs must be at least 0, but it is -1\.0'),
  ],
)
def test_what_cannot_be_meant_is_refused(name, options, message):
  with pytest.raises(Refusal, match=message):
    tiny.run(name, **options).check()


# --- SwAV ---


def test_the_loss_of_swav_is_the_swapped_prediction_of_the_codes_of_the_large_views():
  of, state, _, features = encoded(SWAV)
  z = crops(features['g'])
  scores = jnp.einsum('vbd,kd->vbk', z, state.params['prototypes'])
  codes = jnp.stack([losses.sinkhorn(own) for own in scores[:2]])
  out = loss(of, state, features)
  np.testing.assert_allclose(out.loss, losses.swapped_prediction(scores, codes).mean(), rtol=1e-5)
  assert out.loss > out.metrics['code_entropy'] > 0
  assert 0.95 < out.metrics['code_usage'] <= 1 + 1e-6


def test_prototypes_stay_of_unit_norm_and_learn_when_they_are_no_longer_frozen():
  _, before, frozen, _ = stepped(SWAV, 3, method__freeze_steps='3', train__steps='9')
  assert before.params['prototypes'].shape == (64, 16)
  np.testing.assert_allclose(frozen.params['prototypes'], before.params['prototypes'], atol=1e-6)
  assert tiny.distance(frozen.params['head'], before.params['head']) > 1e-3
  _, _, free, _ = stepped(SWAV, 4, method__freeze_steps='3', train__steps='9')
  assert np.abs(free.params['prototypes'] - before.params['prototypes']).max() > 1e-4
  for state in (before, frozen, free):
    np.testing.assert_allclose(np.linalg.norm(state.params['prototypes'], axis=1), 1, rtol=1e-5)


def test_frozen_prototypes_leave_the_moments_of_the_optimiser_at_zero():
  _, _, after, _ = stepped(SWAV, 3, method__freeze_steps='3', train__steps='9')
  moments = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(after.opt_state)
    if 'prototypes' in jax.tree_util.keystr(path)
  ]
  assert len(moments) == 2
  assert all((leaf == 0).all() for leaf in moments)


@functools.cache
def with_queue(start: str):
  return encoded(SWAV, method__queue_size='64', method__queue_start=start)


def test_the_queue_is_used_once_it_has_filled_since_its_start():
  of, state, _, features = with_queue('0.5')
  without, _, _, _ = encoded(SWAV)
  start = round(0.5 * of.info.steps_per_epoch)
  want = loss(without, state, features).loss
  for step in (0, start, start + 1):  # 64 embeddings are two batches
    np.testing.assert_allclose(loss(of, state, features, step).loss, want, rtol=1e-6)
  used = loss(of, state, features, start + 2).loss
  assert abs(used - want) > 1e-3
  np.testing.assert_allclose(loss(of, state, features, start + 50).loss, used, rtol=1e-6)


def test_the_queue_takes_part_in_the_assignment_alone():
  of, state, _, features = with_queue('0')
  z, prototypes = crops(features['g']), state.params['prototypes']
  scores = jnp.einsum('vbd,kd->vbk', z, prototypes)
  codes = [
    losses.sinkhorn(jnp.concatenate([bank.values @ prototypes.T, own]))[-of.batch_size :]
    for bank, own in zip(state.state['queue'], scores[:2], strict=True)
  ]
  out = loss(of, state, features, step=2)
  np.testing.assert_allclose(out.loss, losses.swapped_prediction(scores, jnp.stack(codes)).mean(), rtol=1e-5)


def test_each_view_has_a_queue_of_its_embeddings_which_takes_them_after_the_loss():
  of, state, _, features = with_queue('0')
  first, then = state.state['queue'], loss(of, state, features).state['queue']
  assert len(first) == len(then) == 2
  for old, new, own in zip(first, then, crops(features['g'])[:2], strict=True):
    assert int(new.head) == of.batch_size == 32
    np.testing.assert_allclose(new.values[:32], own, rtol=1e-5)
    np.testing.assert_array_equal(new.values[32:], old.values[32:])


@pytest.mark.slow
def test_codes_from_a_queue_are_the_same_on_one_device_and_on_eight():
  found = [
    stepped(SWAV, 4, devices=devices, method__queue_size='64', method__queue_start='0', train__steps='9')
    for devices in (1, 8)
  ]
  (_, _, alone, metrics), (_, _, shared, of_shared) = found
  np.testing.assert_allclose(of_shared['loss'], metrics['loss'], rtol=1e-4)
  assert tiny.distance(shared.state['queue'], alone.state['queue']) < 1e-3


# --- DINO ---


def outputs(last, g):
  return jnp.einsum('vbd,kd->vbk', crops(g), losses.unit(last))


def test_the_loss_of_dino_uses_the_centre_before_it_moves_it():
  of, state, _, features = encoded(DINO)
  centre = jnp.linspace(-0.2, 0.2, 64)
  student = outputs(state.params['last'], features['student'])
  teacher = outputs(state.state['teacher']['params']['last'], features['teacher'])
  out = loss(of, state, features, centre=centre)
  np.testing.assert_allclose(out.loss, losses.dino(student, teacher, centre).mean(), rtol=1e-5)
  want = 0.9 * centre + 0.1 * teacher.mean((0, 1))
  np.testing.assert_allclose(out.state['centre'], want, rtol=1e-5, atol=1e-7)
  assert abs(out.loss - losses.dino(student, teacher, want).mean()) > 1e-3


def test_the_teacher_starts_as_its_student_and_then_follows_it_with_the_last_layer():
  _, before, after, _ = stepped(DINO, method__momentum='0.9', method__freeze_last_epochs='0')
  teacher = before.state['teacher']['params']
  assert set(teacher) == {'encoder', 'head', 'last'}
  assert tiny.same_bits(teacher, before.params)
  want = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, teacher, after.params)
  assert tiny.distance(after.state['teacher']['params'], want) < 1e-6
  assert all(tiny.distance(after.params[part], before.params[part]) > 1e-4 for part in teacher)


@pytest.mark.slow
def test_the_last_layer_is_frozen_for_its_epochs_and_only_its_directions_count():
  options = dict(data__batch_size='720', train__steps='9', optimiser__weight_decay='0', schedule__warmup='0')
  _, before, frozen, _ = stepped(DINO, 1, **options)  # an epoch is one step
  _, _, free, _ = stepped(DINO, 2, **options)
  np.testing.assert_array_equal(frozen.params['last'], before.params['last'])
  assert np.abs(free.params['last'] - before.params['last']).max() > 1e-4
  of, state, _, features = encoded(DINO)
  longer = state._replace(params={**state.params, 'last': 3 * state.params['last']})
  np.testing.assert_allclose(loss(of, longer, features).loss, loss(of, state, features).loss, rtol=1e-5)


def test_teacher_and_centre_get_no_gradient():
  of, state, _, features = encoded(DINO)

  def objective(features, teacher, centre):
    changed = {**state.state, 'teacher': teacher, 'centre': centre}
    return of.method.loss(state.params, changed, features, {}, key=jax.random.key(0), step=0).loss

  arguments = (features, state.state['teacher'], state.state['centre'])
  of_features, of_teacher, of_centre = compiling.jit(jax.grad(objective, (0, 1, 2)))(*arguments)
  for leaf in jax.tree.leaves((of_features['teacher'], of_teacher, of_centre)):
    assert (np.asarray(leaf) == 0).all()
  assert (np.asarray(of_features['student']) != 0).any()


@pytest.mark.slow
def test_the_temperature_of_the_teacher_rises_over_its_epochs():
  options = dict(method__warmup_teacher_temperature='0.02', method__teacher_temperature='0.06')
  of, state, _, features = encoded(DINO, method__warmup_epochs='2', **options)
  steps = np.array([0, 1, 2, 5]) * of.info.steps_per_epoch
  found = [float(loss(of, state, features, step).metrics['teacher_temperature']) for step in steps]
  np.testing.assert_allclose(found, [0.02, 0.04, 0.06, 0.06], rtol=1e-5)
  of, state, _, features = encoded(DINO, **options)
  np.testing.assert_allclose(loss(of, state, features).metrics['teacher_temperature'], 0.06, rtol=1e-6)


@pytest.mark.slow
def test_evaluators_see_the_teacher():
  of, _, after, _ = stepped(DINO, 2, method__momentum='0.9')
  (raw,) = tiny.batches(of, 1)
  batch = {'view_0': compiling.jit(tiny.views(of))(raw, 0)['view_0']}
  embed = compiling.jit(of.method.embed)
  found = embed(after.params, after.state, batch)['features']
  moved = jax.tree.map(lambda x: x + 1, after.params)
  np.testing.assert_array_equal(embed(moved, after.state, batch)['features'], found)
  teacher = jax.tree.map(lambda x: x + 1, after.state['teacher'])
  assert np.abs(embed(after.params, {**after.state, 'teacher': teacher}, batch)['features'] - found).max() > 0.1
