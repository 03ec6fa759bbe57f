"""Examples of retrieval: for some captions of a run's test split the closest pictures, kept with the run and drawn."""

import functools
import pathlib
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from contrastive_jax.data import cache
from contrastive_jax.data.captions import Captions
from contrastive_jax.engine import figures, processes
from contrastive_jax.evals.captions import TIE
from contrastive_jax.evals.evaluator import Embed
from contrastive_jax.types import Embedded

FILE = 'retrieval.npz'
QUERIES, FOUND, SEED = 6, 6, 0
CANDIDATES = 16 * QUERIES  # rows among which captions that can be drawn are looked for
OTHER, RELATED, OWN = 0, 1, 2
_LEFT, _CELL, _HEIGHT = 2.0, 1.05, 1.4  # inches: of a query, and of a picture with its caption
_RIGHT_TO_LEFT = ('R', 'AL')


class Examples(NamedTuple):
  """q captions and the k pictures that are closest to each."""

  query: list[str]  # [q]
  slot: list[str]  # [q], of which slot of captions it is, a language say
  rank: Int[np.ndarray, ' q']  # of the picture that it is a caption of; 1 is best, ties are lost
  image: UInt8[np.ndarray, 'q k h w c']
  caption: list[list[str]]  # [q, k]
  kind: Int[np.ndarray, 'q k']  # OWN is the caption's picture, RELATED another of its concept
  among: int  # pictures


@functools.cache
def _characters() -> frozenset[int]:
  return frozenset(font_manager.get_font(font_manager.findfont('DejaVu Sans')).get_charmap())


def drawable(text: str) -> bool:
  """Whether the font of figures can show a text: it has the letters, and lays them out from left to right."""
  return bool(text) and all(
    c.isprintable() and ord(c) in _characters() and unicodedata.bidirectional(c) not in _RIGHT_TO_LEFT for c in text
  )


def _queries(captions: Captions, label: Int[np.ndarray, ' n']) -> list[tuple[int, int, str]]:
  """Row, slot and text of captions that can be drawn, of as many classes and slots as there are."""
  rows = figures.spread(label, most=CANDIDATES, seed=SEED)
  texts = captions.texts(rows)
  slots = [k for k in range(len(captions.slots)) if any(drawable(of_row[k]) for of_row in texts)]
  found: list[tuple[int, int, str]] = []
  for row, of_row in zip(rows, texts, strict=True):
    if len(found) < QUERIES and slots and drawable(of_row[slot := slots[len(found) % len(slots)]]):
      found.append((int(row), slot, of_row[slot]))
  return found


def examples(
  embed: Embed, embedded: Embedded, captions: Captions, images: UInt8[np.ndarray, 'n h w c']
) -> Examples | None:
  """Captions at random, of as many classes as there are, and the pictures of the split whose projections are closest.

  Args:
    embed: makes projections of texts.
    embedded: a split.
    captions: of the split.
    images: of the split.

  Returns:
    None where no caption can be drawn.
  """
  chosen = _queries(captions, embedded.label)
  if not chosen:
    return None
  rows, slots, query = (list(column) for column in zip(*chosen, strict=True))
  cosine = np.asarray(embed.texts(query)) @ np.asarray(embedded.projection).T
  own = cosine[np.arange(len(rows)), rows][:, None]
  best = np.argsort(-cosine, axis=1, kind='stable')[:, :FOUND]
  related = np.zeros(best.shape, bool)
  if embedded.concept is not None:
    related = embedded.concept[best] == embedded.concept[rows][:, None]
  said = [[_shown(texts, slot) for texts in captions.texts(found)] for found, slot in zip(best, slots, strict=True)]
  return Examples(
    query=query,
    slot=[captions.slots[slot] for slot in slots],
    rank=(cosine + TIE >= own).sum(1),  # itself among them
    image=images[best],
    caption=said,
    kind=np.where(best == np.array(rows)[:, None], OWN, np.where(related, RELATED, OTHER)),
    among=len(images),
  )


def _shown(texts: Sequence[str], slot: int) -> str:
  """The caption of that slot, or else the first of another, that can be drawn."""
  return next((text for text in (texts[slot], *texts) if drawable(text)), '')


def write(workdir: pathlib.Path, found: Examples | None):
  """Keeps examples with a run; of several processes only the first does."""
  if found is not None and processes.first():
    said = {name: getattr(found, name) for name in ('query', 'slot', 'caption', 'among')}
    arrays = {'rank': found.rank, 'image': found.image, 'kind': found.kind}
    cache.write(workdir / FILE, arrays | {'said': cache.packed(said)})


def read(workdir: pathlib.Path) -> Examples | None:
  """The examples of a run; None where there are none that can be read."""
  arrays = cache.read(workdir / FILE)
  try:
    fields: dict[str, Any] = {} if arrays is None else arrays | cache.unpacked(arrays.pop('said'))
    return Examples(**fields) if fields else None
  except (KeyError, ValueError, TypeError):
    return None


def caption(found: Examples) -> str:
  """What the figure shows, in words."""
  first = int((found.kind == OWN).any(1).sum())
  text = (
    f'Left: captions of the test split, drawn at random, and the rank of their own picture among all {found.among:,}. '
    f'Right: the pictures closest to each. Solid frame: its own, found here for {first} of {len(found.query)}.'
  )
  return text + (' Dashed frame: another of the same concept.' if (found.kind == RELATED).any() else '')


def draw(found: Examples, theme: figures.Theme = figures.LIGHT) -> Figure:
  """A row for each caption: itself, then the closest pictures with theirs, the right one framed."""
  q, k = found.kind.shape
  width, height = _LEFT + k * _CELL, q * _HEIGHT
  figure = Figure(figsize=(width, height), facecolor=theme.background)
  FigureCanvasAgg(figure)
  axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
  axes.axis('off')
  several = len(set(found.slot)) > 1
  for row in range(q):
    top = row * _HEIGHT
    said = f'{found.slot[row]} · rank {found.rank[row]:,}' if several else f'rank {found.rank[row]:,}'
    _write(axes, 0.08, top + 0.12, found.query[row], 20, 4, size=11, color=theme.text, weight='bold')
    _write(axes, 0.08, top + 1.0, said, 30, 1, size=9, color=theme.muted)
    for column in range(k):
      left = _LEFT + column * _CELL
      _picture(axes, found.image[row, column], left, top, int(found.kind[row, column]), theme)
      _write(axes, left + 0.06, top + 1.03, found.caption[row][column], 17, 2, size=7, color=theme.muted)
  axes.set(xlim=(0, width), ylim=(height, 0))  # a picture would set them to its own
  return figure


def _write(axes: Axes, x: float, y: float, text: str, width: int, lines: int, **style):
  wrapped = textwrap.fill(text, width, max_lines=lines, placeholder=' …')
  axes.text(x, y, wrapped, va='top', ha='left', parse_math=False, family='DejaVu Sans', **style)


def _picture(axes: Axes, picture: UInt8[np.ndarray, 'h w c'], left: float, top: float, kind: int, theme: figures.Theme):
  side = _CELL - 0.12
  axes.imshow(
    picture.squeeze(-1) if picture.shape[-1] == 1 else picture,
    cmap='gray',
    vmin=0,
    vmax=255,
    extent=(left + 0.06, left + 0.06 + side, top + 0.06 + side, top + 0.06),
    aspect='auto',
    interpolation='nearest' if picture.shape[0] <= 64 else 'antialiased',
    zorder=1,
  )
  if kind != OTHER:
    edge, line = theme.series[0 if kind == OWN else 1], 'solid' if kind == OWN else (0, (2, 1))
    corner = left + 0.05, top + 0.05
    axes.add_patch(
      Rectangle(corner, side + 0.02, side + 0.02, fill=False, lw=2.4, edgecolor=edge, linestyle=line, zorder=2)
    )
