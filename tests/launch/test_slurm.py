"""A sweep as jobs of a real SLURM, which these tests start and stop."""

import argparse
import pathlib
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
  """The environment of a SLURM of this machine."""
  pytest.importorskip('submitit', reason="submitit is not installed: pip install -e '.[launch]'")
  if cluster.missing():
    pytest.skip(cluster.missing())
  with cluster.started(tmp_path_factory.mktemp('slurm')) as environment:
    yield environment | {
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
      'PYTHONPATH': str(ROOT),
    }


def swept(environment, path, *flags: str, where: str = 'slurm') -> str:
  """What the command said; it has ended well."""
  command = [sys.executable, '-m', 'launch.sweep', TINY, *flags, f'--workdir={path}', f'--where={where}']
  more = ['--wait', '--cpus=1'] if where == 'slurm' else []
  ended = subprocess.run([*command, *more], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
  assert ended.returncode == 0, ended.stdout + ended.stderr
  return ended.stdout


@pytest.mark.slow
def test_an_array_of_jobs_gives_the_table_of_local_runs(real, tmp_path):
  swept(real, tmp_path / 'slurm', TEMPERATURES)
  swept(real, tmp_path / 'local', TEMPERATURES, where='local')
  for name in ('report.md', 'report.csv'):
    assert (tmp_path / 'slurm' / name).read_text() == (tmp_path / 'local' / name).read_text()
  assert '2 runs: 0 submitted' in swept(real, tmp_path / 'slurm', TEMPERATURES)


@pytest.mark.slow
def test_a_run_of_two_tasks_is_one_run_over_both(real, tmp_path):
  swept(real, tmp_path / 'two', '--sweep=config.method.temperature=0.1', '--tasks=2')
  swept(real, tmp_path / 'one', '--sweep=config.method.temperature=0.1', where='local')
  (run,) = folder.runs(tmp_path / 'two')
  versions = folder.read(folder.workdir(tmp_path / 'two', run) / 'versions.json')
  assert versions['devices'].startswith('2 x ')
  losses = [
    [line['loss'] for line in metrics.read(folder.workdir(tmp_path / n, run)) if 'loss' in line] for n in ('two', 'one')
  ]
  assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 2


def limit(environment, job: str, minutes: int):
  subprocess.run(['scontrol', 'update', f'JobId={job}', f'TimeLimit={minutes}'], env=environment, check=True)


def until(true, seconds: float = 300):
  deadline = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < deadline
    time.sleep(0.5)


@pytest.mark.slow
def test_a_run_that_reaches_its_time_limit_is_queued_again_and_continues_exactly(real, tmp_path):
  steps = 40_000  # more than fit into what is left when the limit is set
  flags = [f'--config.train.steps={steps}', '--config.train.log_every=500', '--config.train.eval_every=1000000']
  flags += ['--config.train.checkpoint_every=1000000', '--seeds=1']
  command = [sys.executable, '-m', 'launch.sweep', TINY, *flags, f'--workdir={tmp_path}/slurm', '--where=slurm']
  limits = ['--minutes=30', '--save_seconds=30', '--cpus=1']
  assert subprocess.run([*command, *limits], env=real, cwd=ROOT).returncode == 0
  (run,) = folder.runs(tmp_path / 'slurm')
  until(lambda: metrics.read(folder.workdir(tmp_path / 'slurm', run)))
  state = folder.state(tmp_path / 'slurm', run)
  # A limit shorter than this machine may need to start: set once training has begun, and lifted afterwards.
  limit(real, state.job, int(time.time() - state.began) // 60 + 2)
  until(lambda: folder.state(tmp_path / 'slurm', run).attempts == 2)
  limit(real, state.job, 30)
  until(lambda: folder.state(tmp_path / 'slurm', run).state == 'finished', 900)
  said = folder.log(tmp_path / 'slurm', run).read_text()
  assert 'stopped by SIGTERM at step' in said and 'continuing from step' in said
  swept(real, tmp_path / 'local', *flags, where='local')
  lines = [
    [(line['step'], line['loss']) for line in metrics.read(folder.workdir(tmp_path / name, run)) if 'loss' in line]
    for name in ('slurm', 'local')
  ]
  assert lines[0] == lines[1] and len(lines[0]) == steps // 500
  tables = [report.build(tmp_path / name) for name in ('slurm', 'local')]
  assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_and_the_same_command_submits_it_again(real, tmp_path):
  command = [sys.executable, '-m', 'launch.sweep', TINY, '--seeds=1', '--config.train.steps=1000000', '--cpus=1']
  command += [f'--workdir={tmp_path}', '--where=slurm', '--config.train.log_every=1']
  assert subprocess.run(command, env=real, cwd=ROOT).returncode == 0
  (run,) = folder.runs(tmp_path)
  until(lambda: metrics.read(folder.workdir(tmp_path, run)))
  subprocess.run(['scancel', folder.state(tmp_path, run).job.partition('_')[0]], env=real, check=True)
  until(lambda: folder.state(tmp_path, run).state != 'running')
  assert folder.state(tmp_path, run).state == 'stopped'
  assert 'stopped by SIGTERM at step' in folder.log(tmp_path, run).read_text()
  again = subprocess.run(command, env=real, cwd=ROOT, capture_output=True, text=True)
  assert '1 runs: 1 submitted' in again.stdout, again.stdout + again.stderr
