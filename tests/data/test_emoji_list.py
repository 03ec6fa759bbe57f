"""Which emoji are variants of one another, and what CLDR's files say of them."""

import pathlib

import pytest

from contrastive_jax.data import annotations, emoji_list
from contrastive_jax.types import Refusal

LIST = """# emoji-test.txt
# group: Smileys & Emotion
# subgroup: face-smiling
1F600                  ; fully-qualified     # 😀 E1.0 grinning face
263A FE0F              ; fully-qualified     # ☺️ E0.6 smiling face
263A                   ; unqualified         # ☺ E0.6 smiling face
# group: People & Body
1F469 1F3FD 200D 1F692 ; fully-qualified     # 👩🏽‍🚒 E4.0 woman firefighter: medium skin tone
# group: Component
1F3FB                  ; component           # 🏻 E1.0 light skin tone
"""


@pytest.mark.parametrize(
  'text, neutral, tone, gender',
  [
    ('🚒', '🚒', 0, 0),
    ('👩🏽‍🚒', '🧑‍🚒', 3, 1),
    ('👨‍🚒', '🧑🏿‍🚒', 0, 2),
    ('🏃🏻‍♀️', '🏃', 1, 1),
    ('🏋️‍♂️', '🏋🏾', 0, 2),
    ('👴🏿', '🧓', 5, 2),
    ('👸', '🫅🏻', 0, 1),
    ('🤶🏼', '🧑‍🎄', 2, 1),
    ('🎅', '🧑‍🎄', 0, 2),
    ('👫', '🧑‍🤝‍🧑', 0, -1),
    ('👭🏻', '🧑🏻‍🤝‍🧑🏻', 1, 1),
    ('👩🏻‍🤝‍👨🏿', '🧑‍🤝‍🧑', -1, -1),
    ('🫱🏻‍🫲🏾', '🤝', -1, 0),
    ('👩🏾‍❤️‍💋‍👩🏾', '💏', 4, 1),
    ('👨‍👩‍👦', '👪', 0, -1),
    ('👨‍👨‍👦', '👪', 0, 2),
    ('♀️', '♀', 0, 0),
  ],
)
def test_a_concept_is_an_emoji_without_tone_and_gender(text, neutral, tone, gender):
  concept, *attributes = emoji_list.variant(text)
  assert attributes == [tone, gender] and concept == emoji_list.variant(neutral)[0]


def test_signs_that_are_emoji_themselves_are_different_concepts():
  texts = ('♀️', '♂️', '👪', '👨‍👩‍👧‍👦', '💏', '💑', '🤝', '🧑‍🤝‍🧑', '🧑', '🧑‍🚒', '🚒')
  assert len({emoji_list.variant(text)[0] for text in texts}) == len(texts)


def test_a_list_is_read_without_components_and_what_is_not_fully_qualified(tmp_path):
  path = tmp_path / 'emoji-test.txt'
  path.write_text(LIST)
  found = emoji_list.read(path)
  assert [each.name for each in found] == ['grinning face', 'smiling face', 'woman firefighter: medium skin tone']
  assert [each.group for each in found] == ['Smileys & Emotion'] * 2 + ['People & Body']
  assert found[1].text == '☺️' and found[1].bare == '☺' and found[1].version == (0, 6)
  assert found[2].tone == 3 and found[2].gender == 1


def test_a_file_that_lists_no_emoji_is_refused(tmp_path):
  path = tmp_path / 'other.txt'
  path.write_bytes(b'\xff\xfe1F600 ; what\n')
  with pytest.raises(Refusal, match=r'other\.txt lists no emoji'):
    emoji_list.read(path)


def test_the_split_of_a_concept_is_the_same_for_ever_and_for_all_its_variants():
  def split(text):
    return emoji_list.Emoji(text, 'g', 'n', (1, 0), *emoji_list.variant(text)).split

  assert {text: split(text) for text in '😁🐶🍎🎈😀😃😄'} == dict.fromkeys('😁🐶🍎🎈', 'train') | dict.fromkeys(
    '😀😃😄', 'test'
  )
  assert split('👩🏽‍🚒') == split('👨‍🚒') == split('🧑‍🚒')


def write(folder: pathlib.Path, locale: str, *entries: str):
  folder.mkdir(parents=True, exist_ok=True)
  text = f'<?xml version="1.0"?><ldml><annotations>{"".join(entries)}</annotations></ldml>'
  (folder / f'{locale}.xml').write_text(text, 'utf-8')


def test_names_and_keywords_come_from_both_folders_and_inherited_ones_are_none(tmp_path):
  write(
    tmp_path / 'annotations',
    'de',
    '<annotation cp="🐶">Gesicht | Hund </annotation>',
    '<annotation cp="🐶" type="tts"> Hundegesicht</annotation>',
    '<annotation cp="🍎" type="tts">↑↑↑</annotation>',
    '<annotation cp="🚗" type="tts"></annotation>',
  )
  write(tmp_path / 'annotationsDerived', 'de', '<annotation cp="👋🏻" type="tts">winkende Hand</annotation>')
  write(tmp_path / 'annotationsDerived', 'root')
  assert annotations.locales(tmp_path) == ('de',)
  assert annotations.read(tmp_path, 'de') == {
    '🐶': ('Hundegesicht', ('Gesicht', 'Hund')),
    '👋🏻': ('winkende Hand', ()),
  }


def test_a_language_without_a_file_and_a_damaged_file_are_refused(tmp_path):
  write(tmp_path / 'annotations', 'de_CH', '<annotation>')
  with pytest.raises(Refusal, match="in a language 'de'; did you mean 'de_CH'"):
    annotations.read(tmp_path, 'de')
  with pytest.raises(Refusal, match=r'de_CH\.xml cannot be read: mismatched tag'):
    annotations.read(tmp_path, 'de_CH')
