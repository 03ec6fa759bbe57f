"""Figures of a run: functions from arrays to matplotlib figures, all drawn in one style, light or dark.

Nothing here touches matplotlib's global state, so figures can be drawn from any thread and any notebook.
"""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import matplotlib.patheffects
import numpy as np
import threadpoolctl
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from sklearn.manifold import TSNE

DPI = 160
LEFT, RIGHT, BOTTOM, TOP = 0.62, 0.2, 0.52, 0.45


class Theme(NamedTuple):
  """Colours of a figure: background, text, secondary text, grid, and those of series in order."""

  background: str
  text: str
  muted: str
  grid: str
  series: tuple[str, ...]


LIGHT = Theme('#ffffff', '#1f2328', '#656d76', '#e8eaed', ('#2f6fb2', '#d9722a', '#2a9d8f', '#8158b5', '#b5486b'))
DARK = Theme('#16191d', '#e6e8eb', '#9aa2ab', '#2b3037', ('#6aa9e9', '#f0954f', '#4fc3b3', '#b28ee0', '#e584a3'))

# Ten hues that stay apart on white and on near-black, also for most colour-blind readers.
CLASSES = ('#4e79a7', '#f28e2b', '#e15759', '#76b7b2', '#59a14f', '#d9b430', '#b07aa1', '#ff9da7', '#9c755f', '#9d9794')


def png(figure: Figure) -> bytes:
  """The figure as the bytes of a PNG file."""
  target = io.BytesIO()
  figure.savefig(target, format='png', dpi=DPI, facecolor=figure.get_facecolor())
  return target.getvalue()


def curve(
  steps: Int[np.ndarray, ' n'], values: Float[np.ndarray, ' n'], *, name: str, noisy: bool = True, theme: Theme = LIGHT
) -> Figure:
  """A metric over training steps.

  A noisy one is drawn faint below its running mean when there are many values, and on a logarithmic axis when positive
  values span more than a factor of 30. Values that are not finite leave gaps.
  """
  figure, axes = _panel(theme)
  steps, values = np.asarray(steps), np.asarray(values, np.float64)
  finite = np.isfinite(values)
  smooth = _running_mean(values) if noisy and finite.all() and len(values) >= 60 else None
  line, opacity = (1.8, 1.0) if smooth is None else (1.0, 0.3)
  gapped = np.where(finite, values, np.nan)
  marker = 'o' if len(values) < 16 else None
  axes.plot(steps, gapped, color=theme.series[0], linewidth=line, alpha=opacity, marker=marker, markersize=3.5)
  if smooth is not None:
    axes.plot(steps, smooth, color=theme.series[0], linewidth=1.8)
  if noisy and finite.any() and values[finite].min() > 0 and values[finite].max() > 30 * values[finite].min():
    axes.set_yscale('log')
  _label(axes, theme, title=name, x='step')
  return figure


def accuracies(
  steps: Mapping[str, Sequence[float]],
  values: Mapping[str, Sequence[float]],
  *,
  floors: Mapping[str, float] | None = None,
  title: str = 'test accuracy',
  theme: Theme = LIGHT,
) -> Figure:
  """Accuracies of evaluators over training steps, with that of raw pixels as a dashed line of the same colour."""
  figure, axes = _panel(theme)
  for colour, name in zip(_cycle(theme.series, len(values)), values, strict=True):
    axes.plot(steps[name], values[name], color=colour, linewidth=1.8, marker='o', markersize=3.5, label=name)
    floor = (floors or {}).get(name)
    if floor is not None:
      axes.axhline(floor, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), alpha=0.8)
  if floors:
    axes.plot([], [], color=theme.muted, linewidth=1.1, linestyle=(0, (4, 3)), label='raw pixels')
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{100 * value:.4g}%'))
  _label(axes, theme, title=title, x='step')
  _legend(axes, theme)
  return figure


def plane(x: Float[np.ndarray, 'n d'], *, seed: int = 0) -> Float[np.ndarray, 'n 2']:
  """t-SNE coordinates of the directions of the rows (van der Maaten and Hinton, 2008), started from their PCA.

  About 1 s for 360 rows and 4 s for 1,000; raises ValueError for fewer than 4 rows.
  """
  if len(x) < 4:
    raise ValueError(f'a map needs at least 4 rows, got {len(x)}')
  unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  if np.ptp(unit, axis=0).max() < 1e-6:  # collapsed: the PCA to start from does not exist
    return np.zeros((len(x), 2))
  model = TSNE(init='pca' if x.shape[1] > 1 else 'random', perplexity=min(30.0, (len(x) - 1) / 3), random_state=seed)
  # On a busy machine its OpenMP threads wait for each other: 360 rows took 26 s on two threads and 2 s on one.
  with threadpoolctl.threadpool_limits(1):
    points = model.fit_transform(unit.astype(np.float32))
  # Any rotation is as good: the longest extent goes along the wider side of the picture.
  return (points - points.mean(axis=0)) @ np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2].T


def embedding_map(
  points: Float[np.ndarray, 'n 2'], label: Int[np.ndarray, ' n'], *, names: Sequence[str] = (), theme: Theme = LIGHT
) -> Figure:
  """Points in the plane coloured by label, each class named at its medoid; unlabelled points (-1) are grey."""
  across, up = np.maximum(np.ptp(points, axis=0), 1e-6)
  figure, axes = _panel(theme, width=7.2, height=7.2 * float(np.clip(up / across, 0.5, 1.0)))
  axes.set_position((0.0, 0.0, 1.0, 1.0))
  classes = [int(c) for c in np.unique(label) if c >= 0]
  x, y = points.T
  axes.scatter(x[label < 0], y[label < 0], s=14, color=theme.muted, alpha=0.5, linewidths=0)
  halo = [matplotlib.patheffects.withStroke(linewidth=3, foreground=theme.background)]
  for colour, c in zip(_class_colours(len(classes)), classes, strict=True):
    own = label == c
    axes.scatter(x[own], y[own], s=18 if len(x) < 800 else 9, color=colour, alpha=0.85, linewidths=0)
    if len(classes) <= 20:
      axes.text(
        *_medoid(points[own]),
        names[c] if c < len(names) else str(c),
        color=theme.text,
        fontsize=14,
        fontweight='bold',
        ha='center',
        va='center',
        path_effects=halo,
        parse_math=False,
      )
  axes.set_aspect('equal', adjustable='datalim')
  axes.margins(0.06)
  axes.axis('off')
  return figure


def _medoid(points: Float[np.ndarray, 'n 2']) -> tuple[float, float]:
  """The point with half of the others nearest: within the larger part of a class that lies in two."""
  some = points[:: max(1, len(points) // 500)]
  apart = np.linalg.norm(some[:, None] - some[None], axis=-1)
  x, y = some[np.median(apart, axis=1).argmin()]
  return float(x), float(y)


def spectrum(values: Mapping[str, Float[np.ndarray, ' r']], *, theme: Theme = LIGHT) -> Figure:
  """Singular values relative to the largest, on a logarithmic axis; a cliff is a subspace that is not used."""
  figure, axes = _panel(theme)
  for colour, (name, s) in zip(_cycle(theme.series, len(values)), values.items(), strict=True):
    relative = np.maximum(s / max(float(s[0]), 1e-12), 1e-6)
    axes.plot(np.arange(1, len(s) + 1), relative, color=colour, linewidth=1.8, label=name)
  axes.set_yscale('log')
  _label(axes, theme, title='singular value / largest', x='index')
  _legend(axes, theme)
  return figure


def class_cosines(
  x: Float[np.ndarray, 'n d'], label: Int[np.ndarray, ' n']
) -> tuple[Float[np.ndarray, ' s'], Float[np.ndarray, ' o']]:
  """Cosines of all pairs of one class and of all pairs of two classes; needs n^2 floats."""
  unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  first, second = np.triu_indices(len(x), k=1)
  cosine = (unit @ unit.T)[first, second]
  known = (label[first] >= 0) & (label[second] >= 0)
  same = label[first] == label[second]
  return cosine[known & same], cosine[known & ~same]


def cosine_histogram(
  same: Float[np.ndarray, ' s'], other: Float[np.ndarray, ' o'], *, title: str = 'cosine of pairs', theme: Theme = LIGHT
) -> Figure:
  """Densities of the cosine of same-class and other-class pairs; the less they overlap, the easier retrieval is."""
  figure, axes = _panel(theme)
  everything = np.concatenate([same, other])
  low, high = float(everything.min()), float(everything.max())
  edges = np.linspace(low, max(high, low + 1e-3), 61).tolist()
  for colour, values, name in ((theme.series[1], other, 'two classes'), (theme.series[0], same, 'one class')):
    if len(values):
      axes.hist(values, edges, density=True, color=colour, alpha=0.35, histtype='stepfilled')
      axes.hist(values, edges, density=True, color=colour, linewidth=1.6, histtype='step', label=name)
  _label(axes, theme, title=f'{title}: density', x='cosine')
  _legend(axes, theme)
  return figure


def nearest(x: Float[np.ndarray, 'n d'], queries: Int[np.ndarray, ' q'], *, k: int) -> Int[np.ndarray, 'q k']:
  """Rows with the largest cosine to each query row, most similar first, itself left out."""
  unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  cosine = unit[queries] @ unit.T
  cosine[np.arange(len(queries)), queries] = -np.inf
  return np.argsort(-cosine, axis=1, kind='stable')[:, :k]


def spread(label: Int[np.ndarray, ' n'], *, most: int, seed: int = 0) -> Int[np.ndarray, ' q']:
  """Rows at random, one of each class before a second of any."""
  order = np.random.default_rng(seed).permutation(len(label))
  first = np.unique(label[order], return_index=True)[1]
  return order[np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(label)), first)])][:most]


def neighbours(
  query: UInt8[np.ndarray, 'q h w c'],
  neighbour: UInt8[np.ndarray, 'q k h w c'],
  right: Bool[np.ndarray, 'q k'] | None = None,
  *,
  theme: Theme = LIGHT,
) -> Figure:
  """A row of pictures per query: the query, then its neighbours, framed solid where right and dashed where wrong."""
  q, k = neighbour.shape[:2]
  figure = Figure(figsize=((k + 1.35) * 0.78, q * 0.78), facecolor=theme.background)
  FigureCanvasAgg(figure)
  axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
  axes.set(xlim=(-0.06, k + 1.31), ylim=(q + 0.03, -0.03))
  axes.axis('off')
  for row in range(q):
    for column in range(k + 1):
      picture = query[row] if column == 0 else neighbour[row, column - 1]
      left = column + (0.25 if column else 0.0)
      axes.imshow(
        picture.squeeze(-1) if picture.shape[-1] == 1 else picture,
        cmap='gray',
        vmin=0,
        vmax=255,
        zorder=1,
        extent=(left + 0.06, left + 0.94, row + 0.94, row + 0.06),
        aspect='auto',
        interpolation='nearest' if picture.shape[0] <= 64 else 'antialiased',
      )
      if column and right is not None:
        good = right[row, column - 1]
        axes.add_patch(
          Rectangle(
            (left + 0.05, row + 0.05),
            0.9,
            0.9,
            fill=False,
            linewidth=2.2,
            zorder=2,
            edgecolor=theme.series[0 if good else 1],
            linestyle='solid' if good else (0, (2, 1)),
          )
        )
  return figure


def _panel(theme: Theme, *, width: float = 5.2, height: float = 3.1) -> tuple[Figure, Axes]:
  # Margins in inches, the same for every panel, so that panels line up; matplotlib's own layouts take half the time.
  figure = Figure(figsize=(width, height), facecolor=theme.background)
  FigureCanvasAgg(figure)
  axes = figure.add_axes(
    (LEFT / width, BOTTOM / height, 1 - (LEFT + RIGHT) / width, 1 - (BOTTOM + TOP) / height), facecolor=theme.background
  )
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.spines['bottom'].set_color(theme.muted)
  axes.tick_params(which='both', colors=theme.muted, labelsize=9.5, length=0, pad=5)
  axes.grid(axis='y', color=theme.grid, linewidth=0.9)
  axes.set_axisbelow(True)
  axes.margins(x=0.02)
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
  return figure, axes


def _label(axes: Axes, theme: Theme, *, title: str, x: str) -> None:
  axes.annotate(
    title,
    (0, 1),
    (2, -6),
    xycoords='figure fraction',
    textcoords='offset points',
    va='top',
    fontsize=11,
    fontweight='bold',
    color=theme.text,
    parse_math=False,
  )
  axes.set_xlabel(x, color=theme.muted, fontsize=9.5)
  if x != 'cosine':
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _legend(axes: Axes, theme: Theme) -> None:
  if axes.get_legend_handles_labels()[1]:
    # On the line of the title, where no curve can be behind it.
    axes.legend(
      frameon=False,
      fontsize=9.5,
      labelcolor=theme.text,
      loc='lower right',
      bbox_to_anchor=(1.0, 1.0),
      ncols=len(axes.get_legend_handles_labels()[1]),
      borderaxespad=0.2,
      handlelength=1.2,
      handletextpad=0.5,
      columnspacing=1.2,
    )


def _cycle(colours: Sequence[str], count: int) -> list[str]:
  return [colours[i % len(colours)] for i in range(count)]


def _class_colours(count: int) -> list[str]:
  if count <= len(CLASSES):
    return list(CLASSES[:count])
  shades = matplotlib.colormaps['turbo'](np.linspace(0.05, 0.95, count))
  return [matplotlib.colors.to_hex(shade) for shade in shades]


def _running_mean(values: Float[np.ndarray, ' n']) -> Float[np.ndarray, ' n']:
  """Centred mean over a twentieth of the curve, over fewer values at its ends."""
  half = max(1, len(values) // 40)
  sums = np.concatenate([[0.0], np.cumsum(values)])
  low = np.maximum(np.arange(len(values)) - half, 0)
  high = np.minimum(np.arange(len(values)) + half + 1, len(values))
  return (sums[high] - sums[low]) / (high - low)
