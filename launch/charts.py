"""Figures of a sweep: heat maps, scores over one key, learning curves, differences; light or dark."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from contrastive_jax.engine.figures import LIGHT, Theme

COLOURS = 'viridis'
NAMED = 5  # settings that learning curves name; the others are grey


def heat_map(
  grids: Mapping[str, Float[np.ndarray, 'r c']],
  rows: Sequence[str],
  columns: Sequence[str],
  *,
  row: str,
  column: str,
  score: str,
  theme: Theme = LIGHT,
) -> Figure:
  """One panel for each name, all on one scale; cells without a value stay empty."""
  wide, high = 1.5 + 0.62 * len(columns), 1.1 + 0.38 * len(rows)
  across = min(len(grids), 3)
  down = -(-len(grids) // across)
  figure = Figure(figsize=(max(wide * across, 4.2), high * down), facecolor=theme.background, layout='constrained')
  FigureCanvasAgg(figure)
  values = np.stack(list(grids.values()))
  low, top = (float(limit(values)) for limit in (np.nanmin, np.nanmax))
  shades = matplotlib.colormaps[COLOURS]
  for place, (name, grid) in enumerate(grids.items()):
    axes = figure.add_subplot(down, across, place + 1)
    axes.imshow(grid, cmap=shades, vmin=low, vmax=top, aspect='auto')
    for (i, j), value in np.ndenumerate(grid):
      if np.isfinite(value):
        bright = (value - low) / max(top - low, 1e-12) > 0.6
        axes.text(j, i, number(value), ha='center', va='center', fontsize=8, color='black' if bright else 'white')
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    _dress(axes, theme, title=name or score, x=column, y=row)
  if any(grids):
    figure.suptitle(score, color=theme.text, fontsize=11, parse_math=False)
  return figure


def over_values(
  values: Sequence[str],
  means: Float[np.ndarray, ' n'],
  deviations: Float[np.ndarray, ' n'],
  *,
  key: str,
  score: str,
  theme: Theme = LIGHT,
) -> Figure:
  """A score over the values of one key, with the deviation over seeds; numbers at their places."""
  figure, axes = _panel(theme)
  places = numbers(values)
  x = np.arange(len(values)) if places is None else places
  if places is not None and places.min() > 0 and places.max() >= 8 * places.min():
    axes.set_xscale('log')
  order = np.argsort(x)
  bars = np.nan_to_num(deviations)
  axes.errorbar(x[order], means[order], bars[order], color=theme.series[0], marker='o', markersize=4, capsize=3)
  axes.set_xticks(x, values)
  axes.minorticks_off()
  _dress(axes, theme, title=score, x=key)
  return figure


def slices(
  points: Mapping[str, tuple[Sequence[str], Float[np.ndarray, ' n']]], *, score: str, theme: Theme = LIGHT
) -> Figure:
  """A score over each of several keys, one panel each: for settings drawn at random."""
  figure = Figure(figsize=(3.2 * len(points), 3.0), facecolor=theme.background, layout='constrained')
  FigureCanvasAgg(figure)
  for place, (key, (values, found)) in enumerate(points.items()):
    axes = figure.add_subplot(1, len(points), place + 1, facecolor=theme.background)
    places = numbers(values)
    if places is not None and places.min() > 0 and places.max() >= 8 * places.min():
      axes.set_xscale('log')
    axes.scatter(values if places is None else places, found, s=16, color=theme.series[0], alpha=0.8, linewidths=0)
    _dress(axes, theme, title=score, x=key)
  return figure


def learning(
  curves: Sequence[tuple[str, Float[np.ndarray, ' n'], Float[np.ndarray, ' n']]], *, score: str, theme: Theme = LIGHT
) -> Figure:
  """Name, steps and values of each setting, the best first: it and a few after it are named, the others are grey."""
  figure, axes = _panel(theme, width=7.2, height=3.8)
  for _, steps, values in curves[NAMED:]:
    axes.plot(steps, values, color=theme.muted, linewidth=0.8, alpha=0.4)
  for colour, (name, steps, values) in reversed(list(zip(theme.series, curves, strict=False))):
    axes.plot(steps, values, color=colour, linewidth=1.8, marker='o' if len(steps) < 16 else None, markersize=3)
    axes.plot([], [], color=colour, linewidth=1.8, label=name)
  _dress(axes, theme, title=score, x='step')
  handles, labels = axes.get_legend_handles_labels()
  axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8.5, labelcolor=theme.text)
  return figure


def changes(
  names: Sequence[str],
  means: Float[np.ndarray, ' n'],
  margins: Float[np.ndarray, ' n'],
  *,
  title: str,
  theme: Theme = LIGHT,
) -> Figure:
  """Differences with their intervals, one line each."""
  figure, axes = _panel(theme, width=7.2, height=1.0 + 0.27 * len(names))
  y = np.arange(len(names))[::-1]
  axes.errorbar(means, y, xerr=np.nan_to_num(margins), fmt='o', color=theme.series[0], markersize=4, capsize=3)
  axes.axvline(0, color=theme.muted, linewidth=1)
  axes.set_yticks(y, names)
  _dress(axes, theme, title=title, x='difference')
  return figure


def numbers(values: Sequence[str]) -> Float[np.ndarray, ' n'] | None:
  """The values as numbers; None where one is none."""
  try:
    return np.array([float(value) for value in values])
  except ValueError:
    return None


def number(value: float) -> str:
  """Four digits, as tables and cells show them."""
  return f'{value:.4f}' if abs(value) < 1 else f'{value:.4g}'


def _panel(theme: Theme, *, width: float = 5.2, height: float = 3.1) -> tuple[Figure, Axes]:
  figure = Figure(figsize=(width, height), facecolor=theme.background, layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.add_subplot(facecolor=theme.background)
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.spines['bottom'].set_color(theme.muted)
  axes.grid(axis='y', color=theme.grid, linewidth=0.9)
  axes.set_axisbelow(True)
  return figure, axes


def _dress(axes: Axes, theme: Theme, *, title: str, x: str, y: str = ''):
  axes.tick_params(which='both', colors=theme.muted, labelsize=9, length=0)
  axes.set_title(title, loc='left', color=theme.text, fontsize=10.5, fontweight='bold', parse_math=False)
  axes.set_xlabel(x, color=theme.muted, fontsize=9.5)
  axes.set_ylabel(y, color=theme.muted, fontsize=9.5)
