"""Captions of a source's examples, as tokens of one length."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Captions(NamedTuple):
  """What a captioned source says of its captions: every example has K slots for one, some of them empty.

  `Source.read(rows)` then returns, besides image and label, `caption` int32 [b, K, L], `caption_mask` bool [b, K]
  (False: no such caption, all its tokens 0) and `concept` int32 [b] (variants of one thing have the same).
  """

  slots: tuple[str, ...]  # what caption k of every example is: 'en', 'de', ...
  length: int  # L, tokens of a caption: padded with 0, cut beyond
  vocabulary: int  # tokens are 0 to vocabulary - 1; 0 is padding
  encode: Callable[[Sequence[str]], np.ndarray]  # texts -> int32 [n, L]
  tokenizer: str  # JSON of which `tokens.restore` makes `encode` again: saved with a run
  texts: Callable[[np.ndarray], list[tuple[str, ...]]]  # rows -> the K texts of each, '' where there is none
