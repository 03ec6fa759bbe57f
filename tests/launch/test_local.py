"""Runs as processes of this machine, with programs of a few lines in place of training."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch import folder, local, machine
from launch.folder import Run
from launch.machine import Slot

STEPS = 2
PROGRAM = """
import json, os, pathlib, signal, sys, time
how, path = sys.argv[1], pathlib.Path(sys.argv[2])
path.mkdir(parents=True, exist_ok=True)
def finish(step=2):
  (path / 'evaluations.json').write_text(json.dumps({'evaluations': [{'step': step, 'scores': {'a': 1.0}}]}))
if how == 'raises': raise ValueError('shapes differ')
if how == 'memory': bytearray(4 * 10**9)
if how == 'full':
  with open('/dev/full', 'w') as device: device.write('x')
if how == 'killed': os.kill(os.getpid(), signal.SIGKILL)
if how == 'halfway': finish(1)
if how == 'announced': os.kill(os.getpid(), signal.SIGUSR2); finish()
if how == 'cores': (path / 'cores').write_text(str(os.sched_getaffinity(0))); finish()
if how == 'ends': finish()
if how == 'waits':
  if not (path / 'saved').exists():
    def save(*_):
      (path / 'saved').touch()
      sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    (path / 'ready').touch()
    time.sleep(60)
  finish()
if how == 'stubborn':
  signal.signal(signal.SIGTERM, lambda *_: (path / 'told').touch())
  (path / 'ready').touch()
  for _ in range(600): time.sleep(0.1)
"""


def command(root, run: Run) -> list[str]:
  return [sys.executable, '-S', '-c', PROGRAM, run.overrides['how'], str(folder.workdir(root, run))]


def run(how: str, name: str | None = None) -> Run:
  return Run(name or how, 'x.py', {'how': how}, {}, STEPS)


def slots(number: int, memory: int | None = None) -> list[Slot]:
  return [Slot(tuple(os.sched_getaffinity(0)), {}, memory)] * number


def trained(root, runs, shares=None, **keywords):
  """States by name, and whether a signal came."""
  with open(os.devnull, 'w') as nowhere:
    return local.train(root, runs, shares or slots(2), stream=nowhere, command=command, **keywords)


def when(there, act) -> threading.Thread:
  """Does something once all these files are there."""

  def watch():
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in there):
      assert time.monotonic() < deadline
      time.sleep(0.01)
    act()

  thread = threading.Thread(target=watch)
  thread.start()
  return thread


def test_runs_that_fail_keep_their_log_and_reason_and_the_sweep_goes_on(tmp_path):
  runs = [run(how) for how in ('raises', 'full', 'killed', 'memory', 'ends')]
  states, stopped = trained(tmp_path, runs, slots(2, memory=10**9))
  assert not stopped
  assert {name: state.state for name, state in states.items()} == {r.name: 'failed' for r in runs} | {
    'ends': 'finished'
  }
  assert states['raises'].reason == 'exit code 1: ValueError: shapes differ'
  assert states['full'].reason == 'disk full: OSError: [Errno 28] No space left on device'
  assert states['killed'].reason == 'killed by SIGKILL: it said nothing'
  assert states['memory'].reason == 'out of memory: MemoryError'
  assert 'Traceback' in folder.log(tmp_path, runs[0]).read_text()
  assert {r.name: folder.state(tmp_path, r) for r in runs} == states


def test_a_run_that_ends_well_before_its_last_step_is_not_finished(tmp_path):
  states, _ = trained(tmp_path, [run('halfway')])
  assert states['halfway'].state == 'stopped'


def test_a_run_is_not_ended_by_the_signal_that_slurm_announces_the_end_of_a_job_with(tmp_path):
  states, _ = trained(tmp_path, [run('announced')])
  assert states['announced'].state == 'finished'


def test_a_disk_that_is_too_full_for_the_state_of_a_run_does_not_end_the_sweep(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(folder, 'write_state', full)
  states, _ = trained(tmp_path, [run('ends'), run('raises')])
  assert all(state.state == 'failed' and state.reason.startswith('disk full') for state in states.values())
  assert len(states) == 2


def test_so_many_run_at_a_time_as_there_are_slots_and_each_on_its_cores(tmp_path):
  cores = sorted(os.sched_getaffinity(0))
  shares = [Slot((cores[0],), {}), Slot((cores[-1],), {})]
  runs = [run('cores', f'run{i}') for i in range(4)]
  states, _ = trained(tmp_path, runs, shares)
  assert all(state.state == 'finished' for state in states.values())
  seen = {(folder.workdir(tmp_path, r) / 'cores').read_text() for r in runs}
  assert seen == {f'{{{cores[0]}}}', f'{{{cores[-1]}}}'}
  began = sorted((state.began, state.began + state.seconds) for state in states.values())
  assert began[2][0] >= min(end for _, end in began[:2])


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_runs_save_and_the_same_command_finishes_them(tmp_path, number):
  runs = [run('waits', 'one'), run('waits', 'two'), run('ends', 'later')]
  ready = [folder.workdir(tmp_path, r) / 'ready' for r in runs[:2]]
  watcher = when(ready, lambda: os.kill(os.getpid(), number))
  states, stopped = trained(tmp_path, runs)
  watcher.join()
  assert stopped
  assert {name: state.state for name, state in states.items()} == {'one': 'stopped', 'two': 'stopped'}
  states, stopped = trained(tmp_path, runs)
  assert not stopped and all(state.state == 'finished' for state in states.values()) and len(states) == 3
  assert states['one'].attempts == 2 and states['later'].attempts == 1


def test_a_second_ctrl_c_kills_runs_that_do_not_end(tmp_path):
  stubborn = run('stubborn')
  path = folder.workdir(tmp_path, stubborn)
  watchers = [when([path / mark], lambda: os.kill(os.getpid(), signal.SIGINT)) for mark in ('ready', 'told')]
  states, stopped = trained(tmp_path, [stubborn])
  for watcher in watchers:
    watcher.join()
  assert stopped and states['stubborn'].state == 'stopped'


LAUNCHER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import test_local as t
from launch import folder
import pathlib
path = pathlib.Path({path!r})
with folder.launching(path) as held:
  t.trained(path, [t.run('waits')], held=held)
"""


def test_runs_of_a_launcher_that_is_killed_save_and_the_next_one_waits_for_them(tmp_path):
  here = os.path.dirname(__file__)
  program = LAUNCHER.format(root=os.path.join(here, '..', '..'), tests=here, path=str(tmp_path))
  launcher = subprocess.Popen([sys.executable, '-c', program])
  path = folder.workdir(tmp_path, run('waits'))
  when([path / 'ready'], lambda: os.kill(launcher.pid, signal.SIGKILL)).join()
  launcher.wait()
  with folder.launching(tmp_path) as held:
    assert (path / 'saved').exists()
    states, _ = trained(tmp_path, [run('waits')], held=held)
  assert states['waits'].state == 'finished'


def test_two_launchers_in_one_folder_are_refused(tmp_path):
  with folder.launching(tmp_path):
    assert folder.launched(tmp_path)
    with pytest.raises(ValueError, match='another launcher is at work'), folder.launching(tmp_path):
      pass
  assert not folder.launched(tmp_path)


# --- shares of the machine ---


@pytest.mark.parametrize('number', [1, 2, 3, 4, 7, 8])
def test_cores_are_shared_out_whole_and_none_is_left(monkeypatch, number):
  monkeypatch.setattr(machine, '_cores', lambda: list(range(8)))
  monkeypatch.setattr(machine, '_gpus', lambda: [])
  shares = machine.slots(number)
  assert sorted(core for slot in shares for core in slot.cores) == list(range(8))
  sizes = [len(slot.cores) for slot in shares]
  assert max(sizes) - min(sizes) <= 1


def test_gpus_are_shared_out_and_their_memory_where_two_runs_are_on_one(monkeypatch):
  monkeypatch.setattr(machine, '_gpus', lambda: ['0', '1'])
  assert [slot.environment for slot in machine.slots()] == [{'CUDA_VISIBLE_DEVICES': g} for g in '01']
  shares = [slot.environment for slot in machine.slots(4)]
  assert [share['CUDA_VISIBLE_DEVICES'] for share in shares] == ['0', '1', '0', '1']
  assert {share['XLA_PYTHON_CLIENT_MEM_FRACTION'] for share in shares} == {'0.450'}


def test_no_more_runs_at_a_time_than_there_is_memory_for(monkeypatch):
  monkeypatch.setattr(machine, '_cores', lambda: list(range(64)))
  monkeypatch.setattr(machine, '_gpus', lambda: [])
  monkeypatch.setattr(machine, '_free_memory', lambda: 9 * machine.GB)
  assert len(machine.slots()) == 4
  assert len(machine.slots(memory=3)) == 3
  with pytest.raises(ValueError, match='4 GB for each of 3 runs at a time: 9'):
    machine.slots(3, memory=4)
  with pytest.raises(ValueError, match='at least 1'):
    machine.slots(0)
