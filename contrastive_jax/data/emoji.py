"""Pictures of emoji with their names in a hundred languages, from files that Linux distributions package."""

import functools
import hashlib
import pathlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL
import tokenizers
from PIL import Image, ImageDraw, ImageFont, features

from contrastive_jax.data import annotations as cldr
from contrastive_jax.data import cache, decode, emoji_list
from contrastive_jax.data import tokens as token_kinds
from contrastive_jax.data.captions import Captions
from contrastive_jax.data.source import SPLIT_SEED, Source, check_split, measure, permutation
from contrastive_jax.types import Refusal

PACKAGES = ('fonts-noto-color-emoji', 'unicode-cldr-core', 'unicode-data')  # Debian's, of the three files below
FONT = '/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf'
ANNOTATIONS = '/usr/share/unicode/cldr/common'
EMOJI_TEST = '/usr/share/unicode/emoji/emoji-test.txt'

DRAWN = 109  # the one size in pixels that the font's pictures have
UNASSIGNED = '\U0010fffd'  # whose picture is that of every glyph that a font lacks
MANY_NAMES = 1500  # a locale with more belongs to 'all'
REFERENCE = 'en'  # an emoji without a name in it is left out
MADE = 1  # raised whenever this code draws or keeps something else of the same files


def emoji(
  *,
  split: str = 'train',
  languages: str | tuple[str, ...] = ('en',),
  keywords: bool = False,
  tokens: str = 'byte',
  vocabulary: int | None = None,
  length: int = 80,
  image_size: int = 64,
  wrong: float = 0.0,
  negatives: int = 0,
  font: str | None = None,
  annotations: str | None = None,
  emoji_test: str | None = None,
) -> Source:
  """Emoji as Google's Noto font draws them, captioned with Unicode's names for them: 3,610 pictures, 138 languages.

  Every fully qualified emoji of Unicode that has an English name and a picture of its own; of several with one picture
  (France and two of its islands) the oldest, then that of the shortest name. About a quarter of the concepts are
  'test', with all their variants: a concept is an emoji without skin tone and gender. `label` is the group ('Food &
  Drink', of nine). Besides the fields of a captioned source, `tone` int32 [b] (0 none, 1 light to 5 dark) and `gender`
  int32 [b] (0 none, 1 woman, 2 man) are what variants differ in, -1 where several people differ; see `minimal_pairs`.

  Pictures and captions are made once and kept (see `cache.folder`), by checksums of the files and these options.

  Args:
    split: 'train' or 'test'.
    languages: of captions, one slot each: locales of CLDR ('de', 'zh_Hant'), in a tuple or separated by commas; 'all'
      are those with more than 1,500 names.
    keywords: a second slot for each language, 'en:keywords' after 'en': its keywords, joined by commas.
    tokens: 'byte', 'bpe' or 'unigram', as in `tokens.make`; the last two learn from captions of the training split.
    vocabulary: the most tokens of a trained kind, 8,192 if None.
    length: tokens of a caption.
    image_size: pixels; the font's pictures have 136 x 128, and are put on a white square.
    wrong: share of the training pictures that have the captions of another of them; those of a larger share include
      those of a smaller one.
    negatives: of wrong captions, `negative_caption` int32 [b, negatives, length] and `negative_caption_mask` bool
      [b, negatives]: those of as many pictures that differ from this one in skin tone or gender alone, in the first
      language, always the same and fewer where there are fewer; 0: no such fields.
    font: the file NotoColorEmoji.ttf; None is where Debian's fonts-noto-color-emoji puts it.
    annotations: folder of `annotations` and `annotationsDerived`; None is that of Debian's unicode-cldr-core.
    emoji_test: Unicode's file emoji-test.txt, from which groups come; None is that of Debian's unicode-data.

  Raises:
    Refusal: unknown split, language or tokens; `wrong` or `negatives` out of range; a file that is missing (with the
      command that brings it) or damaged; a Pillow that cannot shape sequences of characters.
  """
  check_split(split)
  decode.check_size(image_size)
  token_kinds.check(tokens, vocabulary, length)
  if not 0 <= wrong <= 1 or negatives < 0:
    raise Refusal(f'wrong={wrong} and negatives={negatives} are given; a share from 0 to 1 and 0 or more are needed')
  files = _files(font, annotations, emoji_test)
  made = _both(files, _languages(files, languages), keywords, tokens, vocabulary, length, image_size)[split]
  made = _with_negatives(made, negatives) if negatives else made
  return _exchanged(made, wrong) if wrong and split == 'train' else made


def minimal_pairs(fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The rows that differ in one attribute: hard negatives of each other.

  Args:
    fields: of a read of this source: `concept`, `tone` and `gender`, int32 [b].

  Returns:
    Of 'tone' and of 'gender', int32 [p, 2], pairs of rows of the fields, the first below the second, of the same
    concept and the same other attribute. Pictures of people who differ among themselves (-1) are in none.
  """
  concept, tone, gender = (fields[name].tolist() for name in ('concept', 'tone', 'gender'))
  found: dict[str, list[tuple[int, int]]] = {'tone': [], 'gender': []}
  for attribute, varied, fixed in (('tone', tone, gender), ('gender', gender, tone)):
    alike = defaultdict(list)
    for row, value in enumerate(varied):
      if emoji_list.SEVERAL not in (value, fixed[row]):
        alike[concept[row], fixed[row]].append(row)
    for rows in alike.values():
      found[attribute] += [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :] if varied[a] != varied[b]]
  return {attribute: np.array(sorted(pairs), np.int32).reshape(-1, 2) for attribute, pairs in found.items()}


def _with_negatives(source: Source, count: int) -> Source:
  """The source with captions of variants of each picture, in the first slot; variants without one are none."""
  fields = source.read(np.arange(source.num_examples))
  tokens, there = fields['caption'][:, 0], fields['caption_mask'][:, 0]
  variants: list[list[int]] = [[] for _ in tokens]
  for pairs in minimal_pairs(fields).values():
    for a, b in pairs.tolist():
      for row, other in ((a, b), (b, a)):
        if there[other]:
          variants[row].append(other)
  chosen = np.full((len(tokens), count), -1)
  for row, others in enumerate(variants):
    some = permutation(SPLIT_SEED, row, len(others))[:count]
    chosen[row, : len(some)] = np.array(others, int)[some]

  def read(indices):
    rows = chosen[indices]
    mask = rows >= 0
    return source.read(indices) | {
      'negative_caption': np.where(mask[..., None], tokens[rows], 0),
      'negative_caption_mask': mask,
    }

  return source._replace(read=read)


def _exchanged(source: Source, share: float) -> Source:
  """The source with a share of its captions moved on from picture to picture."""
  captions, count = source.captions, max(2, round(share * source.num_examples))
  assert captions is not None
  some = permutation(SPLIT_SEED, 0, source.num_examples)[:count]
  owner = np.arange(source.num_examples)
  owner[some] = np.roll(some, 1)

  def read(indices):
    others = source.read(owner[indices])
    return source.read(indices) | {name: others[name] for name in ('caption', 'caption_mask')}

  told = captions._replace(texts=lambda indices: captions.texts(owner[indices]))
  return source._replace(read=read, captions=told)


class _Files(NamedTuple):
  font: pathlib.Path
  annotations: pathlib.Path
  emoji_test: pathlib.Path


def _files(font: str | None, annotations: str | None, emoji_test: str | None) -> _Files:
  found = _Files(
    *(pathlib.Path(path).expanduser() for path in (font or FONT, annotations or ANNOTATIONS, emoji_test or EMOJI_TEST))
  )
  for path in (found.font, found.annotations / cldr.FOLDERS[0], found.emoji_test):
    if not path.exists():
      raise Refusal(
        f'{path} is missing; `apt-get install {" ".join(PACKAGES)}` brings what emoji need on Debian and Ubuntu, '
        'elsewhere font, annotations and emoji_test say where it is'
      )
  return found


def _languages(files: _Files, languages: str | Sequence[str]) -> tuple[str, ...] | None:
  """None is all that have enough names."""
  if languages == 'all':
    return None
  chosen = tuple(part.strip() for part in languages.split(',')) if isinstance(languages, str) else tuple(languages)
  if not chosen or len(set(chosen)) < len(chosen):
    raise Refusal(f"languages is {languages!r}; 'all' or different locales are needed")
  for language in chosen:
    cldr.files(files.annotations, language)
  return chosen


@functools.lru_cache(maxsize=1)  # of the two splits
def _both(files: _Files, languages, keywords, tokens, vocabulary, length, image_size) -> dict[str, Source]:
  listed = emoji_list.read(files.emoji_test)
  drawn = _pictures(files, listed, image_size)
  english = cldr.read(files.annotations, REFERENCE)
  named = [k for k, number in enumerate(drawn['number']) if english.get(listed[number].bare, cldr.Annotation()).name]
  chosen = [listed[number] for number in drawn['number'][named]]
  if {each.split for each in chosen} != {'train', 'test'}:
    raise Refusal(
      f'{files.font} draws {len(chosen)} of the {len(listed)} emoji of {files.emoji_test}: too few for splits'
    )
  captions = _captions(files, chosen, languages, keywords, tokens, vocabulary, length)
  groups, concepts = (list(dict.fromkeys(getattr(each, name) for each in chosen)) for name in ('group', 'concept'))
  fields = {
    'image': drawn['image'][named],
    'label': [groups.index(each.group) for each in chosen],
    'concept': [concepts.index(each.concept) for each in chosen],
    'tone': [each.tone for each in chosen],
    'gender': [each.gender for each in chosen],
  }
  whole = {name: np.asarray(value, np.uint8 if name == 'image' else np.int32) for name, value in fields.items()}
  rows = {s: np.array([k for k, each in enumerate(chosen) if each.split == s]) for s in ('train', 'test')}
  statistics = measure(whole['image'][rows['train']])
  return {s: _source(s, of_split, whole, captions, tuple(groups), statistics) for s, of_split in rows.items()}


def _source(split: str, rows: np.ndarray, whole, captions: cache.Arrays, groups: tuple[str, ...], statistics) -> Source:
  said = cache.unpacked(captions['said'])
  made = token_kinds.restore(said['tokenizer'])
  image = whole['image'][rows]
  others = {name: value[rows] for name, value in whole.items() if name != 'image'}
  caption = captions['tokens'][rows]
  there = np.array([[bool(text) for text in of_slot] for of_slot in said['texts']]).T[rows]

  def read(indices):
    fields = {name: value[indices] for name, value in others.items()}
    return fields | {
      'image': image[indices],
      'caption': caption[indices].astype(np.int32),
      'caption_mask': there[indices],
    }

  def texts(indices):
    return [tuple(of_slot[row] for of_slot in said['texts']) for row in rows[indices]]

  slots = tuple(said['slots'])
  told = Captions(slots, made.length, made.vocabulary, made.encode, made.tokenizer, texts)
  return Source('emoji', split, len(rows), read, image.shape[1:], groups, *statistics, captions=told)


# --- captions ---


def _captions(files, chosen, languages, keywords, tokens, vocabulary, length) -> cache.Arrays:
  """The texts of all slots and their tokens [n, k, length], from the cache."""
  locales = cldr.locales(files.annotations) if languages is None else languages
  read = [path for locale in locales for path in cldr.files(files.annotations, locale)]
  options = (MADE, languages, keywords, tokens, vocabulary, length, tokenizers.__version__)
  rows = '\n'.join(f'{each.bare} {each.split}' for each in chosen)

  def make():
    found = {locale: cldr.read(files.annotations, locale) for locale in locales}
    texts: dict[str, list[str]] = {}
    for locale, known in found.items():
      of_rows = [known.get(each.bare, cldr.Annotation()) for each in chosen]
      if languages is not None or sum(bool(each.name) for each in of_rows) > MANY_NAMES:
        texts[locale] = [each.name for each in of_rows]
        if keywords:
          texts[f'{locale}:keywords'] = [', '.join(each.keywords) for each in of_rows]
    training = [each.split == 'train' for each in chosen]
    learnt = [text for slot in texts.values() for text, use in zip(slot, training, strict=True) if use and text]
    made = token_kinds.make(tokens, learnt, vocabulary=vocabulary, length=length)
    said = {'slots': list(texts), 'texts': list(texts.values()), 'tokenizer': made.tokenizer}
    encoded = [made.encode(slot).astype(np.uint16) for slot in texts.values()]
    return {'said': cache.packed(said), 'tokens': np.stack(encoded, 1)}

  return cache.kept('emoji-captions', cache.checksum(repr(options), rows, *read), make)


# --- pictures ---


def _pictures(files: _Files, listed: list[emoji_list.Emoji], image_size: int) -> cache.Arrays:
  """`image` uint8 [n, image_size, image_size, 3] and `number` [n] of each in the list, from the cache."""
  versions = [PIL.__version__, *(str(features.version(name)) for name in ('freetype2', 'raqm', 'harfbuzz'))]
  key = cache.checksum(' '.join(versions), f'{MADE} {image_size}', files.emoji_test, files.font)
  return cache.kept('emoji-pictures', key, lambda: draw(files.font, listed, image_size))


def draw(font: pathlib.Path, listed: Sequence[emoji_list.Emoji], image_size: int) -> cache.Arrays:
  """Draws the emoji that a font has a picture of its own for.

  Left out are those it has no glyph for, those it draws as several pictures side by side, and of those with the same
  picture all but one: the oldest, then that of the shortest name.

  Raises:
    Refusal: a Pillow without complex text layout; a font that cannot be opened, or has no pictures of 109 pixels.
  """
  if not features.check('raqm'):
    raise Refusal('this Pillow has no complex text layout (raqm), which draws skin tones and families; its wheels have')
  try:
    typeface = ImageFont.truetype(str(font), DRAWN, layout_engine=ImageFont.Layout.RAQM)
  except OSError as error:
    raise Refusal(f'{font} has no pictures of {DRAWN} pixels, as NotoColorEmoji.ttf has: {error}') from None
  widths = [typeface.getlength(each.text) for each in listed]
  one = Counter(widths).most_common(1)[0][0]
  missing = _picture(typeface, UNASSIGNED)
  pictures: dict[bytes, Image.Image] = {}
  same: dict[bytes, list[int]] = defaultdict(list)
  for number, (each, width) in enumerate(zip(listed, widths, strict=True)):
    picture = _picture(typeface, each.text) if width == one else None
    if picture is not None and picture != missing:
      content = hashlib.sha256(picture.tobytes()).digest()
      same[content].append(number)
      pictures.setdefault(content, picture.resize((image_size, image_size), Image.Resampling.BICUBIC))
  if not same:
    raise Refusal(f'{font} draws no emoji')
  kept = {min(n, key=lambda k: (listed[k].version, len(listed[k].name), k)): content for content, n in same.items()}
  numbers = sorted(kept)
  return {'image': np.stack([np.asarray(pictures[kept[n]]) for n in numbers]), 'number': np.array(numbers, np.int32)}


def _picture(typeface: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
  """A text in its colours, in the middle of a white square as large as it; None where nothing is drawn."""
  left, top, right, bottom = map(round, typeface.getbbox(text))
  width, height = right - left, bottom - top
  if width < 1 or height < 1:
    return None
  side = max(width, height)
  picture = Image.new('RGB', (side, side), 'white')
  corner = ((side - width) // 2 - left, (side - height) // 2 - top)
  ImageDraw.Draw(picture).text(corner, text, font=typeface, embedded_color=True)
  return picture if any(low < 255 for low, _ in picture.getextrema()) else None
