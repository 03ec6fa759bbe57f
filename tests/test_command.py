"""The commands as a shell calls them: refusals, kills, damage, evaluating and embedding afterwards."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl import flags

from contrastive_jax import evaluate, train
from contrastive_jax.engine import checkpoint, command, metrics, resolve, workdir

ROOT = pathlib.Path(__file__).parents[1]
TINY = f'{ROOT}/configs/ssl/simclr.py:tiny'
STEPS = 60
RUN = [
  *('--config.encoder.dropout=0.1', f'--config.train.steps={STEPS}', '--config.train.checkpoint_every=4'),
  *('--config.train.eval_every=20', '--config.train.devices=1'),
]
DAMAGE = dict(
  truncated=lambda path: os.truncate(path, path.stat().st_size // 2),
  flipped=lambda path: flip(path, path.stat().st_size // 2),
  missing=lambda path: path.unlink(),
)


def flip(path: pathlib.Path, at: int):
  content = bytearray(path.read_bytes())
  content[at] ^= 4
  path.write_bytes(content)


def shell(module: str, *arguments: str, wait: bool = True):
  """A command in a process of its own; without `wait`, its process."""
  environment = os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  command = [sys.executable, '-m', f'contrastive_jax.{module}', *arguments]
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process = subprocess.Popen(command, env=environment, **pipes)
  if not wait:
    return process
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def training(path, *arguments: str, **keywords):
  return shell('train', f'--config={TINY}', f'--workdir={path}', *RUN, *arguments, **keywords)


def lines(path) -> list[dict]:
  """What a run measured at each step, without times."""
  clock = ('time', 'steps_per_second', 'examples_per_second', 'wait_share')
  return [{k: v for k, v in line.items() if k not in clock} for line in metrics.read(path)]


def newest(path) -> pathlib.Path:
  return max(each for each in (path / 'checkpoints').iterdir() if each.name.isdigit())


def assert_same_run(path, whole):
  """Every line and every bit of the parameters."""
  assert lines(path) == lines(whole)
  assert [line['step'] for line in lines(path) if 'loss' in line] == list(range(1, STEPS + 1))
  here, there = (loaded(each) for each in (path, whole))
  assert here.keys() == there.keys() and len(here) > 3
  assert all(here[key].tobytes() == there[key].tobytes() for key in here)
  one, other = (workdir.read_evaluations(each) for each in (path, whole))
  assert one == other


def loaded(path) -> dict[str, np.ndarray]:
  params = checkpoint.restore_params(path / 'checkpoints')
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(params)}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run that nothing interrupted."""
  path = tmp_path_factory.mktemp('whole') / 'run'
  code, _, err = training(path)
  assert code == 0, err
  return path


def killed_after(path, steps: int, how: int) -> tuple[int, str]:
  """Starts the run and ends it with a signal once it has measured so many steps."""
  began, deadline = time.time(), time.monotonic() + 120
  process = training(path, wait=False)
  while sum(line['time'] > began for line in metrics.read(path)) < steps and process.poll() is None:
    assert time.monotonic() < deadline, 'no step was measured'
    time.sleep(0.01)
  process.send_signal(how)
  out, err = process.communicate(timeout=120)
  return process.returncode, out + err


def test_a_run_killed_again_and_again_ends_like_one_never_killed(whole, tmp_path):
  moments = random.Random(0)
  for least in (0, 20):
    code, _ = killed_after(tmp_path / 'run', least + moments.randrange(10), signal.SIGKILL)
    assert code == -signal.SIGKILL
  code, out, err = training(tmp_path / 'run')
  assert code == 0, err
  assert 'continuing from step' in out + err
  assert_same_run(tmp_path / 'run', whole)


@pytest.mark.slow
def test_ctrl_c_saves_and_ends_with_one_line_and_code_130(tmp_path):
  code, said = killed_after(tmp_path / 'run', 10, signal.SIGINT)
  assert code == 130, said
  assert 'stopped by SIGINT at step' in said and 'the same command continues' in said and 'Traceback' not in said
  assert int(newest(tmp_path / 'run').name) == max(line['step'] for line in lines(tmp_path / 'run'))


def test_a_run_that_sigterm_stops_saves_ends_with_code_0_and_continues(whole, tmp_path):
  code, said = killed_after(tmp_path / 'run', 10, signal.SIGTERM)
  assert code == 0, said
  assert 'stopped by SIGTERM at step' in said
  at = max(line['step'] for line in lines(tmp_path / 'run'))
  assert int(newest(tmp_path / 'run').name) == at
  code, out, err = training(tmp_path / 'run')
  assert code == 0 and f'continuing from step {at}' in out + err
  assert_same_run(tmp_path / 'run', whole)


# `test_checkpoint.py` has every damage; here one goes through the command.
@pytest.mark.parametrize(
  'damage', ['flipped', *(pytest.param(d, marks=pytest.mark.slow) for d in ('truncated', 'missing'))]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_continues(whole, tmp_path, damage):
  shutil.copytree(whole, tmp_path / 'run')
  broken = newest(tmp_path / 'run')
  largest = max((p for p in broken.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  DAMAGE[damage](largest)
  code, out, err = training(tmp_path / 'run')
  assert code == 0, err
  assert f'checkpoint {STEPS} in {broken.parent}' in err and 'damaged' in err
  assert f'continuing from step {STEPS - 4}' in out + err
  assert_same_run(tmp_path / 'run', whole)


def test_a_finished_run_is_not_trained_again(whole, tmp_path):
  shutil.copytree(whole, tmp_path / 'run')
  before = newest(tmp_path / 'run').stat().st_mtime_ns
  code, out, _ = training(tmp_path / 'run')
  assert code == 0 and 'knn/accuracy' in out
  assert newest(tmp_path / 'run').stat().st_mtime_ns == before
  assert_same_run(tmp_path / 'run', whole)


def test_evaluate_finds_the_scores_that_training_ended_with(whole):
  code, out, err = shell('evaluate', f'--workdir={whole}')
  assert code == 0, err
  want = workdir.read_evaluations(whole)['evaluations'][-1]['scores']['knn/accuracy']
  assert f'{want:.4f}' in out


def test_embed_writes_one_row_for_each_example(whole, tmp_path):
  target = tmp_path / 'test.npz'
  code, _, err = shell('embed', f'--workdir={whole}', '--split=test', f'--output={target}')
  assert code == 0, err
  with np.load(target, allow_pickle=False) as found:
    assert found['features'].shape == (360, 32)
    assert np.isfinite(found['features']).all()


# --- refusals ---


def called(monkeypatch, capsys, entry, *arguments: str) -> tuple[int, str]:
  """Exit code and standard error of a command, in this process."""
  monkeypatch.setattr(sys, 'argv', ['contrastive_jax', *arguments])
  flags.FLAGS.unparse_flags()  # what the command before was given
  with pytest.raises(SystemExit) as ended:
    command.run(entry.main, config_from_workdir=entry is evaluate)
  return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.method.temprature=0.2'], "unknown key 'config.method.temprature'"),
    (['--config.method.temprature=0.2'], "did you mean 'temperature'?"),
    (['--config.method.temperature=0'], 'temperature must be > 0, but it is 0.0'),
    (['--config.method.temperature'], "'--config.method.temperature' needs a value"),
    (['--config.data.num_views=1'], 'V >= 2 views are needed'),
    (['--config.data.source.name=digts'], "unknown name 'digts' in config.data.source; did you mean 'digits'?"),
    (['--config.data.source.name=cifar10', '--config.data.source.data_dir=none'], 'tfds'),
    (['--config.data.source.name=digits', '--config.data.source.name=dgts'], "unknown name 'dgts'"),
    (['--config.data.views.name=moco'], "unknown name 'moco' in config.data.views"),
    (['--config.data=digits'], "'config.data' is a section"),
    (['--config.méthode.x=ü'], "unknown key 'config.méthode'; did you mean 'method'?"),
    (['--config.method.temperature='], "temperature must be a value of type float, but it is ''"),
    (['--config.train.microbatch=24'], 'microbatch=24 does not divide config.data.batch_size=32'),
    (['--config.train.epochs=3'], 'train.epochs=3 would count for nothing, as the config has config.train.steps=2'),
    (['--config.train.eval_every=0'], 'config.train.eval_every must be at least 1, but it is 0'),
    (['--config.train.init_from='], "init_from='' is neither a run's workdir nor a .safetensors file"),
    (['--config.method.fold=local'], "unknown fold 'local' in config.method.fold"),
    (['--config.train.best=linear/accuracy'], 'must be a score that config.evals measures'),
    (['--config=broken.py'], "config file 'broken.py' fails in line 3: NameError: name 'missing' is not defined"),
    (['--config=.'], "'.' holds no run: config.json is missing"),
    (['--config=flat.npz'], "'flat.npz' is not a Python file with a config, nor the directory of a run"),
    ([f'--config={ROOT}/configs/ssl/simclr.py:nosuch'], "unknown variant 'nosuch' of the config (known: cifar10,"),
    (['--config.data.batch_size=5000'], 'batch_size 5000 is larger than the data set, which has 1437 examples'),
    (['--config.data.batch_size=12', '--config.train.devices=8'], 'batch_size=12 does not divide among 8 devices'),
    (['--config.data.source.name=arrays', '--config.data.source.path=pickled.npz'], 'pickled.npz'),
    (['--config.data.source.name=arrays', '--config.data.source.path=flat.npz'], 'flat.npz'),
    (['--confg=x'], "Unknown command line flag 'confg'"),
    (['extra'], "unexpected argument 'extra'"),
  ],
)
def test_bad_input_is_one_clear_line_exit_code_2_and_no_workdir(monkeypatch, capsys, tmp_path, arguments, message):
  monkeypatch.chdir(tmp_path)
  np.savez('pickled.npz', image=np.array([{'a': 1}, None], dtype=object), label=np.zeros(2, int))
  np.savez('flat.npz', image=np.zeros((8, 5), np.uint8), label=np.zeros(8, int))
  (tmp_path / 'broken.py').write_text('import json\ndef get_config(variant=""):\n  return missing\n')
  code, err = called(monkeypatch, capsys, train, f'--config={TINY}', '--workdir=run', *arguments)
  assert code == 2
  assert message in err
  errors = [line for line in err.splitlines() if line.startswith('error: ')]
  assert len(errors) == 1 and 'Traceback' not in err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([f'--config={TINY}'], '--workdir is needed'),
    (['--workdir=run'], '--config is needed'),
    (['--config=none.py', '--workdir=run'], "no config file 'none.py'"),
  ],
)
def test_what_every_run_needs_is_asked_for(monkeypatch, capsys, tmp_path, arguments, message):
  monkeypatch.chdir(tmp_path)
  code, err = called(monkeypatch, capsys, train, *arguments)
  assert code == 2 and message in err


def contents(path) -> dict:
  return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in path.rglob('*') if p.is_file()}


def test_a_workdir_of_another_config_is_refused_and_left_as_it_was(monkeypatch, capsys, whole):
  before = contents(whole)
  arguments = [f'--config={TINY}', f'--workdir={whole}', *RUN, '--config.method.temperature=0.3']
  code, err = called(monkeypatch, capsys, train, *arguments)
  assert code == 2
  assert 'holds a run with config.method.temperature=0.2, not 0.3' in err
  assert contents(whole) == before


def test_a_workdir_of_other_files_is_refused_and_left_as_it_was(monkeypatch, capsys, tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  code, err = called(monkeypatch, capsys, train, f'--config={TINY}', f'--workdir={tmp_path}')
  assert code == 2 and 'is not empty and holds no run' in err
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


@pytest.mark.parametrize('inside', ['', '/run'])
def test_a_file_in_the_way_of_a_workdir_is_refused_and_left_as_it_was(monkeypatch, capsys, tmp_path, inside):
  (tmp_path / 'notes').write_text('mine')
  code, err = called(monkeypatch, capsys, train, f'--config={TINY}', f'--workdir={tmp_path}/notes{inside}')
  assert code == 2 and err.startswith(f"error: workdir '{tmp_path}/notes{inside}' ") and err.count('\n') == 1
  assert (tmp_path / 'notes').read_text() == 'mine'


def refuse_to_write(path, *_, **__):
  raise PermissionError(13, 'Permission denied', str(path))


@pytest.mark.parametrize(
  ('owner', 'name', 'denied'),
  [
    (pathlib.Path, 'mkdir', refuse_to_write),
    (workdir, 'open', refuse_to_write),  # the directory is there, but not the right to write into it
    (os, 'access', lambda *_: False),  # as on continuing: nothing is written before training
  ],
  ids=['parent', 'directory', 'continued'],
)
def test_a_workdir_that_cannot_be_written_is_refused_in_one_line(monkeypatch, capsys, tmp_path, owner, name, denied):
  monkeypatch.setattr(owner, name, denied, raising=False)
  code, err = called(monkeypatch, capsys, train, f'--config={TINY}', f'--workdir={tmp_path}/run')
  assert code == 2 and err.startswith(f"error: workdir '{tmp_path}/run' cannot be ") and err.count('\n') == 1


@pytest.mark.parametrize(
  ('name', 'overrides', 'said'),
  [
    ('multimodal/lit', {}, 'never trains encoder/.*, and config.train.init_from loads nothing'),
    ('multimodal/lit', {'train.init_from': 'runs/emoji'}, ''),
    ('ssl/barlow_twins', {}, ''),
  ],
)
def test_what_stays_random_for_ever_is_named(capsys, name, overrides, said):
  train._say_if_random(resolve.load(f'{ROOT}/configs/{name}.py:tiny', overrides))
  out = capsys.readouterr().out
  assert (said in out) if said else out == ''


def test_evaluating_what_holds_no_run_is_refused(monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(tmp_path)
  code, err = called(monkeypatch, capsys, evaluate, f'--workdir={tmp_path}')
  assert code == 2 and err == f"error: '{tmp_path}' holds no run: config.json is missing\n"
  code, err = called(monkeypatch, capsys, evaluate, '--workdir=runs/typo')
  assert code == 2 and err.startswith("error: there is no 'runs/typo'") and 'the directory of a run' in err
