"""What a sweep has found, while it runs or after: `python -m launch.report WORKDIR [WORKDIR]`.

Prints the settings, seeds aggregated, the best first, and writes into the first folder: the table as `report.md` and
`report.csv`, every run in `runs.csv`, figures, and all of it as one page, `report.html`. With a second folder it prints
and writes `comparison.*` instead: the differences between the two, with their uncertainty.
"""

import argparse
import csv
import functools
import io
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from contrastive_jax.engine import figures, page
from contrastive_jax.types import Refusal
from launch import charts, folder, results
from launch.display import duration
from launch.results import Difference, Group, Spread, Sweep, described, label, written

PAGE = 'report.html'
# Columns of the table, of those that the runs have; all scores are in the CSV file.
SHOWN = ('linear/accuracy', 'knn/accuracy', 'geometry/effective_rank', 'geometry/uniformity')
PANELS = 12  # heat maps, at most
CELLS = 12  # values of a key, at most, that make rows or columns of a heat map


def build(root: pathlib.Path, score: str | None = None, *, lowest: bool = False) -> str:
  """Writes the report of a sweep into its folder; returns its table.

  Raises:
    Refusal: the folder holds no sweep, or no run has the score.
  """
  sweep = results.load(root)
  judge = results.judge([sweep], score)
  groups = results.ordered(sweep.groups, judge, lowest=lowest)
  table = markdown(*_table(sweep, groups, judge))
  folder.write(root / 'report.md', table + '\n')
  folder.write(root / 'report.csv', _csv(*_all_scores(sweep, groups)))
  folder.write(root / 'runs.csv', _csv(*_runs(sweep)))
  sections = {
    'Settings': _settings(sweep, groups, judge),
    'Map': page.grid(_maps(root, sweep, judge)) or page.missing('No two settings are finished.'),
    'Learning': page.grid(_learning(root, groups, judge)) or page.missing('Nothing has been measured.'),
    'Runs': _standing(sweep),
  }
  facts = f'{len(sweep.groups)} settings, {len(sweep.results)} runs: {_counts(sweep)}'
  folder.write(root / PAGE, page.page(sweep.name, facts, sections))
  return table


def compare(first: pathlib.Path, second: pathlib.Path, score: str | None = None) -> str:
  """Writes the differences of two sweeps into the first folder; returns their table.

  Raises:
    Refusal: a folder holds no sweep, or the two have no finished setting in common.
  """
  one, two = results.load(first), results.load(second)
  judge = results.judge([one, two], score)
  found = results.differences(one, two, judge)
  if not found:
    raise Refusal(f"'{first}' and '{second}' have no finished setting in common")
  head, rows = _differences(found, judge, one.name, two.name)
  table = markdown(head, rows) + '\n\n' + _verdict(found, two.name)
  folder.write(first / 'comparison.md', table + '\n')
  folder.write(first / 'comparison.csv', _csv(head, rows))
  names = [described(each.values) for each in found]
  means, margins = (np.array([getattr(each, field) for each in found]) for field in ('mean', 'margin'))
  title = f'{judge}: {two.name} less {one.name}'
  figure = _figure(first, 'comparison', functools.partial(charts.changes, names, means, margins, title=title),
                   f'Differences of the means, with their {results.CONFIDENCE:.0%} intervals (Welch).')  # fmt: skip
  listed = page.table(head[len(found[0].values) :], [
    (described(each.values), '', row[len(each.values) :]) for each, row in zip(found, rows, strict=True)
  ])  # fmt: skip
  sections = {'Differences': page.sentences([_verdict(found, two.name)]) + figure + listed}
  folder.write(first / 'comparison.html', page.page(title, f'{len(found)} settings in both', sections))
  return table


# --- tables ---


def _table(sweep: Sweep, groups: Sequence[Group], judge: str) -> tuple[list[str], list[list[str]]]:
  """What is printed: axes, number of seeds, mean and deviation of the main scores."""
  shown = _columns(sweep, judge)
  head = [*(label(axis, sweep.axes) for axis in sweep.axes), 'seeds', *shown]
  rows = []
  for group in groups:
    spreads = [group.spread(score) for score in shown]
    number = next((spread.number for spread in spreads if spread), 0)
    cells = [written(axis, value) for axis, value in group.values.items()]
    rows.append([*cells, f'{number} of {len(group.results)}', *map(spread_text, spreads)])
  return head, rows


def _columns(sweep: Sweep, judge: str) -> list[str]:
  return list(dict.fromkeys(score for score in (judge, *SHOWN) if score in sweep.scores))


def _all_scores(sweep: Sweep, groups: Sequence[Group]) -> tuple[list[str], list[list[Any]]]:
  fields = [(score, part) for score in sweep.scores for part in Spread._fields]
  head = [*sweep.axes, *(f'{score} {part}' for score, part in fields)]
  rows = []
  for group in groups:
    spreads = {score: group.spread(score) for score in sweep.scores}
    rows.append([*group.values.values(), *(getattr(spreads[score], part, '') for score, part in fields)])
  return head, rows


def _runs(sweep: Sweep) -> tuple[list[str], list[list[Any]]]:
  head = ['run', 'state', 'reason', 'seconds', 'attempts', *sweep.scores]
  rows = []
  for result in sweep.results:
    state = result.state
    stands = [result.run.name, state.state, state.reason, round(state.seconds, 1), state.attempts]
    rows.append([*stands, *(result.scores.get(score, '') for score in sweep.scores)])
  return head, rows


def _differences(found: Sequence[Difference], judge: str, one: str, two: str) -> tuple[list[str], list[list[str]]]:
  axes = list(found[0].values)
  head = [*(label(axis, axes) for axis in axes), f'{judge} of {one}', f'of {two}', 'difference', '95 % interval']
  rows = []
  for each in found:
    cells = [written(axis, value) for axis, value in each.values.items()]
    interval = '–' if np.isnan(each.margin) else f'{each.mean - each.margin:+.4f} to {each.mean + each.margin:+.4f}'
    rows.append([*cells, spread_text(each.first), spread_text(each.second), f'{each.mean:+.4f}', interval])
  return head, rows


def _verdict(found: Sequence[Difference], name: str) -> str:
  higher = sum(each.clear and each.mean > 0 for each in found)
  lower = sum(each.clear and each.mean < 0 for each in found)
  return (
    f'{name} is higher in {higher} and lower in {lower} of {len(found)} settings by more than the uncertainty; '
    f'by chance alone {(1 - results.CONFIDENCE) * len(found):.2g} would be one or the other.'
  )


def spread_text(spread: Spread | None) -> str:
  """Mean ± deviation, '0.9783 ± 0.0021'; the mean alone of one seed."""
  if spread is None:
    return '–'
  mean = charts.number(spread.mean)
  return mean if np.isnan(spread.deviation) else f'{mean} ± {charts.number(spread.deviation)}'


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table of GitHub's Markdown."""
  lines = [list(head), ['---'] * len(head), *map(list, rows)]
  return '\n'.join(f'| {" | ".join(cell.replace("|", "/") for cell in line)} |' for line in lines)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  target = io.StringIO()
  writer = csv.writer(target, lineterminator='\n')
  writer.writerows([head, *rows])
  return target.getvalue()


# --- sections of the page ---


def _settings(sweep: Sweep, groups: Sequence[Group], judge: str) -> str:
  shown = _columns(sweep, judge)
  if not shown:
    return page.missing('No run is finished.')
  best = groups[0]
  rows = []
  for group in groups:
    seeds = f'{sum(bool(result.scores) for result in group.results)} of {len(group.results)} seeds'
    cells = [('*' if group is best and score == judge else '') + spread_text(group.spread(score)) for score in shown]
    rows.append((described(group.values), seeds, cells))
  floors = next((result.floors for result in sweep.results if result.floors), {})
  for name in sorted(floors, reverse=True):  # raw pixels are nobody's seed
    if name == 'raw pixels':
      rows.append((name, 'floor', [charts.number(floors[name][s]) if s in floors[name] else '–' for s in shown]))
  return page.table(shown, rows, kind='stacked')


def _standing(sweep: Sweep) -> str:
  failed = [result for result in sweep.results if result.state.state == 'failed']
  seconds = [result.state.seconds for result in sweep.results if result.state.state == 'finished']
  told = f'{_counts(sweep)}.' + (f' A finished one took {duration(float(np.median(seconds)))}.' if seconds else '')
  listed = page.settings({result.run.name: result.state.reason for result in failed}) if failed else ''
  return page.sentences([told]) + listed


def _counts(sweep: Sweep) -> str:
  return folder.counts({result.run.name: result.state for result in sweep.results})


def _maps(root: pathlib.Path, sweep: Sweep, judge: str) -> list[str]:
  """A heat map over two axes, for each combination of the others; over one axis a curve; of random settings points."""
  done = [group for group in sweep.groups if group.spread(judge)]
  if len(done) < 2:
    return []
  options = {axis: list(dict.fromkeys(group.values[axis] for group in sweep.groups)) for axis in sweep.axes}
  if max(map(len, options.values())) > CELLS:
    scores = np.array([spread.mean for group in done if (spread := group.spread(judge))])
    points = {label(axis, sweep.axes): ([g.values[axis] for g in done], scores) for axis in sweep.axes}
    draw = functools.partial(charts.slices, points, score=judge)
    return [_figure(root, 'map', draw, f'{judge}, mean over the finished seeds, one point a setting.', wide=True)]
  if len(sweep.axes) == 1:
    return [_curve(root, done, sweep.axes[0], judge)]
  # Numbers make better axes than names, and longer axes make fewer panels.
  *_, row, column = sorted(options, key=lambda axis: (charts.numbers(options[axis]) is not None, len(options[axis])))
  others = [axis for axis in sweep.axes if axis not in (row, column)]
  grids = {}
  for chosen in itertools.islice(itertools.product(*(options[axis] for axis in others)), PANELS):
    fixed = dict(zip(others, chosen, strict=True))
    grid = _grid([g for g in done if fixed.items() <= g.values.items()], row, column, options, judge)
    if np.isfinite(grid).any():
      grids[described(fixed) if fixed else ''] = grid
  rows, columns = ([written(axis, value) for value in options[axis]] for axis in (row, column))
  keys = dict(row=label(row, sweep.axes), column=label(column, sweep.axes), score=judge)
  draw = functools.partial(charts.heat_map, grids, rows, columns, **keys)
  return [_figure(root, 'map', draw, f'{judge}, mean over the finished seeds.', wide=True)]


def _grid(groups: Sequence[Group], row: str, column: str, options: dict[str, list[str]], judge: str) -> np.ndarray:
  grid = np.full((len(options[row]), len(options[column])), np.nan)
  for group in groups:
    spread = group.spread(judge)
    if spread is not None:
      grid[options[row].index(group.values[row]), options[column].index(group.values[column])] = spread.mean
  return grid


def _curve(root: pathlib.Path, groups: Sequence[Group], axis: str, judge: str) -> str:
  spreads = [spread for group in groups if (spread := group.spread(judge))]
  means, deviations = (np.array([getattr(s, field) for s in spreads]) for field in ('mean', 'deviation'))
  values = [written(axis, group.values[axis]) for group in groups]
  draw = functools.partial(charts.over_values, values, means, deviations, key=label(axis, [axis]), score=judge)
  return _figure(root, 'map', draw, f'{judge}: mean and standard deviation over the finished seeds.')


def _learning(root: pathlib.Path, groups: Sequence[Group], judge: str) -> list[str]:
  """The score and the loss during training, mean over seeds; of runs that still go on too."""
  found = []
  for name, points in (
    (judge, lambda r: [(step, scores[judge]) for step, scores in r.evaluations if judge in scores]),
    ('loss', lambda r: r.losses),
  ):
    curves = [(described(group.values), *_mean([points(result) for result in group.results])) for group in groups]
    curves = [curve for curve in curves if len(curve[1]) > 1]
    if curves:
      caption = f'{name} during training, mean over seeds; named are the best settings.'
      draw = functools.partial(charts.learning, curves, score=name)
      found.append(_figure(root, f'learning-{name.replace("/", "-")}', draw, caption, wide=True))
  return found


def _mean(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray]:
  """Mean over seeds at the steps that all of them have reached that have begun."""
  begun = [dict(curve) for curve in curves if curve]
  steps = sorted(set.intersection(*map(set, begun))) if begun else []
  return np.array(steps), np.array([np.mean([curve[step] for curve in begun]) for step in steps])


def _figure(root: pathlib.Path, name: str, draw: Callable[..., Figure], caption: str, **keys: bool) -> str:
  """Draws in both themes, saves the light one, and embeds both."""
  light, dark = figures.png(draw(theme=figures.LIGHT)), figures.png(draw(theme=figures.DARK))
  path = root / 'figures' / f'{name}.png'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(light)
  return page.figure(light, dark, alt=name, caption=caption, **keys)


def main(argv: Sequence[str]) -> int:
  """The command; returns its exit code."""
  about = __doc__ or ''
  parser = argparse.ArgumentParser('python -m launch.report', description=about, allow_abbrev=False)
  parser.add_argument('workdir', type=pathlib.Path, nargs='+', help='of a sweep; a second one is compared with it')
  parser.add_argument('--score', help='that settings are ordered by; default: linear probe, else nearest neighbours')
  parser.add_argument('--lowest_first', action='store_true', help='of the score less is better')
  given = parser.parse_args(argv)
  try:
    if len(given.workdir) > 2:
      raise Refusal(f'one sweep or two can be reported, not {len(given.workdir)}')
    if len(given.workdir) == 2:
      print(compare(*given.workdir, given.score))
      print(f'\nreport: {given.workdir[0] / "comparison.html"}')
    else:
      print(build(*given.workdir, given.score, lowest=given.lowest_first))
      print(f'\nreport: {given.workdir[0] / PAGE}')
  except Refusal as refusal:
    print('error: ' + ' '.join(str(refusal).split()), file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
