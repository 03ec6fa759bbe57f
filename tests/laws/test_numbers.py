"""Seed, temperature and learning rate are inputs of a compiled step, so that a sweep over them compiles once."""

import compiling
import numpy as np
import pytest
import tiny

from contrastive_jax.engine import gradient, step
from contrastive_jax.types import Refusal

NAME = 'ssl/simclr'
OTHERS = [dict(seed='5'), dict(method__temperature='0.31'), dict(schedule__learning_rate='0.07')]


def lowered(of):
  return of.step.lower(*of.abstract()).as_text()


def test_runs_that_differ_in_seed_temperature_or_rate_are_one_program():
  program = lowered(tiny.run(NAME))
  assert all(lowered(tiny.run(NAME, **other)) == program for other in OTHERS)
  assert lowered(tiny.run(NAME, schedule__warmup='0.5')) != program


@pytest.mark.parametrize('other', OTHERS, ids=lambda other: next(iter(other)))
def test_a_number_given_as_an_input_counts_as_one_written_into_the_program(other):
  of = tiny.run(NAME, **other)
  with tiny.quickly():
    written = step.make(lambda numbers: of.recipes({}), of.expand, mesh=of.mesh)
  batch = tiny.batches(of, 1)[0]
  (got, found), (want, wanted) = of.step(tiny.fresh(of), batch), written(tiny.fresh(of), batch)
  assert tiny.distance(got.params, want.params) < 1e-5
  np.testing.assert_allclose([found['loss'], found['lr']], [wanted['loss'], wanted['lr']], rtol=1e-5)
  usual = tiny.run(NAME)
  _, other_found = usual.step(tiny.fresh(usual), tiny.batches(usual, 1)[0])
  assert (float(other_found['loss']), float(other_found['lr'])) != (float(found['loss']), float(found['lr']))


def test_a_step_refuses_the_state_of_a_run_with_other_inputs():
  of, without = (tiny.run('ssl/amcl', method__temperature=t) for t in ('0.2', 'None'))
  with pytest.raises(ValueError, match=r"reads \['method.temperature', .* given a train state of \['schedule"):
    of.step(tiny.fresh(without), tiny.batches(without, 1)[0])


def test_parameters_and_views_differ_from_seed_to_seed():
  one, other = tiny.run(NAME), tiny.run(NAME, seed='5')
  assert tiny.distance(tiny.fresh(one).params, tiny.fresh(other).params) > 0.1
  batch = tiny.batches(one, 1)[0]
  made = [compiling.jit(tiny.views(of))(batch, np.int32(0))['view_0'] for of in (one, other)]
  assert np.abs(made[0] - made[1]).max() > 0.1


def test_a_temperature_that_no_loss_takes_is_refused_before_the_first_step():
  of = tiny.run(NAME, method__temperature='-0.1')
  with pytest.raises(Refusal, match='temperature must be > 0'):
    of.check()


def test_gradients_follow_the_numbers_of_the_train_state():
  of = tiny.run(NAME)
  start, batch = tiny.fresh(of), tiny.batches(of, 1)[0]
  of_batch = compiling.jit(gradient.plain(tiny.method_of(of), of.expand))
  out, _ = of_batch(start, batch)
  warmer, _ = of_batch(start._replace(numbers={**start.numbers, 'method.temperature': np.float32(1.0)}), batch)
  assert float(warmer.loss) != float(out.loss)
