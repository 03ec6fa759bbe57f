"""The table and the plot of `losses`."""

import pathlib

from benchmarks.compare import LIMITS, Block, Entry

COLUMNS = (
  'loss by',
  'seconds (least to most)',
  'times ours',
  'FLOP counted',
  'of the float32 limit',
  'of the bfloat16 limit',
  'temporaries, compiled',
  'growth, measured',
  'error of value, of gradient',
)


def _bytes(count: int | None) -> str:
  if count is None:
    return ''
  return f'{count / 1e9:.2f} GB' if count >= 1e9 else f'{count / 1e6:.0f} MB'


def _row(entry: Entry, block: Block, d: int) -> list[str]:
  contender, times = entry.contender, entry.times
  if times is None:
    return [contender.name, entry.note, *[''] * (len(COLUMNS) - 2)]
  ours = block.entries[0].times
  speed = contender.count.flop(block.b, d) / times.median
  of_half = f'{speed / block.limits[LIMITS["bfloat16"]]:.2f}' if contender.products == 'bfloat16' else ''
  return [
    contender.name,
    f'{times.median:.4g} ({times.low:.4g} to {times.high:.4g})',
    f'{times.median / ours.median:.2f}' if ours else '',
    str(contender.count),
    f'{speed / block.limits[LIMITS["float32"]]:.2f}',
    of_half,
    _bytes(entry.temporaries),
    _bytes(entry.growth),
    '{:.0e}, {:.0e}'.format(*entry.errors) if entry.errors else '',
  ]


def _section(block: Block, d: int) -> list[str]:
  speeds = ', '.join(f'{name} {speed / 1e9:,.0f}' for name, speed in block.limits.items())
  repeats = max((e.times.count for e in block.entries if e.times), default=0)
  lines = [f'### B = {block.b:,}', '', f'{repeats} rounds. Limits in GFLOP/s, {block.edge}³: {speeds}.', '']
  lines += ['| ' + ' | '.join(COLUMNS) + ' |', '|---|---' + '|--:' * (len(COLUMNS) - 2) + '|']
  return [*lines, *('| ' + ' | '.join(_row(e, block, d)) + ' |' for e in block.entries), '']


def document(blocks: dict[str, list[Block]], d: int, facts: list[str], plot: str) -> str:
  """The whole Markdown file."""
  lines = [
    f'# Value and gradient of losses, D = {d}',
    '',
    'Made by `python -m benchmarks.losses`; README.md beside this folder says what the columns mean.',
    '',
    *facts,
    '',
    f'![Time and memory against the batch size]({plot})',
    '',
  ]
  for title, of_loss in blocks.items():
    lines += [f'## {title}', '']
    for block in of_loss:
      lines += _section(block, d)
  return '\n'.join(lines).rstrip() + '\n'


def _colours(names: list[str]) -> dict[str, str]:
  """Blues for ours, other colours for the others."""
  import matplotlib.pyplot as plt

  ours = [name for name in names if name.startswith('ours')]
  others = [name for name in names if name not in ours]
  blues = ('#08306b', '#2f7fc1', '#8fbfe0')
  return dict(zip(ours, blues, strict=False)) | dict(zip(others, plt.get_cmap('tab10').colors[1:], strict=False))


def _megabytes(entry: Entry) -> float:
  """As compiled where something plans, else as measured; 0 is not drawn."""
  return (entry.growth or 0 if entry.temporaries is None else entry.temporaries) / 1e6


def plot(blocks: dict[str, list[Block]], d: int, facts: list[str], path: pathlib.Path):
  """Time and memory against B, a column of panels for each loss."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  size = (4.4 * len(blocks) + 0.6, 8)
  figure, axes = plt.subplots(
    2, len(blocks), figsize=size, squeeze=False, sharex=True, sharey='row', layout='constrained'
  )
  names = list(dict.fromkeys(e.contender.name for of_loss in blocks.values() for b in of_loss for e in b.entries))
  colours = _colours(names)
  for (title, of_loss), panels in zip(blocks.items(), axes.T, strict=True):
    for name in names:
      found = [(b.b, e) for b in of_loss for e in b.entries if e.contender.name == name and e.times]
      style = dict(color=colours[name], lw=2.5 if name.startswith('ours') else 1.3, marker='o', ms=4, label=name)
      for axis, value in zip(panels, (lambda e: e.times.median, _megabytes), strict=True):
        points = [(b, value(e)) for b, e in found if value(e)]
        if points:
          axis.plot(*zip(*points, strict=True), **style)
    best = [(b.b, b.entries[0].contender.count.flop(b.b, d) / b.limits[LIMITS['float32']]) for b in of_loss]
    panels[0].plot(*zip(*best, strict=True), color='grey', ls='--', lw=1, label='ours, were it at the float32 limit')
    panels[0].set(title=title)
    panels[1].set(xlabel='batch size B')
  sizes = sorted({b.b for of_loss in blocks.values() for b in of_loss})
  for axis in axes.flat:
    axis.set(xscale='log', yscale='log')
    axis.set_xticks(sizes, [f'{b // 1024}k' if b >= 1024 else str(b) for b in sizes], minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.25)
  axes[0, 0].set(ylabel='seconds, value and gradient')
  axes[1, 0].set(ylabel='MB that one call takes\n(JAX: compiled temporaries; PyTorch: measured)')
  handles = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
  figure.legend(handles.values(), handles.keys(), loc='outside lower center', ncols=3, frameon=False, fontsize=9)
  figure.suptitle(f'D = {d}; ' + facts[1].removeprefix('- '), fontsize=9)
  figure.savefig(path, dpi=130)
  plt.close(figure)
