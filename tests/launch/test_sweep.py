"""The command that trains a sweep on this machine."""

import functools
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import pytest
from test_local import command

from contrastive_jax.types import Refusal
from launch import folder, local, sweep

ROOT = pathlib.Path(__file__).parents[2]
TINY = f'--config={ROOT}/configs/ssl/simclr.py:tiny'
TEMPERATURES = '--sweep=config.method.temperature=0.1,0.2'


@pytest.fixture(autouse=True)
def cache(monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', jax.config.jax_compilation_cache_dir)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.chdir(ROOT)


@pytest.fixture
def stubbed(monkeypatch):
  """A program of a few lines in place of training: what it does is the run's label."""

  def told(root, run):
    how = {'0.1': 'ends', '0.2': 'raises'}[run.overrides['method.temperature']]
    return command(root, run._replace(overrides={'how': how}))

  monkeypatch.setattr(local, 'train', functools.partial(local.train, command=told))


def test_a_dry_run_prints_commands_and_an_estimate_and_writes_nothing(tmp_path, capsys):
  assert sweep.main([TINY, TEMPERATURES, '--seeds=2', f'--workdir={tmp_path}/sweep', '--dry_run']) == 0
  told = capsys.readouterr().out
  assert told.count('python -m contrastive_jax.train --config=') == 4
  assert '--config.method.temperature=0.2 --config.seed=1' in told
  assert '4 like method.temperature=0.1,seed=0: 2 steps of 32 x 2 views, at least' in told
  assert list(tmp_path.iterdir()) == []


def test_a_misspelt_override_is_one_line_with_exit_code_2_before_anything_is_started(tmp_path, capsys, monkeypatch):
  flag = '--sweep=config.method.temprature=0.1,0.2'
  monkeypatch.setattr(sys, 'argv', ['launch.sweep', TINY, flag, f'--workdir={tmp_path}/sweep'])
  with pytest.raises(SystemExit) as ended:
    sweep.run()
  said = capsys.readouterr().err
  assert ended.value.code == 2
  assert said.startswith("error: run 'method.temprature=0.1': unknown key") and said.count('\n') == 1
  assert "did you mean 'temperature'?" in said
  assert not (tmp_path / 'sweep').exists()


def test_failed_runs_are_listed_last_with_their_reason_and_exit_code_1(tmp_path, capsys, stubbed):
  arguments = [TINY, TEMPERATURES, f'--workdir={tmp_path}/sweep', '--at_once=2']
  assert sweep.main(arguments) == 1
  told = capsys.readouterr().out.rstrip().splitlines()
  assert told[-3] == '1 finished, 1 failed'
  assert told[-2] == 'failed: method.temperature=0.2: exit code 1: ValueError: shapes differ'
  assert 'Traceback' in pathlib.Path(told[-1].strip()).read_text()
  assert sweep.main(arguments) == 1  # the failed one once more, the finished one not
  attempts = {run.name: folder.state(tmp_path / 'sweep', run).attempts for run in folder.runs(tmp_path / 'sweep')}
  assert attempts == {'method.temperature=0.1': 1, 'method.temperature=0.2': 2}


def test_a_sweep_of_other_settings_in_the_same_folder_is_refused(tmp_path, stubbed):
  sweep.main([TINY, TEMPERATURES, f'--workdir={tmp_path}'])
  with pytest.raises(Refusal, match=r"holds run 'method\.temperature=0\.1' with data\.batch_size=None, not 16"):
    sweep.main([TINY, TEMPERATURES, f'--workdir={tmp_path}', '--config.data.batch_size=16'])


def test_two_settings_are_trained_at_once_and_not_again(tmp_path, capsys):
  arguments = [TINY, TEMPERATURES, f'--workdir={tmp_path}', '--at_once=2']
  assert sweep.main(arguments) == 0
  told = capsys.readouterr().out
  assert 'finished method.temperature=0.1' in told and 'finished method.temperature=0.2' in told
  assert '| temperature | seeds | knn/accuracy |' in told
  assert (tmp_path / 'report.html').exists()
  assert {path.name for path in (tmp_path / 'runs').iterdir()} == {'method.temperature=0.1', 'method.temperature=0.2'}
  assert sweep.main(arguments) == 0
  assert '2 runs, 2 finished before' in capsys.readouterr().out
  assert all(folder.state(tmp_path, run).attempts == 1 for run in folder.runs(tmp_path))


STEPS = ['--config.train.steps=60', '--config.train.checkpoint_every=4', '--config.train.eval_every=30']


def swept(path) -> list[str]:
  flags = [TINY, *STEPS, TEMPERATURES, '--seeds=2', f'--workdir={path}', '--at_once=2']
  return [sys.executable, '-m', 'launch.sweep', *flags]


@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_at_a_random_moment_ends_with_the_table_of_one_that_was_not(tmp_path, how):
  whole = subprocess.run(swept(tmp_path / 'whole'), capture_output=True, text=True)
  assert whole.returncode == 0, whole.stdout + whole.stderr
  moments = random.Random(int(how))
  for _ in range(3):
    process = subprocess.Popen(swept(tmp_path / 'broken'), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(moments.uniform(3, 20))
    process.send_signal(how)
    said, _ = process.communicate(timeout=120)
    assert process.returncode in (-how, 130, 0), said
  again = subprocess.run(swept(tmp_path / 'broken'), capture_output=True, text=True)
  assert again.returncode == 0, again.stdout + again.stderr
  assert (tmp_path / 'broken' / 'report.md').read_text() == (tmp_path / 'whole' / 'report.md').read_text()
  assert (tmp_path / 'broken' / 'report.csv').read_text() == (tmp_path / 'whole' / 'report.csv').read_text()


@pytest.mark.slow
def test_a_search_proposes_trials_and_goes_on_from_those_that_are_there(tmp_path):
  pytest.importorskip('optuna')
  (tmp_path / 'space.py').write_text(
    'from launch.space import choice, log_uniform\n'
    'def get_space():\n'
    "  return {'config.method.temperature': log_uniform(0.05, 1), 'config.data.num_views': choice(2, 3)}\n"
  )
  flags = [TINY, f'--sweep_file={tmp_path}/space.py', '--score=knn/accuracy', f'--workdir={tmp_path}/search']
  assert sweep.main([*flags, '--search=2', '--at_once=2']) == 0
  first = folder.runs(tmp_path / 'search')
  assert sweep.main([*flags, '--search=4', '--at_once=2']) == 0
  runs = folder.runs(tmp_path / 'search')
  assert runs[:2] == first and len({run.name for run in runs}) == 4
  assert all(folder.finished(tmp_path / 'search', run) for run in runs)
