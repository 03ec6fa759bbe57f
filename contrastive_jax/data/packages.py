"""Debian's packages as a graph: what depends on what, with the words of descriptions and the sections as classes."""

import collections
import functools
import gzip
import lzma
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from contrastive_jax.data.source import SPLIT_SEED, TEST_PART, Source, check_split, permutation
from contrastive_jax.types import Refusal

SECTIONS = ('golang', 'haskell', 'java', 'javascript', 'ocaml', 'perl', 'python', 'ruby')
_LINKS = ('Depends', 'Pre-Depends', 'Recommends')
_FIELDS = ('Package', 'Section', 'Description', 'Provides', *_LINKS)
_FIELD = re.compile(rf'^({"|".join(_FIELDS)}): *(.*)$', re.MULTILINE)
_OPENERS: dict[str, Callable] = {'.gz': gzip.open, '.xz': lzma.open}


class Package(NamedTuple):
  """One entry of an index."""

  name: str
  section: str
  description: str  # the short one
  provides: tuple[str, ...]  # other names of it
  links: tuple[str, ...]  # names that it depends on or recommends


class Graph(NamedTuple):
  """Nodes and the neighbours of each, nearest first."""

  names: tuple[str, ...]
  words: Float[np.ndarray, 'n f']
  label: Int[np.ndarray, ' n']
  neighbour: Int[np.ndarray, 'n r']  # rows; -1 where there are fewer
  weight: Float[np.ndarray, 'n r']  # 0 there


def _names(relation: str) -> tuple[str, ...]:
  """Names of a relation such as 'libc6 (>= 2.34), perl:any | perl5'."""
  return tuple(
    re.split(r'[\s(:\[]', part.strip(), maxsplit=1)[0] for part in re.split(r'[,|]', relation) if part.strip()
  )


def parse(text: str) -> list[Package]:
  """The entries of an index of packages, the first of each name."""
  found: dict[str, Package] = {}
  for entry in text.split('\n\n'):
    fields = dict(_FIELD.findall(entry))
    if 'Package' in fields and fields['Package'] not in found:
      name, section, description, provides, *links = (fields.get(field, '') for field in _FIELDS)
      known = tuple(each for link in links for each in _names(link))
      found[name] = Package(name, section.rpartition('/')[2], description, _names(provides), known)
  return list(found.values())


@functools.lru_cache(maxsize=2)
def index(path: str | None) -> list[Package]:
  """The entries of a file, or of what apt knows.

  Raises:
    Refusal: there is no such file, or apt is not there or knows nothing.
  """
  if path is not None:
    file = pathlib.Path(path).expanduser()
    try:
      with _OPENERS.get(file.suffix, open)(file, 'rt', encoding='utf-8') as opened:
        return parse(opened.read())
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
      raise Refusal(f'{file} cannot be read as an index of packages: {error}') from None
  found = []
  if shutil.which('apt-cache'):
    found = parse(subprocess.run(['apt-cache', 'dumpavail'], capture_output=True, text=True, check=False).stdout)
  if not found:
    raise Refusal(
      'apt knows no packages here: on Debian or Ubuntu `apt-get update` brings them; elsewhere give `path`, a Packages '
      'file (plain, .gz or .xz) of a Debian archive, dists/bookworm/main/binary-amd64/Packages.xz say'
    )
  return found


def _edges(packages: list[Package]) -> scipy.sparse.csr_array:
  """Which of these packages are linked, in either direction."""
  row = {name: i for i, each in enumerate(packages) for name in each.provides}
  row |= {each.name: i for i, each in enumerate(packages)}
  pairs = {(i, row[name]) for i, each in enumerate(packages) for name in each.links if row.get(name, i) != i}
  first, second = np.array(sorted(pairs), int).reshape(-1, 2).T
  one_way = scipy.sparse.csr_array((np.ones(len(first)), (first, second)), shape=(len(packages),) * 2)
  return one_way.maximum(one_way.T).tocsr()


def reach(edges: scipy.sparse.csr_array, order: int) -> scipy.sparse.csr_array:
  r"""Weights of neighbours up to `order` hops, :math:`\sum_{k=1}^{r} (D^{-1} A)^k` without the diagonal, rows to 1."""

  def scaled(matrix):
    return scipy.sparse.diags_array(1 / np.maximum(matrix.sum(1), 1e-12)) @ matrix

  walk = scaled(edges)
  total = power = walk
  for _ in range(order - 1):
    power = power @ walk
    total = total + power
  total = total.tolil()
  total.setdiag(0)
  total = total.tocsr()
  total.eliminate_zeros()
  return scaled(total).tocsr()


def heaviest(weights: scipy.sparse.csr_array, most: int) -> tuple[np.ndarray, np.ndarray]:
  """The heaviest neighbours of each node, rows [n, most] (-1: none) and weights (0: none); of equals the first row."""
  weights.sort_indices()
  width = max(1, min(most, int(np.diff(weights.indptr).max(initial=0))))
  neighbour, weight = np.full((weights.shape[0], width), -1, np.int32), np.zeros((weights.shape[0], width), np.float32)
  for i, (start, stop) in enumerate(zip(weights.indptr[:-1], weights.indptr[1:], strict=True)):
    best = start + np.argsort(-weights.data[start:stop], kind='stable')[:width]
    neighbour[i, : len(best)], weight[i, : len(best)] = weights.indices[best], weights.data[best]
  return neighbour, weight


def bag(texts: Iterable[str], most: int, without: Iterable[str]) -> Float[np.ndarray, 'n f']:
  """Which of the most frequent words each text has, 0 or 1; of equally frequent words the first in the alphabet."""
  spoken = [set(re.findall(r'[a-z]{3,}', text.lower())) for text in texts]
  count = collections.Counter(word for words in spoken for word in words)
  for word in without:
    count.pop(word, None)
  kept = [word for word, _ in sorted(count.items(), key=lambda each: (-each[1], each[0]))[:most]]
  return np.array([[word in words for word in kept] for words in spoken], np.float32)


@functools.lru_cache(maxsize=2)
def graph(path: str | None, sections: tuple[str, ...], nodes: int, words: int, order: int, neighbours: int) -> Graph:
  """The best linked packages of each section, and their neighbours among each other."""
  there = [each for each in index(path) if each.section in sections]
  if {each.section for each in there} != {*sections}:
    missing = sorted({*sections} - {each.section for each in there})
    raise Refusal(f"the index has no packages of section '{missing[0]}'")
  degree = _edges(there).sum(1)
  chosen = []
  for section in sections:
    mine = [i for i, each in enumerate(there) if each.section == section]
    chosen += sorted(mine, key=lambda i: (-degree[i], there[i].name))[:nodes]
  kept = sorted((there[i] for i in chosen), key=lambda each: each.name)
  neighbour, weight = heaviest(reach(_edges(kept), order), neighbours)
  label = np.array([sections.index(each.section) for each in kept], np.int32)
  seen = bag((each.description for each in kept), words, sections)
  return Graph(tuple(each.name for each in kept), seen, label, neighbour, weight)


def packages(
  *,
  split: str = 'train',
  path: str | None = None,
  sections: tuple[str, ...] = SECTIONS,
  nodes: int = 512,
  words: int = 512,
  order: int = 1,
  neighbours: int = 32,
) -> Source:
  """Debian's packages, linked by dependencies; which words describe them, 0 or 1, float32 [b, words], field `vector`.

  Nodes are the best linked packages of each section, linked by Depends, Pre-Depends and Recommends in either direction,
  names that others provide included. Words that name a section are left out. Besides `vector`: `neighbour`
  int32 [b, r], rows of the training split, -1 where there are fewer, and `neighbour_weight` float32 [b, r], 0 there.

  The training split is the whole graph: training needs no labels, and a node's neighbours are among all. A fixed fifth
  of the nodes has the label -1 in it, and is the test split, with labels.

  Args:
    split: 'train' or 'test'.
    path: a Packages file (plain, .gz or .xz); None reads what apt knows, so that the data are those of a release.
    sections: the classes.
    nodes: most packages of each section.
    words: most words.
    order: hops within which nodes are neighbours; their weights are the chances of a walk, over all its lengths.
    neighbours: most of a node, the heaviest.

  Raises:
    Refusal: an unknown split; apt knows no packages, with the command that brings them; a file that cannot be read; a
      section without packages; an option below 1.
  """
  check_split(split)
  for name, value in dict(nodes=nodes, words=words, order=order, neighbours=neighbours, sections=len(sections)).items():
    if value < 1:
      raise Refusal(f'{name} must be at least 1, but it is {value}')
  found = graph(path, tuple(sections), nodes, words, order, neighbours)
  count = len(found.label)
  held = np.sort(permutation(SPLIT_SEED, 0, count)[: round(count * TEST_PART)])
  rows = held if split == 'test' else np.arange(count)
  label = found.label.copy()
  if split == 'train':
    label[held] = -1

  def read(wanted):
    at = rows[wanted]
    of_graph = {'neighbour': found.neighbour[at], 'neighbour_weight': found.weight[at]}
    return {'vector': found.words[at], 'label': label[at], **of_graph}

  width = found.words.shape[1]
  return Source(
    'packages', split, len(rows), read, (width,), tuple(sections), (0.0,) * width, (1.0,) * width, input='vector'
  )
