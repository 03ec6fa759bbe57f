"""The table, the figures and the claims of the study, from the folder of its sweep.

python -m experiments.views_and_temperature.analyse runs/views_and_temperature
"""

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from experiments.views_and_temperature.sweep import LOSSES, TEMPERATURES, VIEWS
from launch import folder, results
from launch.report import markdown, spread_text
from launch.results import Group, Spread

HERE = pathlib.Path(__file__).parent
NAMES = {'simclr': 'NT-Xent', 'poly_view': 'Poly-View', 'mv_info_nce': 'MV-InfoNCE', 'mv_dhel': 'MV-DHEL'}
SCORES = {
  'linear/accuracy': 'linear probe',
  'knn/accuracy': '20-NN',
  'geometry/effective_rank': 'effective rank',
  'geometry/uniformity': 'uniformity',
}
JUDGE, RANK = 'linear/accuracy', 'geometry/effective_rank'
SHOWN = 0.2  # temperature at which ranks are told

Found = dict[tuple[str, int, float], Group]


def gather(root: pathlib.Path) -> Found:
  """The settings by loss, number of views and temperature."""
  found = {}
  for group in results.load(root).groups:
    run = group.results[0].run
    overrides = run.overrides
    key = folder.stem(run.config), int(overrides['data.num_views']), float(overrides['method.temperature'])
    found[key] = group
  return found


def best(found: Found, loss: str, views: int) -> float | None:
  """The temperature at which the linear probe is best; None while nothing is finished."""
  done = [(spread.mean, t) for t in TEMPERATURES if (spread := _spread(found, loss, views, t, JUDGE))]
  return max(done)[1] if done else None


def _spread(found: Found, loss: str, views: int, temperature: float, score: str) -> Spread | None:
  group = found.get((loss, views, temperature))
  return group.spread(score) if group else None


def table(found: Found) -> str:
  """Each loss and number of views at its best temperature, as Markdown."""
  rows = []
  for loss in LOSSES:
    for views in VIEWS:
      at = best(found, loss, views)
      if at is not None:
        cells = [spread_text(_spread(found, loss, views, at, score)) for score in SCORES]
        rows.append([NAMES[loss], str(views), f'{at:g}', *cells])
  return markdown(['loss', 'views', 'best temperature', *SCORES.values()], rows)


def claims(found: Found) -> list[str]:
  """The claims, each with the numbers that speak for or against it."""
  at = {(loss, views): best(found, loss, views) for loss in LOSSES for views in VIEWS}
  if None in at.values():
    return ['Not all settings are finished.']
  told = []
  for views in VIEWS:
    ours = _spread(found, 'mv_dhel', views, at['mv_dhel', views], JUDGE)
    others = {loss: _spread(found, loss, views, at[loss, views], JUDGE) for loss in LOSSES if loss != 'mv_dhel'}
    rival = max(others, key=lambda loss: others[loss].mean)
    told.append(f'V = {views}: MV-DHEL less the best other ({NAMES[rival]}): {_gap(others[rival], ours)}.')
  few, many = (_spread(found, 'mv_dhel', views, at['mv_dhel', views], JUDGE) for views in (VIEWS[0], VIEWS[-1]))
  told.append(f'MV-DHEL, V = {VIEWS[-1]} less V = {VIEWS[0]}: {_gap(few, many)}.')
  for loss in LOSSES:
    ranks = {t: _ranks(found, loss, t) for t in TEMPERATURES}
    grows = [f'{t:g}' for t, means in ranks.items() if np.all(np.diff(means) > 0)]
    at_one = ', '.join(f'{rank:.1f}' for rank in ranks[SHOWN])
    told.append(
      f'{NAMES[loss]}: effective rank at temperature {SHOWN:g} is {at_one}; with every V it grows at '
      + (f'temperature {", ".join(grows)}.' if grows else 'no temperature.')
    )
  return told


def _ranks(found: Found, loss: str, temperature: float) -> list[float]:
  """Mean effective rank for each number of views."""
  return [getattr(_spread(found, loss, views, temperature, RANK), 'mean', np.nan) for views in VIEWS]


def _gap(one: Spread, two: Spread) -> str:
  return f'{100 * (two.mean - one.mean):+.2f} ± {100 * results.margin(one, two):.2f} points (95 % interval)'


def draw(found: Found):
  """Each score over the number of views, every loss at its best temperature; the linear probe over both."""
  figure, panels = plt.subplots(1, len(SCORES), figsize=(14, 3.3), layout='constrained')
  for panel, (score, name) in zip(panels, SCORES.items(), strict=True):
    for loss in LOSSES:
      at = {views: best(found, loss, views) for views in VIEWS}
      points = [(views, _spread(found, loss, views, t, score)) for views, t in at.items() if t is not None]
      if points:
        means, deviations = [s.mean for _, s in points], [np.nan_to_num(s.deviation) for _, s in points]
        panel.errorbar([v for v, _ in points], means, deviations, marker='o', capsize=3, label=NAMES[loss])
    panel.set(xlabel='views', title=name, xticks=VIEWS)
  panels[0].legend()
  figure.savefig(HERE / 'views.png', dpi=120)
  figure, panels = plt.subplots(1, len(LOSSES), figsize=(14, 3.1), layout='constrained')
  grids = [
    np.array([[getattr(_spread(found, loss, v, t, JUDGE), 'mean', np.nan) for t in TEMPERATURES] for v in VIEWS])
    for loss in LOSSES
  ]
  low, high = np.nanmin(grids), np.nanmax(grids)
  for panel, loss, grid in zip(panels, LOSSES, grids, strict=True):
    shown = panel.imshow(grid, vmin=low, vmax=high, aspect='auto')
    panel.set(title=NAMES[loss], xlabel='temperature', ylabel='views')
    panel.set_xticks(range(len(TEMPERATURES)), [f'{t:g}' for t in TEMPERATURES])
    panel.set_yticks(range(len(VIEWS)), map(str, VIEWS))
  figure.colorbar(shown, ax=panels, label='linear probe')
  figure.savefig(HERE / 'map.png', dpi=120)
  figure, panels = plt.subplots(1, len(LOSSES), figsize=(14, 3.1), layout='constrained', sharey=True)
  for panel, loss in zip(panels, LOSSES, strict=True):
    for temperature in TEMPERATURES:
      panel.plot(VIEWS, _ranks(found, loss, temperature), marker='o', label=f'{temperature:g}')
    panel.set(title=NAMES[loss], xlabel='views', xticks=VIEWS)
  panels[0].set(ylabel='effective rank')
  panels[0].legend(title='temperature', loc='upper right', ncols=2)
  figure.savefig(HERE / 'rank.png', dpi=120)


def main():
  """Reads the sweep as far as it is; writes table.md, views.png, map.png and rank.png beside this file."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('workdir', type=pathlib.Path, help='folder of the sweep')
  found = gather(parser.parse_args().workdir)
  text = table(found) + '\n\n' + '\n'.join(f'- {claim}' for claim in claims(found)) + '\n'
  print(text)
  (HERE / 'table.md').write_text(text)
  draw(found)


if __name__ == '__main__':
  main()
