"""One run on two processes: the steps of one process, one voice, and an end for all when one is lost."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from test_command import ROOT, TINY, loaded

from contrastive_jax import losses
from contrastive_jax.engine import metrics, workdir
from contrastive_jax.engine.processes import VARIABLES, start
from contrastive_jax.types import Refusal

STEPS = 60
LOST = 'another process of the run was lost; start all again to continue'
JAX_LOST = 'Terminating process because the JAX distributed service detected fatal errors'
RUN = [f'--config.train.steps={STEPS}', '--config.train.eval_every=30', '--config.train.checkpoint_every=10']


def launched(path, *more: str, count: int = 2, of: int = 2) -> list[subprocess.Popen]:
  """Starts `count` of `of` processes of a training run, one device each."""
  command = [sys.executable, '-m', 'contrastive_jax.train', f'--config={TINY}', f'--workdir={path}', *RUN, *more]
  return started(command + ['--distributed'] * (of > 1), count=count, of=of, devices=1)


def started(command: list[str], *, count: int, of: int, devices: int) -> list[subprocess.Popen]:
  """Starts `count` of `of` processes of a command, with so many devices each."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    address = f'localhost:{probe.getsockname()[1]}'
  environment = os.environ | {
    'PYTHONPATH': os.pathsep.join(map(str, (ROOT, ROOT / 'tests', ROOT / 'tests' / 'laws'))),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  }
  cluster = [
    dict(JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=str(of), JAX_PROCESS_ID=str(i)) for i in range(count)
  ]
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  return [subprocess.Popen(command, env=environment | (more if of > 1 else {}), **pipes) for more in cluster]


def ended(processes, timeout: float = 240) -> list[tuple[int, str, str]]:
  """(code, standard output, standard error) of each; none is left behind."""
  try:
    said = [process.communicate(timeout=timeout) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


def training_loss(path) -> list[tuple[int, float]]:
  return [(line['step'], line['loss']) for line in metrics.read(path) if 'loss' in line]


def signalled_after(processes, path, steps: int, how: int, saved: int | None = None):
  """Sends the second process a signal once so many steps are measured, and the checkpoint of one is there."""
  deadline = time.monotonic() + 180
  while len(training_loss(path)) < steps or not (saved is None or (path / f'checkpoints/{saved:08d}').exists()):
    assert time.monotonic() < deadline and all(p.poll() is None for p in processes), ended(processes, 1)
    time.sleep(0.01)
  processes[1].send_signal(how)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A run of two processes that nothing interrupted, and what they said."""
  path = tmp_path_factory.mktemp('two') / 'run'
  found = ended(launched(path))
  assert [code for code, _, _ in found] == [0, 0], found
  return path, found


def test_two_processes_train_as_one_does_step_by_step(two, tmp_path):
  ((code, _, err),) = ended(launched(tmp_path / 'run', count=1, of=1))
  assert code == 0, err
  steps, losses = zip(*training_loss(two[0]), strict=True)
  alone = training_loss(tmp_path / 'run')
  assert list(steps) == list(range(1, STEPS + 1)) == [step for step, _ in alone]
  np.testing.assert_allclose(losses, [loss for _, loss in alone], rtol=1e-4)
  np.testing.assert_allclose(losses[:20], [loss for _, loss in alone[:20]], rtol=1e-5)
  scores = [workdir.read_evaluations(path)['evaluations'][-1]['scores'] for path in (two[0], tmp_path / 'run')]
  assert scores[0]['knn/accuracy'] == pytest.approx(scores[1]['knn/accuracy'], abs=0.01)


@pytest.mark.slow
def test_two_processes_that_cache_gradients_take_the_steps_of_those_that_do_not(two, tmp_path):
  found = ended(launched(tmp_path / 'run', '--config.train.microbatch=16'))
  assert [code for code, _, _ in found] == [0, 0], found
  losses = [loss for _, loss in training_loss(tmp_path / 'run')]
  plainly = [loss for _, loss in training_loss(two[0])]
  assert len(losses) == STEPS
  np.testing.assert_allclose(losses, plainly, rtol=1e-4)
  assert losses != plainly, 'the gradients were not cached'


def test_only_the_first_process_speaks(two):
  (_, first, _), (_, second, _) = two[1]
  assert 'knn/accuracy' in first
  assert [line for line in second.splitlines() if not line.startswith('[Gloo]')] == []


def test_a_process_that_is_lost_ends_the_other_and_both_resume_exactly(two, tmp_path):
  processes = launched(tmp_path / 'run')
  signalled_after(processes, tmp_path / 'run', 15, signal.SIGKILL, saved=10)
  began = time.monotonic()
  (code, _, err), _ = ended(processes, 60)
  # Where it waits for the other outside of a collective, JAX's own service notices the silence and ends it.
  assert (code == 1 and LOST in err) or (code == -signal.SIGABRT and JAX_LOST in err), (code, err)
  assert time.monotonic() - began < 60
  again = ended(launched(tmp_path / 'run'))
  assert [code for code, _, _ in again] == [0, 0], again
  assert 'continuing from step' in again[0][1]
  assert training_loss(tmp_path / 'run') == training_loss(two[0])
  here, there = loaded(tmp_path / 'run'), loaded(two[0])
  assert all(here[key].tobytes() == there[key].tobytes() for key in there)


@pytest.mark.slow
def test_sigterm_to_one_process_saves_and_stops_both_and_one_process_can_continue(two, tmp_path):
  processes = launched(tmp_path / 'run')
  signalled_after(processes, tmp_path / 'run', 5, signal.SIGTERM)
  found = ended(processes, 120)
  assert [code for code, _, _ in found] == [0, 0], found
  assert 'stopped by SIGTERM at step' in found[0][1]
  ((code, out, err),) = ended(launched(tmp_path / 'run', count=1, of=1))
  assert code == 0 and 'continuing from step' in out, err
  losses = [loss for _, loss in training_loss(tmp_path / 'run')]
  np.testing.assert_allclose(losses, [loss for _, loss in training_loss(two[0])], rtol=1e-4)


@pytest.mark.parametrize(
  ('extent', 'names'), [('turns', losses.PAIRWISE[::16]), pytest.param('all', losses.PAIRWISE, marks=pytest.mark.slow)]
)
def test_losses_over_two_processes_have_the_value_and_gradient_of_one_device(extent, names):
  found = ended(started([sys.executable, '-m', 'of_processes', extent], count=2, of=2, devices=2), 1200)
  assert [code for code, _, _ in found] == [0, 0], found
  for _, out, _ in found:
    assert [line.split()[1] for line in out.splitlines() if line.startswith('checked')] == list(names)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (
      dict(JAX_NUM_PROCESSES='2'),
      'JAX_NUM_PROCESSES is set, but JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID is not',
    ),
    (
      dict(JAX_COORDINATOR_ADDRESS='localhost:1', JAX_NUM_PROCESSES='two', JAX_PROCESS_ID='0'),
      "JAX_NUM_PROCESSES must be an integer, but it is 'two'",
    ),
  ],
  ids=['a part', 'a word'],
)
def test_a_cluster_that_is_not_described_is_refused(given, message, monkeypatch):
  for name in VARIABLES:
    monkeypatch.delenv(name, raising=False)
  for name, value in given.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(Refusal, match=message):
    start()


def test_the_command_refuses_what_describes_no_cluster_in_one_line(tmp_path):
  command = [
    sys.executable,
    '-m',
    'contrastive_jax.train',
    '--distributed',
    f'--config={TINY}',
    f'--workdir={tmp_path}',
  ]
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_NUM_PROCESSES': '2'}
  found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
  assert found.returncode == 2
  assert found.stderr.startswith('error: --distributed: JAX_NUM_PROCESSES is set') and found.stderr.count('\n') == 1
