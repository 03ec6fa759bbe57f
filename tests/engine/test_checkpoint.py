"""Checkpoints: what is saved comes back, damage is noticed, a kill at any moment is survived."""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from contrastive_jax.engine import checkpoint
from contrastive_jax.types import Refusal


class TrainState(NamedTuple):
  step: Any
  params: Any
  opt_state: Any
  state: Any


class Queue(NamedTuple):
  values: Any
  head: Any


def train_state(seed=0, width=4):
  params = {'dense': {'kernel': jax.random.normal(jax.random.key(seed), (8, width)), 'bias': jnp.zeros(width)}}
  optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1e-3, 0.0, 10)))
  state = {
    'stats': {},
    'queue': Queue(jnp.ones((3, 2), jnp.bfloat16), jnp.int32(1)),
    'empty': jnp.zeros((0, 5)),
    'seed': 7,
    'labels': np.arange(3),
  }
  return TrainState(jnp.int32(seed), params, optimiser.init(params), state)


def assert_same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert isinstance(a, type(b)) and np.asarray(a).dtype == np.asarray(b).dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def saved(directory, *steps, **options):
  """A directory with checkpoints of train_state(step)."""
  with_checkpoints = checkpoint.Checkpoints(directory, **options)
  for step in steps:
    with_checkpoints.save(step, train_state(step))
  with_checkpoints.close()


def largest_file(path):
  return max((file for file in (path / 'arrays').rglob('*') if file.is_file()), key=lambda file: file.stat().st_size)


def test_a_train_state_comes_back_with_its_structure_types_and_values(tmp_path):
  saved(tmp_path, 3)
  state, step = checkpoint.Checkpoints(tmp_path).restore(train_state(0))
  assert step == 3
  assert_same(state, train_state(3))


def test_an_empty_directory_restores_to_none_and_is_not_created(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'none')
  assert checkpoints.restore(train_state()) is None
  assert checkpoints.steps() == [] and not (tmp_path / 'none').exists()


def test_a_state_donated_right_after_save_is_saved_as_it_was(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  state = {'w': jnp.ones((512, 512)), 'host': np.ones(4)}
  checkpoints.save(1, state)
  state['host'][:] = 5
  double = jax.jit(lambda x: x * 2, donate_argnums=0)
  double(double(state['w'])).block_until_ready()
  checkpoints.wait()
  restored, _ = checkpoints.restore({'w': jax.ShapeDtypeStruct((512, 512), jnp.float32), 'host': np.zeros(4)})
  assert float(restored['w'].max()) == 1 and restored['host'].max() == 1


@pytest.mark.parametrize(('before', 'after'), [(8, 1), (1, 8)])
def test_a_checkpoint_of_one_topology_restores_on_another(tmp_path, before, after):
  def put(count, array):
    mesh = jax.make_mesh((count,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec('data')))

  values = np.arange(32.0, dtype=np.float32).reshape(16, 2)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, {'w': put(before, values)})
  like = put(after, np.zeros_like(values))
  restored, _ = checkpoints.restore({'w': like})
  assert restored['w'].sharding == like.sharding
  np.testing.assert_array_equal(np.asarray(restored['w']), values)


def test_the_newest_and_the_best_are_kept(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_last=2, keep_best=1)
  for step, score in [(1, 0.1), (2, 0.9), (3, float('nan')), (4, None), (5, 0.5)]:
    checkpoints.save(step, train_state(step), score=score)
  checkpoints.wait()
  assert checkpoints.steps() == [2, 4, 5]


def test_as_many_of_the_best_are_kept_as_there_are_scored(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_last=1, keep_best=3)
  kept = []
  for step, score in [(1, 0.5), (2, None), (3, 0.9), (4, None), (5, 0.1), (6, 0.7), (7, None)]:
    checkpoints.save(step, train_state(step), score=score)
    checkpoints.wait()
    kept.append(checkpoints.steps())
  assert kept == [[1], [1, 2], [1, 3], [1, 3, 4], [1, 3, 5], [1, 3, 6], [1, 3, 6, 7]]


def test_without_the_best_only_the_newest_are_kept(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_last=1, keep_best=0)
  for step, score in [(1, 0.5), (2, 0.1)]:
    checkpoints.save(step, train_state(step), score=score)
  checkpoints.wait()
  assert checkpoints.steps() == [2]


def test_the_step_restored_from_outlives_damaged_newer_ones(tmp_path):
  saved(tmp_path, 10, 20)
  largest_file(tmp_path / '00000020').unlink()
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_last=2)
  assert checkpoints.restore(train_state())[1] == 10
  checkpoints.save(20, train_state(99))
  checkpoints.wait()
  assert checkpoints.steps() == [10, 20]
  assert_same(checkpoints.restore(train_state())[0], train_state(99))


def damage_missing(file):
  file.unlink()
  return 'is missing'


def damage_truncated(file):
  os.truncate(file, file.stat().st_size // 2)
  return 'bytes instead of'


def damage_extended(file):
  with file.open('ab') as stream:
    stream.write(b'\0')
  return 'bytes instead of'


def damage_flipped_bit(file):
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  return 'does not match its checksum'


DAMAGES = [damage_missing, damage_truncated, damage_extended, damage_flipped_bit]


@pytest.mark.parametrize('damage', DAMAGES)
def test_damage_is_named_in_one_warning_and_the_checkpoint_before_is_used(tmp_path, caplog, damage):
  saved(tmp_path, 1, 2)
  file = largest_file(tmp_path / '00000002')
  what = damage(file)
  with caplog.at_level(logging.WARNING, logger=checkpoint.__name__):
    state, step = checkpoint.Checkpoints(tmp_path).restore(train_state())
  assert step == 1
  assert_same(state, train_state(1))
  (warning,) = [record.getMessage() for record in caplog.records]
  assert 'checkpoint 2' in warning and file.name in warning and what in warning and '\n' not in warning


def test_a_flipped_bit_is_noticed_in_every_file(tmp_path):
  saved(tmp_path, 1)
  for file in (tmp_path / '00000001').rglob('*'):
    if file.is_file() and file.stat().st_size:
      good = file.read_bytes()
      damage_flipped_bit(file)
      with pytest.raises(Refusal, match='none is usable'):
        checkpoint.Checkpoints(tmp_path).restore(train_state())
      file.write_bytes(good)
  assert checkpoint.Checkpoints(tmp_path).restore(train_state())[1] == 1


@pytest.mark.parametrize('content', [None, '', '{', '[]', '{}', '{"manifest.json": 3}', '{"a\\u0000": ["x", 1]}'])
def test_a_checkpoint_without_valid_checksums_is_passed_over(tmp_path, caplog, content):
  saved(tmp_path, 1, 2)
  sums = tmp_path / '00000002' / 'checksums.json'
  sums.unlink() if content is None else sums.write_text(content)
  assert checkpoint.Checkpoints(tmp_path).restore(train_state())[1] == 1
  assert 'checksums.json' in caplog.text


def test_a_save_that_never_committed_is_passed_over_and_cleared_by_the_next(tmp_path, caplog):
  saved(tmp_path, 1)
  shutil.copytree(tmp_path / '00000001', tmp_path / '00000002.partial')
  shutil.copytree(tmp_path / '00000001', tmp_path / '00000000.deleted')
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.restore(train_state())[1] == 1
  assert 'half-written' in caplog.text and '00000002.partial' in caplog.text
  checkpoints.save(3, train_state(3))
  checkpoints.wait()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['00000001', '00000003']


def test_a_run_killed_in_its_first_save_starts_again(tmp_path):
  (tmp_path / '00000005.partial' / 'arrays').mkdir(parents=True)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.restore(train_state()) is None
  checkpoints.save(5, train_state(5))
  assert checkpoints.restore(train_state())[1] == 5


def test_nothing_usable_is_a_refusal_and_nothing_is_deleted(tmp_path):
  saved(tmp_path, 1, 2)
  before = sorted(path for path in tmp_path.rglob('*'))
  for step in (1, 2):
    damage_flipped_bit(largest_file(tmp_path / f'0000000{step}'))
  with pytest.raises(Refusal, match=r'none is usable \(2: .* checksum; 1: .* checksum\)'):
    checkpoint.Checkpoints(tmp_path).restore(train_state())
  assert sorted(path for path in tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
  ('like', 'message'),
  [
    (train_state(width=6), r"'params/dense/bias' is float32\[4\] there and float32\[6\] here"),
    (train_state()._replace(params={}), r"'params/dense/bias' is float32\[4\] there and absent here"),
    (train_state()._replace(step=jnp.float32(0)), r"'step' is int32\[\] there and float32\[\] here"),
    (
      train_state()._replace(opt_state=optax.sgd(0.1, momentum=0.9).init({'w': jnp.ones(2)})),
      r"'opt_state/0/trace/w' is absent there and float32\[2\] here",
    ),
  ],
)
def test_another_model_is_refused_naming_the_first_leaf_that_differs(tmp_path, like, message):
  saved(tmp_path, 1)
  with pytest.raises(Refusal, match=message):
    checkpoint.Checkpoints(tmp_path).restore(like)


def test_two_leaves_of_one_path_are_an_error(tmp_path):
  with pytest.raises(ValueError, match="path 'a/b'"):
    checkpoint.Checkpoints(tmp_path).save(1, {'a': {'b': np.zeros(1)}, 'a/b': np.zeros(1)})


def test_saving_over_another_run_is_refused(tmp_path):
  saved(tmp_path, 7)
  with pytest.raises(Refusal, match='already holds checkpoint 7'):
    checkpoint.Checkpoints(tmp_path).save(5, train_state(5))
  assert checkpoint.Checkpoints(tmp_path).steps() == [7]


def test_saving_the_restored_step_again_keeps_it(tmp_path):
  saved(tmp_path, 7)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.restore(train_state())
  checkpoints.save(7, train_state(8))
  assert_same(checkpoints.restore(train_state())[0], train_state(7))


def test_an_error_of_the_background_save_is_raised_by_wait(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, train_state(1))
  checkpoints.wait()
  checkpoints.save(2, train_state(2))
  (tmp_path / '00000002').write_text('in the way')
  with pytest.raises(OSError):
    checkpoints.close()
  assert checkpoint.Checkpoints(tmp_path).restore(train_state())[1] == 1


def test_parameters_and_state_load_without_knowing_the_model(tmp_path):
  saved(tmp_path, 1, 2)
  loaded = checkpoint.restore_params(tmp_path)
  assert set(loaded) == {'params', 'state'}
  np.testing.assert_array_equal(loaded['params']['dense']['kernel'], train_state(2).params['dense']['kernel'])
  assert loaded['state']['queue']['values'].dtype == jnp.bfloat16 and loaded['state']['empty'].shape == (0, 5)


def test_a_part_of_the_parameters_loads_into_given_shapes_and_shardings(tmp_path):
  saved(tmp_path, 1)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  like = {'params': {'dense': {'kernel': jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=sharding)}}}
  kernel = checkpoint.restore_params(tmp_path, like=like)['params']['dense']['kernel']
  assert kernel.sharding == sharding
  np.testing.assert_array_equal(np.asarray(kernel), train_state(1).params['dense']['kernel'])
  with pytest.raises(Refusal, match='params/dense/scale'):
    checkpoint.restore_params(tmp_path, like={'params': {'dense': {'scale': np.zeros(4)}}})


def test_a_warm_start_from_nothing_is_refused(tmp_path):
  with pytest.raises(Refusal, match='no checkpoint to start from'):
    checkpoint.restore_params(tmp_path / 'nowhere')


def kernel_of(loaded):
  return np.asarray(loaded['params']['dense']['kernel'])


@pytest.fixture
def scored(tmp_path):
  """Checkpoints of the steps 1 to 4: 2 and 3 have the highest score, 4 has none."""
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_last=4)
  for step, score in [(1, 0.5), (2, 0.9), (3, 0.9), (4, None)]:
    checkpoints.save(step, train_state(step), score=score)
  checkpoints.close()
  return tmp_path


@pytest.mark.parametrize(('choice', 'step'), [('newest', 4), ('best', 3), (2, 2), ('2', 2), (1, 1)])
def test_the_newest_the_newest_of_the_best_or_any_step_can_be_chosen(scored, choice, step):
  np.testing.assert_array_equal(
    kernel_of(checkpoint.restore_params(scored, checkpoint=choice)), train_state(step).params['dense']['kernel']
  )


@pytest.mark.parametrize('file', ['largest', 'manifest.json'])
def test_a_damaged_best_is_named_and_the_next_best_is_used(scored, caplog, file):
  path = scored / '00000003'
  damage_truncated(largest_file(path) if file == 'largest' else path / file)
  loaded = checkpoint.restore_params(scored, checkpoint='best')
  np.testing.assert_array_equal(kernel_of(loaded), train_state(2).params['dense']['kernel'])
  assert 'checkpoint 3' in caplog.text and 'damaged' in caplog.text


def test_a_chosen_step_that_is_damaged_is_refused(scored):
  damage_flipped_bit(largest_file(scored / '00000003'))
  with pytest.raises(Refusal, match=r'checkpoint 3 in .* is damaged: .* does not match its checksum'):
    checkpoint.restore_params(scored, checkpoint=3)


@pytest.mark.parametrize(
  ('choice', 'message'),
  [
    (7, 'no checkpoint of step 7: the checkpoints in .* are 1, 2, 3, 4$'),
    ('bset', "'newest', 'best' or a step, not 'bset': the checkpoints in .* are 1, 2, 3, 4$"),
    (-1, "'newest', 'best' or a step, not '-1'"),
  ],
)
def test_a_choice_that_does_not_exist_is_refused_naming_the_steps_there_are(scored, choice, message):
  with pytest.raises(Refusal, match=message):
    checkpoint.restore_params(scored, checkpoint=choice)


def test_where_none_has_a_score_the_best_is_refused_naming_the_steps_there_are(tmp_path):
  saved(tmp_path, 1, 2)
  with pytest.raises(Refusal, match=r'no usable checkpoint has a score.*the checkpoints in .* are 1, 2$'):
    checkpoint.restore_params(tmp_path, checkpoint='best')
  with pytest.raises(Refusal, match=r'the checkpoints in .* are none$'):
    checkpoint.restore_params(tmp_path / 'nowhere', checkpoint='best')


WRITER = textwrap.dedent("""
  import sys
  import jax
  import jax.numpy as jnp
  jax.config.update('jax_platforms', 'cpu')
  from contrastive_jax.engine.checkpoint import Checkpoints
  checkpoints = Checkpoints(sys.argv[1])
  like = {'w': jnp.zeros((256, 1024)), 'step': jnp.int32(0)}
  restored = checkpoints.restore(like)
  step = 0 if restored is None else restored[1]
  while True:
    step += 1
    checkpoints.save(step, {'w': jnp.full((256, 1024), step, jnp.float32), 'step': jnp.int32(step)}, score=-step)
    print(step, flush=True)
""")


def test_a_kill_at_a_random_moment_leaves_a_restorable_directory(tmp_path):
  like = {'w': np.zeros((256, 1024), np.float32), 'step': np.int32(0)}
  moments = random.Random(0)
  reached = 0
  for _ in range(4):
    child = subprocess.Popen([sys.executable, '-c', WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    started = [int(child.stdout.readline()) for _ in range(3)]  # steps 1 and 2 of this child are committed
    time.sleep(moments.uniform(0, 0.15))
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=120)
    state, step = checkpoint.Checkpoints(tmp_path).restore(like)
    assert step >= started[-1] - 1 > reached
    assert state['step'] == step and (state['w'] == step).all()
    reached = step
