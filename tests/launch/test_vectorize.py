"""Runs of a sweep that differ in numbers alone, in one process."""

import pathlib

import jax
import pytest

from launch import definition, folder, local, sweep
from launch.folder import Run

ROOT = pathlib.Path(__file__).parents[2]
TINY = f'--config={ROOT}/configs/ssl/simclr.py:tiny'


def run(config='ssl/simclr', **overrides):
  texts = {key.replace('__', '.'): value for key, value in overrides.items()}
  return Run(','.join(texts.values()), f'{ROOT}/configs/{config}.py:tiny', texts, {}, 2)


def test_runs_are_grouped_that_differ_in_seed_temperature_and_rate_alone():
  runs = [run(seed=s, method__temperature=t, data__num_views=v) for v in '23' for t in ('.1', '.2') for s in '01']
  groups = definition.alike(runs)
  assert [[each.overrides['data.num_views'] for each in group] for group in groups] == [['2'] * 4, ['3'] * 4]


def test_a_run_without_a_number_is_not_grouped_with_one_that_has_it():
  runs = [run('ssl/amcl', method__temperature=t) for t in ('None', '0.1', '0.2')] + [run('ssl/amcl')]
  groups = definition.alike(runs)
  assert [[each.overrides.get('method.temperature') for each in group] for group in groups] == [
    ['None', None],
    ['0.1', '0.2'],
  ]


def test_a_dry_run_prints_one_command_a_group(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  flags = ['--sweep=config.data.num_views=2,3', '--seeds=2', f'--workdir={tmp_path}/sweep', '--dry_run']
  assert sweep.main([TINY, *flags, '--vectorize=always']) == 0
  told = capsys.readouterr().out.splitlines()
  assert told[0].endswith(
    'launch.together ' + f'{tmp_path}/sweep data.num_views=2,seed=0 data.num_views=2,seed=1 --always'
  )
  assert sum('launch.together' in line for line in told) == 2


@pytest.mark.slow
@pytest.mark.parametrize('how', ['faster', 'always'])
def test_a_sweep_in_one_process_has_the_scores_of_a_sweep_of_processes(tmp_path, monkeypatch, how):
  """The default decides by time; both ways must give what separate runs give, but for rounding."""
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', jax.config.jax_compilation_cache_dir)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.chdir(ROOT)
  sweeping = [TINY, '--sweep=config.method.temperature=0.1,0.5', '--seeds=2', '--config.train.steps=10']
  found = {}
  for name, flags in {'apart': [], 'together': [f'--vectorize={how}']}.items():
    root = tmp_path / name
    assert sweep.main([*sweeping, f'--workdir={root}', *flags]) == 0
    runs = folder.runs(root)
    assert all(folder.state(root, each).state == 'finished' for each in runs)
    found[name] = {
      each.name: folder.read(folder.workdir(root, each) / 'evaluations.json')['evaluations'][-1]['scores']
      for each in runs
    }
  assert found['apart'].keys() == found['together'].keys()
  for name, scores in found['apart'].items():
    assert found['together'][name] == pytest.approx(scores, abs=0.01)


@pytest.mark.slow
def test_a_run_that_fails_among_others_is_named_with_its_reason(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', jax.config.jax_compilation_cache_dir)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.chdir(ROOT)
  flags = ['--sweep=config.schedule.learning_rate=0.001,1e30', '--config.train.steps=10', '--vectorize=always']
  assert sweep.main([TINY, *flags, f'--workdir={tmp_path}/sweep']) == 1
  told = capsys.readouterr().out
  assert '1 finished, 1 failed' in told
  assert 'failed: schedule.learning_rate=1e+30: NonFinite:' in told
  assert local.together(tmp_path, [run(seed='1')])[-1] == '1'
