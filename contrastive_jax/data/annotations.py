"""Names and keywords of emoji in many languages: the annotations of Unicode's Common Locale Data Repository (CLDR).

Folders `annotations` and `annotationsDerived` hold a file of each locale ('de.xml', 'zh_Hant.xml'); the second has what
follows from the first: skin tones, flags, families. What a locale inherits ('de_CH' from 'de') is not its own here.
"""

import pathlib
from typing import NamedTuple
from xml.etree import ElementTree

from contrastive_jax.types import Refusal, nearest

FOLDERS = ('annotations', 'annotationsDerived')
INHERITED = '↑↑↑'  # in place of a value: that of the parent locale


class Annotation(NamedTuple):
  """What a locale says of one emoji; '' is nothing."""

  name: str = ''
  keywords: tuple[str, ...] = ()


def locales(folder: pathlib.Path) -> tuple[str, ...]:
  """The locales that have a file in one of the two folders, sorted."""
  return tuple(sorted({path.stem for each in FOLDERS for path in (folder / each).glob('*.xml')} - {'root'}))


def files(folder: pathlib.Path, locale: str) -> list[pathlib.Path]:
  """The files of a locale.

  Raises:
    Refusal: it has none.
  """
  found = [folder / each / f'{locale}.xml' for each in FOLDERS]
  found = [path for path in found if path.is_file()]
  if not found:
    raise Refusal(f"{folder} has no annotations in a language '{locale}'{nearest(locale, locales(folder))}")
  return found


def read(folder: pathlib.Path, locale: str) -> dict[str, Annotation]:
  """By emoji, as CLDR writes them: without presentation selectors.

  Raises:
    Refusal: no file of the locale, or a damaged one.
  """
  found: dict[str, Annotation] = {}
  for path in files(folder, locale):
    try:
      entries = ElementTree.parse(path).iter('annotation')
    except (ElementTree.ParseError, UnicodeError, OSError) as error:
      raise Refusal(f'{path} cannot be read: {error}') from None
    for entry in entries:
      sign, text = entry.get('cp', ''), (entry.text or '').strip()
      if text and text != INHERITED:
        known = found.get(sign, Annotation())
        if entry.get('type') == 'tts':
          found[sign] = known._replace(name=text)
        else:
          found[sign] = known._replace(keywords=tuple(word.strip() for word in text.split('|')))
  return found
