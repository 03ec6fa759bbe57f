"""Laws of a train state that is split among devices: the numbers of a whole one, a share of its memory, one program.

And of its checkpoints: what one topology wrote another reads bit for bit, and goes on from.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P
from test_methods import float64, trained

from contrastive_jax.engine import state as states
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.engine.warmstart import warm_start
from contrastive_jax.types import Refusal

STEPS = 6
SPLIT = dict(devices=8, train__sharding="(('(params|opt_state)/.*', 'largest'),)")
CASES = {
  'mlp': {},
  'mlp by microbatch': dict(train__microbatch='16'),
  'batch norm under lars': dict(
    encoder__name='convnet', encoder__widths='(8, 16)', encoder__norm='batch', optimiser__name='lars'
  ),
  'a part frozen': dict(optimiser__rates="(('encoder/.*', 0),)"),
}
every_case = pytest.mark.parametrize('case', CASES)


def options(case: str) -> dict[str, str]:
  found = float64('ssl/simclr') | CASES[case]
  if found.get('optimiser__name') == 'lars':  # it has none
    del found['optimiser__epsilon']
  return found


class Trained(NamedTuple):
  fresh: states.TrainState
  state: states.TrainState
  losses: np.ndarray
  compiled: dict[str, int]  # how often each function of the step was


@functools.cache
def split(case: str) -> Trained:
  """Some steps in float64 of a run on eight devices that splits parameters and optimiser state."""
  with tiny.float64():
    of = tiny.run('ssl/simclr', **SPLIT, **options(case))
    fresh = jax.tree.map(lambda x: jax.device_put(np.asarray(x), x.sharding), tiny.fresh(of))  # steps consume theirs
    after, losses = trained(of, STEPS, tiny.fresh(of))
  pieces = {'step': of.step} if hasattr(of.step, 'lower') else tiny.pieces(of.step)
  return Trained(fresh, after, losses, {name: piece._cache_size() for name, piece in pieces.items()})


def bytes_on_first_device(tree) -> int:
  return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.turns(4)
@every_case
def test_training_with_a_split_state_equals_training_with_a_whole_one(case):
  with tiny.float64():
    whole, losses = trained(tiny.run('ssl/simclr', devices=8, **options(case)), STEPS)
  assert tiny.distance(split(case).state, whole) < 1e-9
  np.testing.assert_allclose(split(case).losses, losses, rtol=1e-9)


@every_case
def test_a_step_leaves_every_leaf_where_it_was_and_is_compiled_once(case):
  found = split(case)
  assert tiny.kinds(found.state) == tiny.kinds(found.fresh)
  assert set(found.compiled.values()) == {1}


@every_case
def test_each_of_eight_devices_holds_an_eighth_of_what_is_split(case):
  after = split(case).state
  for tree in (after.params, after.opt_state):
    arrays = [x for x in jax.tree.leaves(tree) if x.ndim]  # counters are scalars
    whole = [x for x in arrays if x.sharding.is_fully_replicated]
    assert all(not any(size % 8 == 0 for size in x.shape) for x in whole)
    assert bytes_on_first_device(arrays) * 8 == sum(x.nbytes for x in arrays) + 7 * sum(x.nbytes for x in whole)
  both = after.params, after.opt_state
  assert bytes_on_first_device(both) < sum(x.nbytes for x in jax.tree.leaves(both)) / 7.5


def test_parameters_are_gathered_for_the_step_and_examples_are_not():
  of = tiny.run('ssl/simclr', **SPLIT)
  text = of.step.lower(tiny.fresh(of), tiny.batches(of, 1)[0]).compile().as_text()
  gathered = [line for line in text.splitlines() if ' all-gather(' in line or ' all-gather-start(' in line]
  assert gathered
  kernels = {x.shape for x in jax.tree.leaves(tiny.fresh(of).params) if x.ndim == 2}
  assert any(f'[{rows},{cols}]' in line for rows, cols in kernels for line in gathered), gathered
  assert not any(f'[{of.batch_size},64]' in line for line in gathered), gathered


@pytest.mark.parametrize(
  ('shape', 'spec'),
  [
    ((), P()),
    ((7,), P()),
    ((16,), P('data')),
    ((12, 16), P(None, 'data')),
    ((24, 100), P('data')),
    ((16, 16), P('data')),
    ((3, 3, 64, 128), P(None, None, None, 'data')),
    ((0, 5), P()),
  ],
)
def test_the_largest_dimension_that_divides_is_split_and_what_has_none_is_whole(shape, spec):
  leaves = {'w': jax.ShapeDtypeStruct(shape, jnp.float32), 'b': jax.ShapeDtypeStruct((8,), jnp.float32)}
  rules = (('.*', 'largest'),)
  assert states.shardings(leaves, states.data_mesh(8), rules)['w'].spec == spec
  assert states.shardings(leaves, states.data_mesh(1), rules)['w'].spec == P()


@pytest.mark.parametrize(
  ('rules', 'message'),
  [
    (
      (('kernel', (None, None, 'data')),),
      r"'kernel' of .* splits nothing: .* has a dimension for \(None, None, 'data'\)",
    ),
    ((('odd', 'largest'),), "'odd' of config.train.sharding splits nothing"),
    ((('.*', ()), ('kernel', 'largest')), "'kernel' of config.train.sharding counts for nothing: earlier rules match"),
  ],
)
def test_a_rule_that_would_save_no_memory_is_refused(rules, message):
  tree = {'kernel': jnp.zeros((16, 8)), 'odd': jnp.zeros(7)}
  with pytest.raises(Refusal, match=message):
    states.shardings(tree, states.data_mesh(8), rules)


def test_the_first_rule_that_matches_counts_so_that_small_leaves_can_stay_whole():
  tree = {'kernel': jnp.zeros((16, 8)), 'bias': jnp.zeros(8), 'other': jnp.zeros((8, 8))}
  rules = (('.*bias', ()), ('kernel', (None, 'data')), ('.*', 'largest'))
  found = states.shardings(tree, states.data_mesh(8), rules)
  assert {name: each.spec for name, each in found.items()} == dict(kernel=P(None, 'data'), bias=P(), other=P('data'))


# Where a state comes from and where it goes.
KERNELS = dict(devices=8, train__sharding="(('.*kernel', ('data', None)),)")
TOPOLOGIES = {'one': dict(devices=1), 'four': dict(devices=4), 'kernels': KERNELS, 'split': SPLIT}


@functools.cache
def at(topology: str):
  """A run there; to be called in float64."""
  return tiny.run('ssl/simclr', **TOPOLOGIES[topology], **float64('ssl/simclr'))


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ('before', 'after'),
  [('split', 'one'), ('split', 'four'), ('split', 'kernels'), ('one', 'split'), ('kernels', 'four')],
)
def test_what_one_topology_saved_another_restores_bit_for_bit_and_goes_on_from(before, after, tmp_path):
  with tiny.float64():
    state, _ = trained(at(before), 2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state)
    like = tiny.fresh(at(after))
    restored, step = checkpoints.restore(like)
    checkpoints.close()
    assert step == 2
    assert tiny.kinds(restored) == tiny.kinds(like)
    assert tiny.same_bits(restored, state)
    want, losses = trained(at(before), 2, state, start=2)
    got, found = trained(at(after), 2, restored, start=2)
  assert tiny.distance(got, want) < 1e-9
  np.testing.assert_allclose(found, losses, rtol=1e-9)


def test_a_warm_start_puts_each_parameter_where_the_rules_say_and_leaves_fresh_ones_alone(tmp_path):
  with tiny.float64():
    state, _ = trained(at('one'), 1)
    checkpoints = Checkpoints(tmp_path / 'checkpoints')
    checkpoints.save(1, state)
    checkpoints.close()
    fresh = tiny.fresh(at('split'))
    started = warm_start(fresh, str(tmp_path), 'head/.*')
  assert tiny.kinds(started) == tiny.kinds(fresh)
  assert tiny.same_bits(started.params['encoder'], state.params['encoder'])
  # The same arrays: another process may hold parts that could not be put again here.
  assert all(map(operator.is_, jax.tree.leaves(started.params['head']), jax.tree.leaves(fresh.params['head'])))
