"""Which emoji there are, in which groups, and which are variants of one: from Unicode's emoji-test.txt.

A concept is an emoji without skin tone and gender: the firefighter of whom there is a woman, a man and neither, each in
six tones. The text that stands for it is the neutral one where Unicode has it.
"""

import hashlib
import pathlib
import re
from typing import NamedTuple

from contrastive_jax.types import Refusal

TONES = {chr(0x1F3FB + k): k + 1 for k in range(5)}  # light, medium-light, medium, medium-dark, dark
NONE, WOMAN, MAN = 0, 1, 2
SEVERAL = -1  # of people who differ

PRESENTATION, JOINER = '\ufe0f', '\u200d'
SIGNS = {'♀': WOMAN, '♂': MAN}
PEOPLE = {  # woman, man, neither
  '🧑': '👩👨', '🧒': '👧👦', '🧓': '👵👴', '🫅': '👸🤴', '🫄': '🤰🫃', '💃': '💃🕺', '🧕': '🧕',
}  # fmt: skip
GENDERS = {person: (neutral, WOMAN + k) for neutral, both in PEOPLE.items() for k, person in enumerate(both)}
# Things of several people, or in costume, that are written otherwise where gender or tone are in them.
ALIKE = {
  '👭': ('🧑🤝🧑', WOMAN), '👬': ('🧑🤝🧑', MAN), '👫': ('🧑🤝🧑', SEVERAL), '🤶': ('🧑🎄', WOMAN), '🎅': ('🧑🎄', MAN),
  '💏': ('🧑❤💋🧑', NONE), '💑': ('🧑❤🧑', NONE), '🤝': ('🫱🫲', NONE), '👪': ('🧑🧑🧒', NONE),
}  # fmt: skip

TEST_SHARE = 0.25  # of the concepts, about
SALT = 7  # with which every group has 21 to 26 % of its pictures in the test split
LINE = re.compile(r'([0-9A-F ]+); fully-qualified +# \S+ E(\d+)\.(\d+) (.+)')


class Emoji(NamedTuple):
  """One emoji of Unicode's list."""

  text: str  # fully qualified: drawn as a picture
  group: str  # 'Animals & Nature', ...
  name: str  # of the list, English
  version: tuple[int, int]  # of the first emoji standard that had it
  concept: str  # variants have the same
  tone: int  # 0 none, 1 (light) to 5 (dark), -1 of several people who differ
  gender: int  # 0 none, 1 woman, 2 man, -1 of several people who differ

  @property
  def bare(self) -> str:
    """As annotations write it: without presentation selectors."""
    return self.text.replace(PRESENTATION, '')

  @property
  def split(self) -> str:
    """'test' for about a quarter of the concepts, by a checksum of each: the same whatever other emoji there are."""
    bits = int.from_bytes(hashlib.sha256(f'emoji {SALT} {self.concept}'.encode()).digest()[:8])
    return 'test' if bits < TEST_SHARE * 2**64 else 'train'


def read(path: pathlib.Path) -> list[Emoji]:
  """The fully qualified emoji of a file emoji-test.txt, in its order; components (a skin tone alone) are none.

  Raises:
    Refusal: no emoji in it.
  """
  found, group = [], ''
  for line in path.read_text('utf-8', errors='replace').splitlines():
    if line.startswith('# group: '):
      group = line.partition(': ')[2].strip()
    elif match := LINE.fullmatch(line):
      codes, major, minor, name = match.groups()
      text = ''.join(chr(int(code, 16)) for code in codes.split())
      found.append(Emoji(text, group, name, (int(major), int(minor)), *variant(text)))
  if not found:
    raise Refusal(f"{path} lists no emoji; Unicode's emoji-test.txt is needed")
  return found


def variant(text: str) -> tuple[str, int, int]:
  """The concept of an emoji, its tone and its gender."""
  tones, genders, concept = set(), set(), ''
  for sign in text.replace(PRESENTATION, '').replace(JOINER, ''):
    if sign in TONES:
      tones.add(TONES[sign])
    elif sign in SIGNS and concept:  # alone it is the sign itself
      genders.add(SIGNS[sign])
    else:
      neutral, gender = GENDERS.get(sign, (sign, NONE))
      genders.add(gender)
      concept += neutral
  concept, gender = ALIKE.get(concept, (concept, NONE))
  return concept, _one(tones), _one((genders | {gender}) - {NONE})


def _one(values: set[int]) -> int:
  return NONE if not values else values.pop() if len(values) == 1 else SEVERAL
