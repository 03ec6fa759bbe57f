"""Which data a run belongs to: a record of its splits, compared when it meets data, standing in for them until then.

A config names a data set, and a name does not hold its contents: a file can be written again, a set prepared from
another release. Rows, steps and floors of a run would then belong to different data under one name.
"""

import hashlib
import reprlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from contrastive_jax.data import tokens
from contrastive_jax.data.captions import Captions
from contrastive_jax.data.source import Source

ROWS = 64  # rows of a split whose contents are part of its record
_OF_CAPTIONS = ('slots', 'length', 'vocabulary', 'tokenizer')
CLOSE = 1e-6  # statistics of the same images differ less, whatever machine sums them

Record = Mapping[str, Mapping[str, Any]]  # by split


def describe(sources: Mapping[str, Source]) -> Record:
  """The record of a data set, as JSON holds it.

  Of each split: `name`, `num_examples`, `input_shape`, `label_names`, `mean`, `std`, and `rows`, a checksum of images
  and labels of up to 64 rows that are spread over it: other contents are noticed, or another order, though not a
  change of a few rows that leaves the statistics as they are. Of captions, `captions`: all that makes tokens of texts.
  `input`, of what are no images.
  """
  return {split: _describe(source) for split, source in sources.items()}


def _describe(source: Source) -> dict[str, Any]:
  rows = np.unique(np.linspace(0, source.num_examples - 1, ROWS).astype(np.int32))
  digest = hashlib.sha256()
  for name, value in sorted(source.read(rows).items()):
    digest.update(f'{name} {value.dtype} {value.shape}'.encode() + value.tobytes())
  captions = source.captions
  of_captions = {} if captions is None else {'captions': {key: getattr(captions, key) for key in _OF_CAPTIONS}}
  of_input = {} if source.input == 'image' else {'input': source.input}
  return (
    of_captions
    | of_input
    | {
      'name': source.name,
      'num_examples': int(source.num_examples),
      'input_shape': [int(size) for size in source.input_shape],
      'label_names': list(source.label_names),
      'mean': list(source.mean),
      'std': list(source.std),
      'rows': digest.hexdigest(),
    }
  )


def differences(was: Record, now: Record) -> list[str]:
  """What differs between two records, one text each: 'train num_examples was 160, is 150'."""
  return [
    f'{split} {key} was {reprlib.repr(was[split][key])}, is {reprlib.repr(now[split][key])}'
    for split in now
    for key in now[split]
    if not _same(key, was[split][key], now[split][key])
  ]


def _same(key: str, was, now) -> bool:
  if key in ('mean', 'std'):
    return len(was) == len(now) and np.allclose(was, now, rtol=0, atol=CLOSE)
  return was == now if key != 'captions' else {**was, 'slots': [*was['slots']]} == {**now, 'slots': [*now['slots']]}


def promised(record: Record, opened: Callable[[], Mapping[str, Source]]) -> dict[str, Source]:
  """The splits that a record describes, opened when rows are first read: until then the data may be missing."""
  lock = threading.Lock()
  found: dict[str, Source] = {}

  def there(split: str) -> Source:
    with lock:  # readers are threads, and only one needs to open
      if not found:
        found.update(opened())
    return found[split]

  return {split: _promised(split, known, there) for split, known in record.items()}


def _promised(split: str, known: Mapping[str, Any], there: Callable[[str], Source]) -> Source:
  captions = None
  if 'captions' in known:
    made = tokens.restore(known['captions']['tokenizer'])
    captions = Captions(
      slots=tuple(known['captions']['slots']),
      length=made.length,
      vocabulary=made.vocabulary,
      encode=made.encode,
      tokenizer=made.tokenizer,
      texts=lambda rows: _captions(there(split)).texts(rows),
    )
  return Source(
    name=known['name'],
    split=split,
    num_examples=known['num_examples'],
    read=lambda rows: there(split).read(rows),
    input_shape=tuple(known['input_shape']),
    label_names=tuple(known['label_names']),
    mean=tuple(known['mean']),
    std=tuple(known['std']),
    captions=captions,
    input=known.get('input', 'image'),
  )


def _captions(source: Source) -> Captions:
  assert source.captions is not None, 'the record says that there are captions'
  return source.captions
