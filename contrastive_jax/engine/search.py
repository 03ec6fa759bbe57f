"""Searching a run's pictures: an index of their projections, kept with the run, and the best of it as a page."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps

from contrastive_jax import similarity as sim
from contrastive_jax.data import cache, decode, identity
from contrastive_jax.data.source import SPLITS, Source
from contrastive_jax.engine import page
from contrastive_jax.engine.serve import Model
from contrastive_jax.types import Refusal, nearest

ALL = 'all'
BLOCK = 4096  # rows whose captions are read at once
COARSE = 64  # pixels: smaller pictures are shown as squares, not blurred
FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF')
_MADE = 1  # raised whenever this code keeps something else of the same run


class Index(NamedTuple):
  """Pictures to search."""

  projection: Float[np.ndarray, 'n p']  # unit norm
  row: Int[np.ndarray, ' n']  # of its split
  split: list[str]  # [n]
  caption: list[str]  # [n]: the first that a picture has, or the name of its class
  kept: bool  # read from the run's directory rather than made


class Hit(NamedTuple):
  """A picture that was found."""

  rank: int  # from 1
  cosine: float
  caption: str
  split: str
  row: int


def check_split(split: str):
  """Refuses what can not be searched."""
  if split not in (*SPLITS, ALL):
    raise Refusal(f"unknown split '{split}'{nearest(split, (*SPLITS, ALL))}")


def open_index(model: Model, config: ml_collections.ConfigDict, workdir: str | pathlib.Path, split: str) -> Index:
  """The index of a split ('train', 'test' or 'all'): that of the run's directory, or a new one that is put there.

  An index belongs to a step, a checksum of the model, a config and the data: where any of them is another, it is made
  again. Nothing in the file is unpickled; a directory that cannot be written is said in the log.

  Raises:
    Refusal: an unknown split; the data are missing, or are others than the run was trained on.
  """
  check_split(split)
  sources = {name: model.sources[name] for name in (SPLITS if split == ALL else (split,))}
  data = json.dumps(identity.describe(sources), sort_keys=True)
  key = f'{model.step} ' + cache.checksum(str(_MADE), model.checksum(), config.to_json(sort_keys=True), data)
  path = pathlib.Path(workdir, f'search_index_{split}.npz')
  found = _read(path, key)
  if found is not None:
    return found
  made = _make(model, sources)
  said = {'key': key, 'caption': made.caption, 'split': [made.split.count(name) for name in SPLITS]}
  cache.write(path, {'projection': made.projection, 'row': made.row, 'said': cache.packed(said)})
  return made


def _read(path: pathlib.Path, key: str) -> Index | None:
  arrays = cache.read(path)
  if arrays is None:
    return None
  try:
    said = cache.unpacked(arrays['said'])
    if said['key'] != key:
      return None
    split = [name for name, count in zip(SPLITS, said['split'], strict=True) for _ in range(count)]
    return Index(arrays['projection'], arrays['row'], split, said['caption'], kept=True)
  except (KeyError, ValueError, TypeError):
    return None


def _make(model: Model, sources: Mapping[str, Source]) -> Index:
  embedded = {name: model.embed_split(name) for name in sources}
  return Index(
    projection=np.concatenate([np.asarray(each.projection, np.float32) for each in embedded.values()]),
    row=np.concatenate([each.index for each in embedded.values()]),
    split=[name for name, each in embedded.items() for _ in each.index],
    caption=[text for name, each in embedded.items() for text in _captions(sources[name], each.index, each.label)],
    kept=False,
  )


def _captions(source: Source, rows: Int[np.ndarray, ' n'], label: Int[np.ndarray, ' n']) -> list[str]:
  if source.captions is None:
    names = source.label_names
    return [names[k] if 0 <= k < len(names) else '' for k in label.tolist()]
  blocks = (source.captions.texts(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))
  return [next(filter(None, texts), '') for block in blocks for texts in block]


def find(index: Index, queries: Float[np.ndarray, 'q p'], *, top: int) -> list[list[Hit]]:
  """The pictures with the largest cosines to each query, best first; of equals the first of the index.

  Cosines are made in blocks: no matrix of all queries and pictures.

  Raises:
    Refusal: `top` is below 1.
  """
  if top < 1:
    raise Refusal(f'top is {top}; at least 1 picture is needed')
  cosine, at = map(np.asarray, _best(queries, index.projection, k=min(top, len(index.row))))
  return [
    [
      Hit(rank, float(value), index.caption[k], index.split[k], int(index.row[k]))
      for rank, (value, k) in enumerate(zip(values, positions.tolist(), strict=True), 1)
    ]
    for values, positions in zip(cosine, at, strict=True)
  ]


def _best(queries, candidates, *, k: int):
  ((found,), _) = jax.jit(lambda q, x: sim.Similarity({'z': q}, {'z': x}).reduce([sim.top(k)]))(queries, candidates)
  return found


def picture(path: str | pathlib.Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, 'h w c']:
  """A file's picture in the shape of a run's images [h, w, c]: resized, its centre cropped; transparent is white.

  Raises:
    Refusal: it cannot be read as a picture, images of so many channels are none, or the run has no images.
  """
  if len(shape) != 3:
    raise Refusal(f'the run was not trained on images: its input is {list(shape)}')
  height, width, channels = shape
  if channels not in decode.MODES:
    raise Refusal(f'images of the run have {channels} channels, as no picture has')
  try:
    drawn = Image.fromarray(decode.pixels(pathlib.Path(path), 4, formats=FORMATS))
  except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
    raise Refusal(f"'{path}' cannot be read as a picture ({', '.join(FORMATS)}): {error}") from None
  white = Image.new('RGBA', drawn.size, 'white')
  white.alpha_composite(drawn)
  fitted = ImageOps.fit(white.convert(decode.MODES[channels]), (width, height), Image.Resampling.BICUBIC)
  return np.asarray(fitted).reshape(shape)


def build_page(
  title: str,
  facts: str,
  found: Mapping[str, Sequence[Hit]],
  sources: Mapping[str, Source],
  queries: Mapping[str, UInt8[np.ndarray, 'h w c']],
) -> str:
  """A self-contained page of what was found.

  Args:
    title: of the page.
    facts: a line below it.
    found: pictures by the name of their query.
    sources: the splits, of which the pictures are read.
    queries: those that are pictures, by their names.
  """
  sections = {}
  for name, hits in found.items():
    asked = (
      page.pictures([(_png(queries[name]), 'the query', '')], coarse=_coarse(queries[name])) if name in queries else ''
    )
    images = [sources[hit.split].read(np.array([hit.row]))['image'][0] for hit in hits]
    cells = [
      (_png(image), hit.caption, f'{hit.rank} · {hit.cosine:.3f}') for image, hit in zip(images, hits, strict=True)
    ]
    sections[name] = asked + page.pictures(cells, coarse=bool(images) and _coarse(images[0]))
  return page.page(title, facts, sections)


def _coarse(image: UInt8[np.ndarray, 'h w c']) -> bool:
  return max(image.shape[:2]) <= COARSE


def _png(image: UInt8[np.ndarray, 'h w c']) -> bytes:
  target = io.BytesIO()
  Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(target, format='PNG')
  return target.getvalue()
