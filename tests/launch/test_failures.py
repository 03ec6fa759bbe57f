"""Training that fails, each time for another reason, all of them real: the sweep goes on and names it."""

import html
import pathlib
import subprocess

import jax
import pytest

from launch import definition, folder, report, sweep

ROOT = pathlib.Path(__file__).parents[2]
RUNS = {
  'fine': {'config.seed': '0'},
  'full': {'config.seed': '1'},
  'raises': {'config.schedule.learning_rate': '1e+38'},
  'memory': {'config.encoder.widths': '(30000, 30000)'},  # 3.6 GB
  'misspelt': {'config.method.temprature': '0.1'},
}
REASONS = {
  'full': 'disk full: OSError: [Errno 28] No space left on device',
  'raises': 'exit code 1: error: param_norm is inf at step 1; ',
  'memory': 'out of memory: ',
  'misspelt': "exit code 2: error: unknown key 'config.method.temprature'",
}


@pytest.fixture
def small_disk(tmp_path):
  """The folder of the run `full`, on a disk of 100 kB."""
  path = tmp_path / 'sweep' / 'runs' / folder.name_of(RUNS['full'])
  path.mkdir(parents=True)
  mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=100k', 'tmpfs', path], capture_output=True, text=True)
  if mounted.returncode:
    pytest.skip(f'no small disk: {mounted.stderr.strip()}')
  yield path
  subprocess.run(['umount', path], check=True)


@pytest.mark.slow
def test_a_sweep_goes_on_after_every_kind_of_failure_and_names_it_with_its_reason(
  tmp_path, monkeypatch, capsys, small_disk
):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', jax.config.jax_compilation_cache_dir)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.chdir(ROOT)
  root, file = tmp_path / 'sweep', tmp_path / 'sweep.py'
  file.write_text(f'def get_sweep(): return {list(RUNS.values())}')
  runs = {kind: definition.runs([setting], 'configs/ssl/simclr.py:tiny', {})[0] for kind, setting in RUNS.items()}
  # The command would refuse the misspelt one, and start nothing: as if it was right when the sweep began.
  monkeypatch.setattr(definition, 'checked', lambda found: [run._replace(steps=2) for run in found])
  folder.write_manifest(root, definition.checked(runs.values()))
  flags = ['--config=configs/ssl/simclr.py:tiny', f'--sweep_file={file}', f'--workdir={root}']
  assert sweep.main([*flags, '--at_once=1', '--memory=2.5']) == 1
  told = capsys.readouterr().out
  states = {kind: folder.state(root, run) for kind, run in runs.items()}
  assert {kind: each.state for kind, each in states.items()} == dict.fromkeys(RUNS, 'failed') | {'fine': 'finished'}
  assert '1 finished, 4 failed' in told
  page = html.unescape((root / report.PAGE).read_text())
  for kind, reason in REASONS.items():
    assert states[kind].reason.startswith(reason), states[kind]
    assert f'failed: {runs[kind].name}: {states[kind].reason}' in told
    assert states[kind].reason in page
    assert folder.log(root, runs[kind]).stat().st_size
