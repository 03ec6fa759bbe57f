"""Runs that differ in numbers alone, trained as one program, against each of them alone."""

import contextlib
import json
import threading

import numpy as np
import pytest
import tiny

from contrastive_jax.engine import loop, together, workdir
from contrastive_jax.engine.reporter import NonFinite
from contrastive_jax.types import Refusal

OTHERS = [{}, dict(seed='3'), dict(method__temperature='0.4', schedule__learning_rate='0.01')]
SHORT = dict(train__steps='10', train__eval_every='5', train__checkpoint_every='4')


def entered(path, of):
  return workdir.enter(str(path), tiny.config('ssl/simclr', **of), tiny.run('ssl/simclr', **of).sources)


def metrics(path):
  lines = [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
  return [line for line in lines if 'loss' in line]  # the others hold scores


def trained(path, settings):
  runs = [tiny.run('ssl/simclr', **SHORT, **each) for each in settings]
  paths = [entered(path / str(i), SHORT | each) for i, each in enumerate(settings)]
  with tiny.quickly():
    return together.fit(runs, paths), paths


def test_ten_steps_as_one_program_equal_ten_steps_of_each_run_alone(tmp_path):
  found, paths = trained(tmp_path, OTHERS)
  for i, each in enumerate(OTHERS):
    alone = entered(tmp_path / f'alone{i}', SHORT | each)
    scores = loop.fit(tiny.run('ssl/simclr', **SHORT, **each), alone)
    got, want = metrics(paths[i]), metrics(alone)
    assert [line['step'] for line in got] == list(range(1, 11))
    np.testing.assert_allclose([m['loss'] for m in got], [m['loss'] for m in want], rtol=1e-5)
    np.testing.assert_allclose([m['grad_norm'] for m in got], [m['grad_norm'] for m in want], rtol=1e-4)
    assert found[i].keys() == scores.keys()
    assert found[i]['knn/accuracy'] == pytest.approx(scores['knn/accuracy'], abs=0.01)
  assert len({metrics(path)[-1]['loss'] for path in paths}) == 3


@pytest.mark.slow
def test_a_run_may_begin_as_one_of_several_and_end_alone(tmp_path):
  _, whole = trained(tmp_path / 'whole', OTHERS[:2])
  paths = [entered(tmp_path / str(i), SHORT | each) for i, each in enumerate(OTHERS[:2])]
  runs = [tiny.run('ssl/simclr', **SHORT, **each) for each in OTHERS[:2]]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      together.processes, 'stop_signals', lambda: contextlib.nullcontext(lambda done: 'SIGTERM' if done >= 6 else '')
    )
    ended = together.fit(runs, paths)
  assert all(isinstance(each, SystemExit) for each in ended)
  for run, path, other in zip(runs, paths, whole, strict=True):
    loop.fit(run, path)
    np.testing.assert_allclose([m['loss'] for m in metrics(path)], [m['loss'] for m in metrics(other)], rtol=1e-5)


def test_a_run_that_fails_does_not_end_the_others(tmp_path):
  found, paths = trained(tmp_path, [{}, dict(schedule__learning_rate='1e30')])
  assert isinstance(found[1], NonFinite)
  assert found[0]['knn/accuracy'] > 0
  assert metrics(paths[0])[-1]['step'] == 10


def test_an_error_of_the_shared_step_reaches_every_member():
  def broken(pairs):
    raise ValueError('no memory')

  meeting, heard = together.Meeting(broken, 2), []

  def member(i):
    with pytest.raises(RuntimeError) as raised:
      meeting.step(i, None, None)
    heard.append(str(raised.value.__cause__))

  threads = [threading.Thread(target=member, args=(i,)) for i in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(timeout=30)
  assert heard == ['no memory', 'no memory']


def test_what_no_one_program_can_train_is_refused():
  with pytest.raises(Refusal, match='microbatch'):
    together.check([tiny.run('ssl/simclr', train__microbatch='8')])
  with pytest.raises(Refusal, match='2 devices'):
    together.check([tiny.run('ssl/simclr', devices=2)])


@pytest.mark.slow
def test_both_ways_are_timed():
  apart, at_once = together.seconds([tiny.run('ssl/simclr', **each) for each in OTHERS[:2]])
  assert 0 < apart < 60
  assert 0 < at_once < 60
