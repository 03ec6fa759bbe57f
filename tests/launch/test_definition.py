"""From flags and a sweep file to checked runs."""

import pathlib

import pytest

from contrastive_jax.types import Refusal
from launch import definition, folder, space
from launch.folder import Run, State

ROOT = pathlib.Path(__file__).parents[2]
TINY = f'{ROOT}/configs/ssl/simclr.py:tiny'
T, V = 'config.method.temperature', 'config.data.num_views'


def defined(*sweeps: str, seeds: int | None = None, file: str | None = None, config: str | None = TINY, **overrides):
  return definition.runs(definition.settings(file, sweeps, seeds), config, overrides)


def test_flags_and_seeds_make_a_product_of_named_runs():
  found = defined(f'{T}=0.1,0.2', f'{V}=2,4', seeds=2)
  assert len(found) == 8
  assert found[0].name == 'data.num_views=2,method.temperature=0.1,seed=0'
  assert found[0].overrides == {'method.temperature': '0.1', 'data.num_views': '2', 'seed': '0'}


def test_names_do_not_depend_on_the_order_of_flags_or_the_spelling_of_values():
  one, other = defined(f'{T}=0.1,0.2', f'{V}=2,4'), defined(f'{V}=2,4', f'{T}=1e-1,0.20')
  assert {run.name for run in one} == {run.name for run in other} and len(one) == 4


def test_names_can_be_files_and_differ_where_the_settings_do():
  names = [folder.name_of({'config.encoder.widths': f'({i}, ' + '8, ' * 100 + ')'}) for i in (1, 2)]
  assert all(len(name) < 200 and '/' not in name and ' ' not in name for name in names)
  assert names[0] != names[1]
  assert folder.name_of({'config.a': 'x/y'}) != folder.name_of({'config.a': 'x y'})


def test_config_files_can_be_swept_and_give_runs_their_names():
  files = 'configs/ssl/simclr.py:tiny,configs/ssl/mv_dhel.py:tiny'
  found = defined(f'config={files}', config=None)
  assert [run.name for run in found] == ['simclr-tiny', 'mv_dhel-tiny']
  assert [run.config for run in found] == files.split(',')


def test_a_sweep_file_yields_settings_that_flags_multiply(tmp_path):
  file = tmp_path / 'sweep.py'
  file.write_text(
    'from launch.space import chain, values, zip_\n'
    f'def get_sweep():\n'
    f"  yield from zip_(values('{T}', 0.1, 0.2), values('{V}', 2, 4))\n"
    f"  yield {{'{T}': 0.3}}\n"
  )
  found = defined(file=str(file), seeds=2)
  assert [run.setting for run in found[::2]] == [
    {T: '0.1', V: '2', space.SEED: '0'},
    {T: '0.2', V: '4', space.SEED: '0'},
    {T: '0.3', space.SEED: '0'},
  ]


def test_what_a_sweep_file_sets_for_all_is_not_in_the_names(tmp_path):
  file = tmp_path / 'sweep.py'
  file.write_text("def get_common():\n  return {'config.train.steps': 3}\ndef get_sweep():\n  return []\n")
  assert definition.common(str(file), {'seed': '1'}) == {'train.steps': '3', 'seed': '1'}
  assert definition.common(None, {'seed': '1'}) == {'seed': '1'}
  with pytest.raises(Refusal, match=r'config\.train\.steps is set twice'):
    definition.common(str(file), {'train.steps': '4'})


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('x = 1', 'has no function get_sweep'),
    ('def get_sweep():\n  return 1 / 0', 'fails in line 2: ZeroDivisionError'),
    ('def get_sweep():\n  return [1]', 'must give settings'),
    ('import launch.nowhere', 'fails in line 1: ModuleNotFoundError'),
  ],
)
def test_a_sweep_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, text, message):
  file = tmp_path / 'sweep.py'
  file.write_text(text)
  with pytest.raises(Refusal, match=message):
    defined(file=str(file))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: defined(f'{T}=0.1', config=None), '--config is needed'),
    (lambda: defined('config=a.py,b.py'), '--config is given for all runs, but the sweep sets it too'),
    (lambda: defined(f'{T}=0.1', **{'method.temperature': '1'}), 'is given for all runs, but the sweep sets it too'),
    (lambda: defined(f'{T}=0.1', f'{T}=0.2'), 'is set twice'),
    (lambda: defined('config=a/x.py,b/x.py', config=None), "2 runs would be called 'x'"),
    (lambda: defined(file='none.py'), "there is no sweep file 'none.py'"),
  ],
)
def test_sweeps_that_contradict_themselves_are_refused(make, message):
  with pytest.raises(Refusal, match=message):
    make()


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    (
      'config.method.temprature=0.1,0.2',
      r"run 'method\.temprature=0\.1,.*': unknown key 'config\.method\.temprature'.*did you mean 'temperature'\?",
    ),
    ('config.method.loss=nt_xent,nt_xnet', "run 'method.loss=nt_xnet,.*': unknown loss 'nt_xnet'"),
    (f'{T}=0.1,warm', "run 'method.temperature=warm,.*': config.method.temperature must be a value of type float"),
    (f'{T}=0.1,0', "run 'method.temperature=0,.*': temperature must be > 0"),
    (f'{V}=2,1', "run 'data.num_views=1,.*': .*V >= 2 views are needed"),
    ('config.data.batch_size=32,5000', "run 'data.batch_size=5000,.*': batch_size 5000 is larger than the data set"),
  ],
)
def test_every_run_is_checked_before_any_is_started(flag, message):
  with pytest.raises(Refusal, match=message):
    definition.checked(defined(flag, seeds=2))


def test_runs_know_their_number_of_steps():
  found = defined('config.train.steps=2,5,none', **{'train.epochs': '3'})
  assert [run.steps for run in definition.checked(found, trace=False)] == [2, 5, 3 * (1437 // 32)]


def test_settings_that_differ_in_seeds_and_fractions_share_an_estimate():
  found = definition.checked(defined(f'{T}=0.1,0.2', f'{V}=2,4', seeds=2), trace=False)
  two, four = definition.estimates(found)
  assert [len(group) for group, _ in (two, four)] == [4, 4]
  assert four[1].step.flop > 1.9 * two[1].step.flop > 0


def test_the_study_of_views_and_temperature_has_240_runs_of_one_compute(monkeypatch):
  monkeypatch.chdir(ROOT)
  file = 'experiments/views_and_temperature/sweep.py'
  found = definition.runs(definition.settings(file, [], None), None, definition.common(file, {}))
  assert len({run.name for run in found}) == 240
  assert {int(run.overrides['data.num_views']) * int(run.overrides['data.batch_size']) for run in found} == {384}
  assert {run.steps for run in definition.checked(found[::60], trace=False)} == {300}


# --- the folder ---


def test_a_folder_gets_runs_of_several_commands_and_refuses_a_run_of_other_settings(tmp_path):
  one = Run('a', 'x.py', {'method.temperature': '0.1'}, {}, 4)
  other = one._replace(name='b')
  folder.write_manifest(tmp_path, folder.merged(tmp_path, [one]))
  assert folder.merged(tmp_path, [other]) == [one, other]
  with pytest.raises(Refusal, match=r"holds run 'a' with method\.temperature=0\.1, not 0\.2"):
    folder.merged(tmp_path, [one._replace(overrides={'method.temperature': '0.2'})])
  with pytest.raises(Refusal, match='number of steps=4, not 5'):
    folder.merged(tmp_path, [one._replace(steps=5)])


def test_a_folder_of_other_files_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(Refusal, match='is not empty and holds no sweep'):
    folder.merged(tmp_path, [Run('a', 'x.py', {}, {}, 4)])


def test_a_torn_state_counts_as_waiting(tmp_path):
  run = Run('a', 'x.py', {}, {}, 4)
  folder.write_state(tmp_path, run, State('finished', attempts=2))
  assert folder.state(tmp_path, run) == State('finished', attempts=2)
  (tmp_path / 'states' / 'a.json').write_text('{"state": "fini')
  assert folder.state(tmp_path, run) == State('waiting')
