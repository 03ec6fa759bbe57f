"""Laws of every method, by way of every config at `:tiny`. What one law has compiled the next one uses.

By default the first config of each kind meets one fold on eight devices; `-m slow` runs the whole product. Configs of
one kind run the same code but for their loss, which the other laws hold for every loss by itself.
"""

import contextlib
import functools
import re

import compiling
import jax
import numpy as np
import optax
import pytest
import tiny

from contrastive_jax.engine import resolve, step
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.types import Refusal

STEPS = 20
FOLDS = ('ring', 'chunked')
# The fold that a config meets by default takes turns, so that every fold is met by some configs.
TURN = {name: FOLDS[i % len(FOLDS)] for i, name in enumerate([*tiny.USUAL, *tiny.UNUSUAL])}
# Methods that compare no pairs have no fold.
TURN |= {name: None for name in tiny.NAMES if 'fold' not in tiny.config(name).method}
TURNS = [(name, TURN[name]) for name in tiny.USUAL]
PRODUCT = [(name, fold) for name in tiny.NAMES for fold in (('auto', *FOLDS) if TURN[name] else (None,))]
OTHERS = [pytest.param(*each, marks=pytest.mark.slow) for each in PRODUCT if each not in TURNS]

every_fold = pytest.mark.parametrize(('name', 'fold'), TURNS + OTHERS)
# What float32 rounds depends on the encoder and the fold: a few kinds meet both.
in_float32 = pytest.mark.parametrize(
  ('name', 'fold'), [*TURNS[:4], *(pytest.param(*each, marks=pytest.mark.slow) for each in TURNS[4:]), *OTHERS]
)


def float64(name: str) -> dict[str, str]:
  """All networks in float64, and a rate at which they learn in few steps.

  Before a batch norm a bias has no gradient but rounding, which Adam would make a step of.
  """
  config = tiny.config(name)
  steps = dict(train__steps=str(STEPS), schedule__learning_rate='0.01', optimiser__epsilon='1e-4')
  if 'queue_size' in config.method:  # while random vectors leave a queue, its loss rises
    steps['method__queue_size'] = str(config.data.batch_size)
  if 'centre_momentum' in config.method:  # and while a centre settles, too
    steps['method__centre_momentum'] = '0'
  return steps | {f'{network}__dtype': 'float64' for network in resolve.NETWORKS if network in config}


def folded(fold: str | None) -> dict[str, str]:
  """The option of a method that has a fold."""
  return {} if fold is None else {'method__fold': fold}


def stochastic(name: str) -> dict[str, str]:
  """Dropout in the encoder, where it has it: what it drops must depend neither on the place nor on the cut."""
  return {'encoder__dropout': '0.2'} if 'dropout' in tiny.config(name).encoder else {}


def stepped(step_of_run, state, batches):
  """The state after a step on each batch, and the losses; nothing moves between host and devices unasked."""
  losses = []
  for batch in batches:
    with jax.transfer_guard('disallow'):
      state, metrics = step_of_run(state, batch)
    losses.append(metrics['loss'])
  return state, np.array(jax.device_get(losses))


def trained(of, count: int, state=None, start: int = 0):
  """The state after steps of the run, and their losses."""
  return stepped(of.step, tiny.fresh(of) if state is None else state, tiny.batches(of, count, start))


def conditioned(name: str):
  """Where gradients divide by singular values, what float32 rounds they multiply: options and a context of float64."""
  decomposes = tiny.config(name).method.get('loss') in ('mmcr', 'w_mse')
  return float64(name) if decomposes else stochastic(name), tiny.float64() if decomposes else contextlib.nullcontext()


@functools.cache
def reference(name: str):
  """Twenty steps in float64 on one device."""
  with tiny.float64():
    state, losses = trained(tiny.run(name, **float64(name)), STEPS)
    return jax.tree.map(np.asarray, state), losses


@functools.cache
def passage(name: str) -> list[tuple]:
  """States, batches, outputs and gradients of twenty steps on one device, in float32 where that can be compared."""
  options, _ = conditioned(name)
  of, of_batch = tiny.run(name, **options), tiny.gradients(name, **options)

  @compiling.jit
  def advance(state, gradients):
    updates, opt_state = of.recipes({}).optimiser.update(gradients, state.opt_state, state.params)
    return state._replace(step=state.step + 1, params=optax.apply_updates(state.params, updates), opt_state=opt_state)

  state, found = tiny.fresh(of), []
  for batch in tiny.batches(of, STEPS):
    out, gradients = of_batch(state, batch)
    found.append(jax.device_get((state, batch, out, gradients)))
    state = advance(state, gradients)
  return found


def assert_equal(got: tuple, want: tuple):
  """Outputs and gradients, to 1e-5; what is no gradient but rounding, to 1e-5 of a share of the largest."""
  (out, gradients), (wanted, of_wanted) = jax.device_get(got), want
  assert abs(out.loss - wanted.loss) <= 1e-5 * max(1.0, abs(wanted.loss))
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_wanted))
  assert tiny.distance(gradients, of_wanted, floor=0.05 * largest) < 1e-5
  assert tiny.distance(out.state, wanted.state) < 1e-5


# One test, so that what it compiles is compiled once.
@pytest.mark.turns(12)
@every_fold
def test_training_on_eight_devices_falls_equals_that_on_one_and_resumes_bit_for_bit(name, fold, tmp_path):
  want, losses = reference(name)
  assert np.isfinite(losses).all()
  assert losses[-5:].mean() < losses[1:6].mean()  # the first step may meet a queue of random vectors
  with tiny.float64():
    of = tiny.run(name, devices=8, **folded(fold), **float64(name))
    fresh = tiny.fresh(of)
    kinds = tiny.kinds(fresh)
    early, began = trained(of, 3, fresh)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, early)
    state, found = trained(of, STEPS - 3, early, start=3)
    restored, done = checkpoints.restore(tiny.fresh(of))
    checkpoints.close()
    again, afterwards = trained(of, STEPS - 3, restored, start=done)
  assert tiny.distance(state, want) < 1e-9
  np.testing.assert_allclose(np.concatenate([began, found]), losses, rtol=1e-9)
  # One compiled step served them all, and handed back what it was given, where it was.
  assert of.step._cache_size() == 1
  assert tiny.kinds(state) == kinds
  assert int(state.step) == STEPS
  assert tiny.same_bits(again, state)
  assert afterwards.tobytes() == found.tobytes()


@pytest.mark.turns(6)
@in_float32
def test_one_device_equals_eight_in_float32_from_the_same_parameters(name, fold):
  options, precision = conditioned(name)
  with precision:
    of = tiny.run(name, devices=8, **folded(fold), **options)
    of_batch = tiny.gradients(name, devices=8, **folded(fold), **options)
    for (state, batch, *want), there in zip(passage(name), tiny.batches(of, STEPS), strict=True):
      np.testing.assert_array_equal(there['index'], batch['index'])
      assert_equal(of_batch(tiny.place(state, of), there), want)


@pytest.mark.turns(9)
@every_fold
@pytest.mark.parametrize('devices', [pytest.param(1, marks=pytest.mark.slow), 8])
def test_cached_equals_plain_in_value_and_gradient(name, fold, devices):
  options, precision = conditioned(name)
  with precision:
    of = tiny.run(name, devices=devices, **folded(fold), **options)
    if not of.method.per_example:
      pytest.skip('its encoders mix the examples of a batch')
    of_batch = tiny.cached(of, max(of.batch_size // 4, devices))
    for (state, _, *want), batch in zip(passage(name), tiny.batches(of, 2), strict=False):
      assert_equal(of_batch(tiny.place(state, of), batch), want)
  assert {k: v._cache_size() for k, v in tiny.pieces(of_batch).items()} == dict(embed=1, of_loss=1, pull_back=1)


@pytest.mark.slow
def test_training_with_microbatches_equals_training_without():
  """Of the same views: two compiled programs may round float32 pixels differently."""
  with tiny.float64():
    of = tiny.run('ssl/simclr', **float64('ssl/simclr'))
    make = functools.partial(step.make, of.recipes, lambda batch, seed, done: batch, mesh=of.mesh)
    views = compiling.jit(tiny.views(of))
    batches = [views(raw, np.int32(done)) for done, raw in enumerate(tiny.batches(of, 5))]
    (whole, losses), (pieces, found) = (stepped(make(microbatch=size), tiny.fresh(of), batches) for size in (None, 8))
  assert tiny.distance(pieces, whole) < 1e-9
  np.testing.assert_allclose(found, losses, rtol=1e-9)


@pytest.mark.turns(3)
@pytest.mark.parametrize('views', ['digits', 'garments', 'simclr'])
def test_eight_devices_augment_the_same_examples_alike(views):
  made = []
  for devices in (1, 8):
    of = tiny.run('ssl/mv_dhel', devices=devices, data__views__name=views)
    batch = compiling.jit(tiny.views(of))(tiny.batches(of, 1, start=3)[0], np.int32(3))
    made.append({k: v for k, v in jax.device_get(batch).items() if k.startswith(('view_', 'index'))})
  assert set(made[0]) == {'index', 'view_0', 'view_1', 'view_2', 'view_3'}
  assert tiny.distance(made[1], made[0]) < 1e-5
  assert np.abs(made[0]['view_0'] - made[0]['view_1']).mean() > 0.1


def test_cached_gradients_refuse_batch_norm_and_sizes_that_do_not_divide():
  with pytest.raises(Refusal, match=re.escape('mix the examples of a batch: choose --config.encoder.norm=group')):
    tiny.run('ssl/simclr', encoder__norm='batch', encoder__widths='(8, 8)', train__microbatch='8')
  with pytest.raises(Refusal, match='microbatch=12 does not divide among 8 devices'):
    tiny.run('ssl/simclr', devices=8, train__microbatch='12')
  with pytest.raises(Refusal, match=r'microbatch=24 does not divide config\.data\.batch_size=32'):
    tiny.run('ssl/simclr', train__microbatch='24').check()
  with pytest.raises(Refusal, match=r'config\.train\.microbatch must be at least 1, but it is 0'):
    tiny.run('ssl/simclr', train__microbatch='0')


def test_cached_gradients_of_a_large_batch_need_a_fraction_of_the_memory_of_plain_ones():
  tiles = "{'name': 'chunked', 'rows': 128, 'cols': 128}"
  options = dict(encoder__name='convnet', encoder__widths='(16, 32)', data__batch_size='512', method__fold=tiles)
  of, size = tiny.run('ssl/simclr', **options), 32
  state, (batch,) = tiny.fresh(of), tiny.batches(of, 1)
  plain = tiny.gradients('ssl/simclr', **options).lower(state, batch).compile()
  pieces = tiny.pieces(tiny.cached(of, size))
  number = jax.device_put(np.int32(0), of.replicated())
  features = jax.eval_shape(pieces['embed'], state, batch, number)
  whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct((of.batch_size, *x.shape[1:]), x.dtype), features)
  arguments = dict(
    embed=(state, batch, number),
    of_loss=(state, batch, [features] * (of.batch_size // size)),
    pull_back=(state, batch, whole, state.params, number),
  )
  compiled = {name: pieces[name].lower(*arguments[name]).compile() for name in pieces}
  needed = {name: each.memory_analysis().temp_size_in_bytes for name, each in compiled.items()}
  assert max(needed.values()) * 4 < plain.memory_analysis().temp_size_in_bytes, needed
