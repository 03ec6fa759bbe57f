"""What is told of a sweep, while it runs and after."""

import csv
import json
import re

import numpy as np
import pytest
import scipy.stats

from contrastive_jax.types import Refusal
from launch import charts, folder, report, results
from launch.folder import Run, State

T, V = 'config.method.temperature', 'config.data.num_views'
STEPS = 4


def made(root, scores: dict[tuple[str, str], list[float | None]], *, noise: float = 0.0):
  """A sweep over temperature and views with these linear accuracies by seed; None is a run that has not begun."""
  runs = []
  for (temperature, views), values in scores.items():
    for seed, value in enumerate(values):
      setting = {T: temperature, V: views, 'config.seed': str(seed)}
      overrides = {key.removeprefix('config.'): text for key, text in setting.items()}
      run = Run(folder.name_of(setting), 'configs/ssl/simclr.py', overrides, setting, STEPS)
      runs.append(run)
      if value is not None:
        path = folder.workdir(root, run)
        path.mkdir(parents=True)
        halves = [(STEPS // 2, value / 2), (STEPS, value + noise)]
        lines = [{'step': step, 'loss': 1 - score} for step, score in halves]
        (path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n{"step": 5, "lo')
        evaluations = [{'step': s, 'scores': {'linear/accuracy': score, 'other': -score}} for s, score in halves]
        floors = {'raw pixels': {'linear/accuracy': 0.5}}
        (path / 'evaluations.json').write_text(json.dumps({'evaluations': evaluations, 'floors': floors}))
        folder.write_state(root, run, State('finished', seconds=3.0))
  folder.write_manifest(root, runs)
  return runs


GRID = {
  ('0.1', '2'): [0.80, 0.90],
  ('0.1', '4'): [0.95, 0.97],
  ('0.5', '2'): [0.70, None],
  ('0.5', '4'): [None, None],
}


def rows(path) -> list[dict[str, str]]:
  with path.open() as file:
    return list(csv.DictReader(file))


def test_seeds_are_aggregated_and_the_best_setting_comes_first(tmp_path):
  made(tmp_path, GRID)
  table = report.build(tmp_path).splitlines()
  assert table[0] == '| temperature | num_views | seeds | linear/accuracy |'
  assert table[2] == '| 0.1 | 4 | 2 of 2 | 0.9600 ± 0.0141 |'
  assert table[3] == '| 0.1 | 2 | 2 of 2 | 0.8500 ± 0.0707 |'
  assert table[4] == '| 0.5 | 2 | 1 of 2 | 0.7000 |'
  assert table[5] == '| 0.5 | 4 | 0 of 2 | – |'
  assert (tmp_path / 'report.md').read_text() == '\n'.join(table) + '\n'
  best = rows(tmp_path / 'report.csv')[0]
  assert (best[T], best[V], best['linear/accuracy number']) == ('0.1', '4', '2')
  assert float(best['linear/accuracy mean']) == pytest.approx(0.96)
  assert float(best['linear/accuracy deviation']) == pytest.approx(np.std([0.95, 0.97], ddof=1))


def test_another_score_orders_and_less_can_be_better(tmp_path):
  made(tmp_path, GRID)
  sweep = results.load(tmp_path)
  assert results.judge([sweep], None) == 'linear/accuracy' and results.judge([sweep], 'other') == 'other'
  for lowest, first in ((False, ('0.5', '2')), (True, ('0.1', '4'))):
    found = results.ordered(sweep.groups, 'other', lowest=lowest)
    assert tuple(found[0].values.values()) == first
    assert found[-1].spread('other') is None
  with pytest.raises(Refusal, match="no finished run has the score 'othr'; did you mean 'other'"):
    results.judge([sweep], 'othr')


def test_the_page_holds_everything_and_loads_nothing(tmp_path):
  runs = made(tmp_path, GRID)
  folder.write_state(tmp_path, runs[-1], State('failed', reason='disk full: <no> space'))
  report.build(tmp_path)
  page = (tmp_path / report.PAGE).read_text()
  assert page.count('<img src="data:image/png;base64,') == 3
  assert not re.search(r'(src|href)="(?!data:|#)', page) and '<script' not in page
  assert 'disk full: &lt;no&gt; space' in page
  assert '5 finished, 2 waiting, 1 failed' in page
  assert 'raw pixels' in page
  pictures = {path.name for path in (tmp_path / 'figures').iterdir()}
  assert pictures == {'map.png', 'learning-linear-accuracy.png', 'learning-loss.png'}


def test_a_sweep_can_be_read_before_anything_is_finished(tmp_path):
  runs = made(tmp_path, {('0.1', '2'): [None]})
  assert '| 0 of 1 |' in report.build(tmp_path)
  path = folder.workdir(tmp_path, runs[0])
  path.mkdir(parents=True)
  (path / 'evaluations.json').write_text('{"evaluations": [{"st')
  folder.write_state(tmp_path, runs[0], State('running'))
  assert '| 0 of 1 |' in report.build(tmp_path)
  assert results.load(tmp_path).results[0].state.state == 'stopped'  # no launcher is at work
  with folder.launching(tmp_path):
    assert results.load(tmp_path).results[0].state.state == 'running'


def test_scores_of_a_run_that_goes_on_are_not_averaged_with_those_of_finished_ones(tmp_path):
  runs = made(tmp_path, {('0.1', '2'): [0.8, 0.9]})
  folder.write_state(tmp_path, runs[0], State('stopped'))
  assert results.load(tmp_path).groups[0].spread('linear/accuracy').mean == 0.9


def test_a_key_that_follows_from_another_is_no_axis(tmp_path):
  batch = 'config.data.batch_size'
  settings = [{T: t, V: v, batch: str(384 // int(v))} for t in ('0.1', '0.2') for v in ('2', '4')]
  folder.write_manifest(tmp_path, [Run(folder.name_of(s), 'x.py', {}, s, STEPS) for s in settings])
  sweep = results.load(tmp_path)
  assert sweep.axes == [T, V] and len(sweep.groups) == 4


def test_keys_are_shortened_as_far_as_they_stay_apart():
  axes = ['config.method.temperature', 'config.encoder.features', 'config.head.features', 'config']
  assert [results.label(axis, axes) for axis in axes] == [
    'temperature', 'encoder.features', 'head.features', 'config',
  ]  # fmt: skip


def test_what_holds_no_sweep_is_refused_with_exit_code_2(tmp_path, capsys):
  assert report.main([str(tmp_path)]) == 2
  assert capsys.readouterr().err == f"error: '{tmp_path}' holds no sweep: manifest.json is missing or damaged\n"


# --- figures ---


def test_every_cell_of_a_heat_map_is_the_mean_of_its_setting(tmp_path):
  made(tmp_path, GRID)
  groups = results.load(tmp_path).groups
  options = {T: ['0.1', '0.5'], V: ['2', '4']}
  grid = report._grid(groups, T, V, options, 'linear/accuracy')
  np.testing.assert_allclose(grid, [[0.85, 0.96], [0.70, np.nan]])


@pytest.mark.parametrize(('number', 'chart'), [(1, None), (3, 'over_values'), (13, 'slices')])
def test_one_axis_is_a_curve_and_many_values_are_points(tmp_path, monkeypatch, number, chart):
  made(tmp_path, {(str((i + 1) / 10), '2'): [0.5 + i / 50] for i in range(number)})
  drawn = []
  for name in ('heat_map', 'over_values', 'slices'):
    draw = getattr(charts, name)
    monkeypatch.setattr(charts, name, lambda *a, _n=name, _d=draw, **k: (drawn.append(_n), _d(*a, **k))[1])
  report._maps(tmp_path, results.load(tmp_path), 'linear/accuracy')
  assert set(drawn) == ({chart} if chart else set())


def test_words_have_no_place_on_an_axis_of_numbers():
  assert charts.numbers(['nt_xent', '2']) is None
  np.testing.assert_array_equal(charts.numbers(['0.5', '2']), [0.5, 2])


# --- two sweeps ---


def test_differences_have_welchs_interval(tmp_path):
  one, two = [0.80, 0.84, 0.79], [0.90, 0.95, 0.85]
  for name, values in (('one', one), ('two', two)):
    made(tmp_path / name, {('0.1', '2'): values, ('0.5', '2'): [0.7]})
  (best, other) = results.differences(*(results.load(tmp_path / n) for n in ('one', 'two')), 'linear/accuracy')
  interval = scipy.stats.ttest_ind(two, one, equal_var=False).confidence_interval(0.95)
  assert best.mean == pytest.approx(0.09)
  np.testing.assert_allclose([best.mean - best.margin, best.mean + best.margin], interval)
  assert np.isnan(other.margin) and not other.clear


def test_two_sweeps_are_set_side_by_side(tmp_path, capsys):
  made(tmp_path / 'one', GRID)
  made(tmp_path / 'two', GRID, noise=0.01)
  assert report.main([str(tmp_path / 'one'), str(tmp_path / 'two')]) == 0
  told = capsys.readouterr().out
  assert '| 0.1 | 4 | 0.9600 ± 0.0141 | 0.9700 ± 0.0141 | +0.0100 |' in told
  assert 'two is higher in 0 and lower in 0 of 3 settings by more than the uncertainty' in told
  assert {path.name for path in (tmp_path / 'one').glob('comparison.*')} == {
    'comparison.md', 'comparison.csv', 'comparison.html',
  }  # fmt: skip


def test_sweeps_of_different_keys_are_not_set_side_by_side(tmp_path):
  made(tmp_path / 'one', GRID)
  made(tmp_path / 'two', {key: values for key, values in GRID.items() if key[0] == '0.1'})
  with pytest.raises(Refusal, match="only 'one' varies config"):
    report.compare(tmp_path / 'one', tmp_path / 'two')
