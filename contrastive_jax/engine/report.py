"""`report.html`: one self-contained page on a run, made from what lies in its directory.

======================  ===============================================================================================
file                    what the report takes from it
======================  ===============================================================================================
``config.json``         resolved configuration, nested
``metrics.jsonl``       training curves
``evaluations.json``    ``{"evaluations": [{"step": 600, "scores": {"knn/accuracy": 0.96}}, ...],
                        "floors": {"raw pixels": {"knn/accuracy": 0.97}, "random encoder": {...}}}``
``embeddings.npz``      the test split: features [n, d], projection [n, p], label [n], index [n]; where there are any,
                        image uint8 [n, h, w, c] and label_names [c]
``retrieval.npz``       of runs with captions: examples of retrieval, as `engine.retrieved` keeps them
``glossary.json``       one-line meanings of metrics
``versions.json``       versions of packages, devices
======================  ===============================================================================================

Whatever is missing, its section says so.
"""

import json
import math
import os
import pathlib
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from contrastive_jax.engine import figures, metrics, page, retrieved
from contrastive_jax.evals import geometry

HEADLINE = {
  'linear/accuracy': 'Linear probe',
  'knn/accuracy': 'kNN',
  'retrieval/t2i_r10': 'Text to image R@10',
  'retrieval/i2t_r10': 'Image to text R@10',
}
CURVES = {'loss': 'loss', 'lr': 'learning rate', 'grad_norm': 'gradient norm'}
SCORE_CURVES = ('geometry/alignment', 'geometry/uniformity', 'geometry/effective_rank', 'targets/r2')
MAP_ROWS, PAIR_ROWS, QUERIES, NEIGHBOURS, SEED = 1000, 2000, 8, 8, 0
_ONE = threading.Lock()  # matplotlib does not promise to draw in two threads


class _Run(NamedTuple):
  """What was found in the directory of a run; empty where a file is missing or cannot be read."""

  workdir: pathlib.Path
  config: dict[str, Any]
  lines: list[dict[str, float]]
  evaluations: list[dict[str, Any]]
  floors: dict[str, dict[str, float]]
  glossary: dict[str, str]
  versions: dict[str, Any]
  embeddings: dict[str, np.ndarray]


def build(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes `workdir/report.html` and, as PNG below `workdir/figures`, its figures; returns the path of the page.

  The page loads nothing from anywhere and has no script. Takes about 5 s for 360 embedded rows, 10 s for thousands.
  """
  with _ONE:
    return _build(pathlib.Path(workdir))


def _build(workdir: pathlib.Path) -> pathlib.Path:
  (workdir / 'figures').mkdir(parents=True, exist_ok=True)
  run = _gather(workdir)
  sections = {
    'Scores': _headline(run),
    'Training': _training(run),
    'Map': _map(run),
    'Neighbours': _neighbours(run),
    **_retrieval(run),
    'Geometry': _geometry(run),
    'All scores': _all_scores(run),
    'Configuration': page.settings(run.config) if run.config else _missing('config.json'),
    'Versions': page.settings(run.versions) if run.versions else _missing('versions.json'),
  }
  path = workdir / 'report.html'
  temporary = path.with_suffix('.tmp')
  temporary.write_text(page.page(_title(run.config), _facts(run), sections), encoding='utf-8')
  temporary.replace(path)
  return path


def _gather(workdir: pathlib.Path) -> _Run:
  evaluated = _json(workdir / 'evaluations.json')
  # In the file they are in alphabetical order; raw pixels are the floor to be compared with first.
  floors = evaluated.get('floors', {})
  floors = {name: floors[name] for name in sorted(floors, key=lambda name: (not name.startswith('raw'), name))}
  return _Run(
    workdir,
    _json(workdir / 'config.json'),
    metrics.read(workdir),
    evaluated.get('evaluations', []),
    floors,
    metrics.GLOSSARY | _json(workdir / 'glossary.json'),
    _json(workdir / 'versions.json'),
    _arrays(workdir / 'embeddings.npz'),
  )


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}
  return value if isinstance(value, dict) else {}


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as stored:
      arrays = {name: stored[name] for name in stored.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):
    return {}
  return arrays if 'features' in arrays else {}


# --- sections ---------------------------------------------------------------------------------------------------------


def _title(config: Mapping[str, Any]) -> str:
  method, data = config.get('method', {}), config.get('data', {})
  if isinstance(data, Mapping):
    data = data.get('source', {})
  name, loss = _entry(method, 'name') or 'Training run', _entry(method, 'loss')
  of = _entry(data, 'dataset') or _entry(data, 'name')
  return f'{f"{loss} ({name})" if loss else name}{f" on {of}" if of else ""}'


def _entry(part: Any, key: str) -> str:
  value = part.get(key) if isinstance(part, Mapping) else part if key == 'name' else None
  return str(value) if value else ''


def _facts(run: _Run) -> str:
  def last(name: str, form: str) -> str | None:
    values = [line[name] for line in run.lines if name in line]
    return form.format(values[-1]) if values else None

  rates = [line['examples_per_second'] for line in run.lines if 'examples_per_second' in line]
  facts = [
    last('step', '{:,} steps'),
    last('loss', 'loss {:.4g}'),
    f'{np.median(rates):,.0f} examples/s' if rates else None,
    f'{_count(run)[0]:,} test rows embedded' if run.embeddings else None,
  ]
  return ' · '.join(fact for fact in facts if fact)


def _headline(run: _Run) -> str:
  rows = {'trained': _last_scores(run)} | run.floors
  columns = [metric for metric in HEADLINE if any(metric in scores for scores in rows.values())]
  if not columns:
    return _missing('linear and kNN accuracies in evaluations.json')
  best = {metric: max(scores.get(metric, -math.inf) for scores in rows.values()) for metric in columns}

  def cell(scores: Mapping[str, float], metric: str) -> str:
    if metric not in scores:
      return '–'
    return f'{"*" if scores[metric] == best[metric] else ""}{100 * scores[metric]:.1f}%'

  where = f'accuracy on the test split, step {run.evaluations[-1]["step"]}' if run.evaluations else 'not evaluated yet'
  table = page.table(
    [HEADLINE[metric] for metric in columns],
    kind='headline',
    rows=[
      (name, where if name == 'trained' else '', [cell(scores, metric) for metric in columns])
      for name, scores in rows.items()
    ],
  )
  return table + page.sentences(
    _verdict(rows['trained'][metric], floor, scores[metric], HEADLINE[metric], _count(run)[1])
    for floor, scores in run.floors.items()
    for metric in columns
    if metric in scores and metric in rows['trained']
  )


def _verdict(trained: float, floor: str, score: float, metric: str, rows: int) -> str:
  """One honest sentence: who wins, and whether so many test rows can tell."""
  gap = 100 * (trained - score)
  error = 100 * math.sqrt((trained * (1 - trained) + score * (1 - score)) / rows) if rows else 0.0
  if gap < 0:
    sentence = (
      f'{metric}: the {floor} came out ahead, with {100 * score:.1f}% against {100 * trained:.1f}% '
      'for the trained features'
    )
  elif gap == 0:
    sentence = f'{metric}: the trained features only equal the {floor}, at {100 * score:.1f}%'
  else:
    sentence = f'{metric}: the trained features are {gap:.1f} points above the {floor}'
  if 0 < abs(gap) < 2 * error:
    sentence += f'; {rows} test rows do not establish such a gap (two standard errors are {2 * error:.1f} points)'
  return sentence + '.'


def _training(run: _Run) -> str:
  parts = []
  for name, title in CURVES.items():
    points = [(line['step'], line[name]) for line in run.lines if name in line]
    if points:
      parts.append(_curve(run, name, title, points, noisy=name != 'lr'))
  accuracies = {HEADLINE[metric]: points for metric in HEADLINE if len(points := _scored(run, metric)) > 1}
  if accuracies:
    pixels = run.floors.get('raw pixels', {})
    floor = {HEADLINE[metric]: pixels[metric] for metric in HEADLINE if metric in pixels}

    def draw(theme: figures.Theme) -> Figure:
      return figures.accuracies(
        {name: [step for step, _ in points] for name, points in accuracies.items()},
        {name: [value for _, value in points] for name, points in accuracies.items()},
        floors=floor,
        theme=theme,
      )

    caption = 'Accuracy of the evaluators during training' + ('; dashed: that of raw pixels' if floor else '')
    parts.append(_figure(run, 'accuracy', draw, caption))
  for metric in SCORE_CURVES:
    points = _scored(run, metric)
    if len(points) > 1:
      parts.append(_curve(run, metric, metric.split('/')[1].replace('_', ' '), points, noisy=False))
  return page.grid(parts) if parts else _missing('training metrics in metrics.jsonl')


def _scored(run: _Run, metric: str) -> list[tuple[float, float]]:
  """(step, score) of every evaluation that has the score."""
  return [(entry['step'], entry['scores'][metric]) for entry in run.evaluations if metric in entry.get('scores', {})]


def _map(run: _Run) -> str:
  refused = _unusable(run, 4)
  if refused:
    return refused
  x, label = run.embeddings['features'], _labels(run)
  kept = _sample(len(x), MAP_ROWS)
  points = figures.plane(x[kept], seed=SEED)
  shown = f'{len(kept):,} of {len(x):,} rows, drawn at random' if len(kept) < len(x) else f'All {len(x):,} rows'
  caption = f'{shown}: t-SNE of the directions of the features. Distances between far clusters mean nothing.'
  if not _count(run)[1]:
    caption += ' The rows have no labels.'
  return _figure(
    run,
    'map',
    lambda theme: figures.embedding_map(points, label[kept], names=_names(run), theme=theme),
    caption,
    wide=True,
  )


def _neighbours(run: _Run) -> str:
  refused = _unusable(run, 2)
  if refused:
    return refused
  if 'image' not in run.embeddings:
    return _missing('embeddings.npz with the pictures of its rows')
  x, label, image = run.embeddings['features'], _labels(run), run.embeddings['image']
  queries = figures.spread(label, most=QUERIES, seed=SEED)
  found = figures.nearest(x, queries, k=NEIGHBOURS)
  right = label[found] == label[queries][:, None] if _count(run)[1] else None
  caption = 'Left: a test picture. Right: those with the most similar features among the other test rows.'
  if right is not None:
    caption += f' Solid frame: same class ({right.sum()} of {right.size}). Dashed frame: another class.'
  return _figure(
    run,
    'neighbours',
    lambda theme: figures.neighbours(image[queries], image[found], right, theme=theme),
    caption,
    wide=True,
  )


def _retrieval(run: _Run) -> dict[str, str]:
  """The section of a run that embeds captions; no section otherwise."""
  found = retrieved.read(run.workdir)
  if found is None:
    return {}
  caption = retrieved.caption(found)
  return {'Retrieval': _figure(run, 'retrieval', lambda theme: retrieved.draw(found, theme), caption, wide=True)}


def _geometry(run: _Run) -> str:
  refused = _unusable(run, 2)
  if refused:
    return refused
  kept = _sample(len(run.embeddings['features']), PAIR_ROWS)
  spaces = {name: run.embeddings[name][kept] for name in ('features', 'projection') if name in run.embeddings}
  values = {str(name): geometry.spectrum(x) for name, x in spaces.items()}
  parts = [
    _figure(
      run,
      'spectrum',
      lambda theme: figures.spectrum(values, theme=theme),
      'Singular values of the centred embeddings. Directions beyond a cliff are not used.',
    )
  ]
  for name, x in spaces.items():
    same, other = figures.class_cosines(x, _labels(run)[kept])
    if len(same) and len(other):
      parts.append(_cosines(run, name, same, other))
  note = '' if len(parts) > 1 else _missing('labels of two classes, which the cosines of pairs are compared by')
  return page.grid(parts) + note


def _cosines(run: _Run, name: str, same: np.ndarray, other: np.ndarray) -> str:
  area = roc_auc_score(np.repeat([1, 0], [len(same), len(other)]), np.concatenate([same, other]))
  caption = (
    f'Cosine of pairs of {name}. Two rows of one class are more similar than two of different classes '
    f'in {100 * area:.1f}% of comparisons.'
  )
  return _figure(
    run,
    f'cosines_{name}',
    lambda theme: figures.cosine_histogram(same, other, title=f'cosine of pairs, {name}', theme=theme),
    caption,
  )


def _all_scores(run: _Run) -> str:
  columns = {'trained': _last_scores(run)} | run.floors
  names = sorted({name for scores in columns.values() for name in scores})
  if not names:
    return _missing('scores in evaluations.json')
  return page.table(
    list(columns),
    kind='stacked',
    rows=[
      (name, run.glossary.get(name, ''), [_number(scores.get(name)) for scores in columns.values()]) for name in names
    ],
  )


# --- parts ------------------------------------------------------------------------------------------------------------


def _figure(run: _Run, name: str, draw: Callable[[figures.Theme], Figure], caption: str, *, wide: bool = False) -> str:
  """Draws in both themes, saves the light one, and embeds both."""
  light, dark = figures.png(draw(figures.LIGHT)), figures.png(draw(figures.DARK))
  (run.workdir / 'figures' / f'{name}.png').write_bytes(light)
  return page.figure(light, dark, alt=name.replace('_', ' '), caption=caption, wide=wide)


def _curve(run: _Run, name: str, title: str, points: Iterable[tuple[float, float]], *, noisy: bool) -> str:
  steps, values = (np.array(column) for column in zip(*points, strict=True))
  caption = run.glossary.get(name, '')
  return _figure(
    run, name.split('/')[-1], lambda theme: figures.curve(steps, values, name=title, noisy=noisy, theme=theme), caption
  )


def _last_scores(run: _Run) -> dict[str, float]:
  return run.evaluations[-1].get('scores', {}) if run.evaluations else {}


def _labels(run: _Run) -> np.ndarray:
  return run.embeddings.get('label', np.full(len(run.embeddings['features']), -1))


def _names(run: _Run) -> list[str]:
  return [str(name) for name in run.embeddings.get('label_names', ())]


def _count(run: _Run) -> tuple[int, int]:
  """Rows embedded, and those with a label."""
  return (len(run.embeddings['features']), int((_labels(run) >= 0).sum())) if run.embeddings else (0, 0)


def _sample(n: int, most: int) -> np.ndarray:
  return np.arange(n) if n <= most else np.sort(np.random.default_rng(SEED).choice(n, most, replace=False))


def _unusable(run: _Run, rows: int) -> str:
  """Says why the embeddings cannot be shown; empty where they can."""
  if not run.embeddings:
    return _missing('embeddings.npz')
  n = len(run.embeddings['features'])
  if n < rows:
    return page.missing(f'{n} embedded rows are too few; {rows} are needed.')
  if not all(np.isfinite(run.embeddings[name]).all() for name in ('features', 'projection') if name in run.embeddings):
    return page.missing('Some embeddings are not finite.')
  return ''


def _missing(what: str) -> str:
  return page.missing(f'Missing in this run: {what}.')


def _number(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, (int, float)) else '–'
