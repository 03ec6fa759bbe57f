"""A sweep as jobs of a real SLURM, which these tests start and stop."""

import argparse
import contextlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import cluster
import jax
import pytest

from contrastive_jax.engine import metrics
from contrastive_jax.types import Refusal
from launch import folder, report, slurm, sweep
from launch.folder import Run, State

ROOT = pathlib.Path(__file__).parents[2]
TINY = '--config=configs/ssl/simclr.py:tiny'
TEMPERATURES = '--sweep=config.method.temperature=0.1,0.2'


def given(*flags: str) -> argparse.Namespace:
  return sweep.arguments(['--workdir=x', *flags])[0]


def test_flags_become_options_of_sbatch():
  flags = ['--minutes=30', '--nodes=2', '--tasks=4', '--cpus=3', '--gpus=4', '--memory=1.5', '--at_once=5']
  found = slurm.parameters(given(*flags, '--slurm=account=lab', '--partition=short'), name='s')
  assert found['additional_parameters'] == {'account': 'lab'}
  assert {key: found[key] for key in ('time', 'nodes', 'ntasks_per_node', 'cpus_per_task', 'gpus_per_node')} == {
    'time': 30, 'nodes': 2, 'ntasks_per_node': 4, 'cpus_per_task': 3, 'gpus_per_node': 4,
  }  # fmt: skip
  assert (found['mem'], found['partition'], found['array_parallelism']) == ('1500MB', 'short', 5)
  assert 'gpus_per_node' not in slurm.parameters(given(), name='s')
  with pytest.raises(Refusal, match='OPTION=VALUE'):
    slurm.parameters(given('--slurm=account'), name='s')


def test_a_job_that_slurm_no_longer_knows_has_failed_and_says_why(tmp_path, monkeypatch):
  runs = [Run(name, 'x.py', {}, {}, 2) for name in ('gone', 'goes', 'waits', 'done', 'here')]
  jobs = dict(gone='7_0', goes='7_1', waits='7_2', done='7_3', here='')
  before = dict(gone='running', goes='queued', waits='stopped', done='finished', here='waiting')
  for run in runs:
    folder.write_state(tmp_path, run, State(before[run.name], job=jobs[run.name]))
  monkeypatch.setattr(slurm, '_queue', lambda: {'7_1': 'RUNNING', '7_2': 'PENDING', '9': 'RUNNING'})
  (tmp_path / 'slurm').mkdir()
  (tmp_path / 'slurm' / '7_0_0_log.out').write_text('slurmstepd: error: Detected 1 oom_kill event in StepId=7.0\n')
  states = slurm.settled(tmp_path, runs)
  found = {name: state.state for name, state in states.items()}
  assert found == dict(gone='failed', goes='running', waits='queued', done='finished', here='waiting')
  assert states['gone'].reason == (
    'job 7_0 was ended by SLURM: out of memory: slurmstepd: error: Detected 1 oom_kill event in StepId=7.0'
  )


def test_only_the_job_that_the_folder_names_trains_a_run(tmp_path, monkeypatch):
  monkeypatch.setattr(slurm, 'OWN', 0.0)
  monkeypatch.setenv('SLURM_ARRAY_JOB_ID', '7')
  monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '1')
  monkeypatch.setenv('SLURM_PROCID', '0')
  monkeypatch.setenv('SLURM_NTASKS', '1')
  pytest.importorskip('submitit')
  run = Run('a', 'x.py', {}, {}, 2)
  folder.write_state(tmp_path, run, State('queued', job='8_1'))
  assert slurm.Job(tmp_path, run)() == 'another job has this run'
  assert not folder.log(tmp_path, run).exists()


# --- a real one ---


@pytest.fixture(scope='module')
def real(tmp_path_factory):
  """The environment of a SLURM of this machine. Where CONTRASTIVE_JAX_SLURM=1 demands one, tests fail without."""
  without = pytest.fail if os.environ.get('CONTRASTIVE_JAX_SLURM') == '1' else pytest.skip
  if importlib.util.find_spec('submitit') is None:
    without("submitit is not installed: pip install -e '.[launch]'")
  with contextlib.ExitStack() as stack:
    try:
      environment = stack.enter_context(cluster.started(tmp_path_factory.mktemp('slurm')))
    except cluster.Unavailable as why:
      without(str(why))
    yield environment | training()


def training() -> dict[str, str]:
  return {
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
    'PYTHONPATH': str(ROOT),
  }


@pytest.fixture(scope='module')
def local(tmp_path_factory) -> pathlib.Path:
  """The sweep that others are compared with, trained by this machine."""
  path = tmp_path_factory.mktemp('local')
  swept(os.environ | training(), path, TEMPERATURES, where='local')
  return path


def swept(environment, path, *flags: str, where: str = 'slurm') -> str:
  """What the command said; it has ended well."""
  command = [sys.executable, '-m', 'launch.sweep', TINY, *flags, f'--workdir={path}', f'--where={where}']
  more = ['--cpus=1'] if where == 'slurm' else []
  ended = subprocess.run([*command, *more], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
  assert ended.returncode == 0, ended.stdout + ended.stderr
  return ended.stdout


def losses(path: pathlib.Path, run: Run) -> dict[int, float]:
  return {line['step']: line['loss'] for line in metrics.read(folder.workdir(path, run)) if 'loss' in line}


def until(true, seconds: float = 300):
  deadline = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < deadline
    time.sleep(0.1)


@pytest.mark.slow
def test_an_array_of_jobs_gives_the_table_of_local_runs(real, local, tmp_path):
  swept(real, tmp_path, TEMPERATURES, '--wait')
  assert {folder.state(tmp_path, run).job for run in folder.runs(tmp_path)} == {'1_0', '1_1'}
  for name in ('report.md', 'report.csv'):
    assert (tmp_path / name).read_text() == (local / name).read_text()
  assert '2 runs: 0 submitted' in swept(real, tmp_path, TEMPERATURES)


@pytest.mark.slow
def test_a_run_of_two_tasks_is_one_run_over_both(real, local, tmp_path):
  swept(real, tmp_path, '--sweep=config.method.temperature=0.1', '--tasks=2', '--wait')
  (run,) = folder.runs(tmp_path)
  versions = folder.read(folder.workdir(tmp_path, run) / 'versions.json')
  assert versions['devices'].startswith('2 x ')
  assert losses(tmp_path, run) == pytest.approx(losses(local, run), rel=1e-5) and len(losses(local, run)) == 2


@contextlib.contextmanager
def paused(path: pathlib.Path):
  """Lets the process that trains there take no step: it costs nothing, and it is not over before SLURM speaks."""
  flag = f'--workdir={path}'.encode()

  def tell(number: int):
    for process in pathlib.Path('/proc').glob('[0-9]*'):
      with contextlib.suppress(OSError):  # it may have ended in the meantime
        if flag in (process / 'cmdline').read_bytes().split(b'\0'):
          os.kill(int(process.name), number)

  tell(signal.SIGSTOP)
  try:
    yield
  finally:
    tell(signal.SIGCONT)


@pytest.mark.slow
def test_a_run_that_reaches_its_time_limit_is_queued_again_and_continues_exactly(real, tmp_path):
  steps = 4000  # some seconds
  flags = [f'--config.train.steps={steps}', '--config.train.log_every=10', '--config.train.eval_every=1000000']
  flags += ['--config.train.checkpoint_every=1000000', '--seeds=1']
  # SLURM looks at the time every 30 s, and speaks 60 to 90 s before the end: a job has at least 30 s to start.
  swept(real, tmp_path / 'slurm', *flags, '--minutes=2', '--save_seconds=60')
  (run,) = folder.runs(tmp_path / 'slurm')
  until(lambda: losses(tmp_path / 'slurm', run))
  (said,) = (tmp_path / 'slurm' / 'slurm').glob('*_log.out')
  with paused(folder.workdir(tmp_path / 'slurm', run)):
    until(lambda: 'Caught signal SIGUSR2' in said.read_text())
  until(lambda: folder.state(tmp_path / 'slurm', run).state == 'finished')
  assert folder.state(tmp_path / 'slurm', run).attempts >= 2 and 'this job is timed-out' in said.read_text()
  log = folder.log(tmp_path / 'slurm', run).read_text()
  assert 'stopped by SIGTERM at step' in log and 'continuing from step' in log
  swept(os.environ | training(), tmp_path / 'local', *flags, where='local')
  assert losses(tmp_path / 'slurm', run) == losses(tmp_path / 'local', run)
  assert len(losses(tmp_path / 'local', run)) == steps // 10
  tables = [report.build(tmp_path / name) for name in ('slurm', 'local')]
  assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_and_the_same_command_submits_it_again(real, tmp_path):
  flags = ['--seeds=1', '--config.train.steps=1000000', '--config.train.log_every=1']
  swept(real, tmp_path, *flags)
  (run,) = folder.runs(tmp_path)
  until(lambda: losses(tmp_path, run))
  subprocess.run(['scancel', folder.state(tmp_path, run).job], env=real, check=True)
  until(lambda: folder.state(tmp_path, run).state != 'running')
  assert folder.state(tmp_path, run).state == 'stopped'
  assert 'stopped by SIGTERM at step' in folder.log(tmp_path, run).read_text()
  assert '1 runs: 1 submitted' in swept(real, tmp_path, *flags)


KILLED = """
import pathlib, subprocess, sys, time
sys.path.insert(0, {tests!r})
import cluster
with cluster.started(pathlib.Path({path!r})) as environment:
  subprocess.run(['sbatch', '--output=/dev/null', '--wrap=sleep 1000'], env=environment, check=True, cwd={path!r})
  time.sleep(100)
"""


@pytest.mark.slow
def test_nothing_is_left_of_a_slurm_whose_tests_are_killed(real, tmp_path):
  def left() -> list[str]:
    found = []
    for process in pathlib.Path('/proc').glob('[0-9]*'):
      with contextlib.suppress(OSError):
        if os.fsencode(tmp_path) in (process / 'environ').read_bytes():
          found.append((process / 'cmdline').read_bytes().replace(b'\0', b' ').decode())
    return found

  program = KILLED.format(tests=os.path.dirname(__file__), path=str(tmp_path))
  tests = subprocess.Popen([sys.executable, '-c', program])
  until(lambda: any('sleep 1000' in each for each in left()))
  assert {'munged', 'slurmctld', 'slurmd'} <= {each.split()[0] for each in left()}
  tests.kill()
  tests.wait()
  until(lambda: not left(), 60)
