"""Emoji as the packaged font draws them, with the packaged names: what is in the set, and that it is made once."""

import os
import pathlib
import re

import numpy as np
import pytest

from contrastive_jax.data import annotations, emoji, emoji_list, source, sources, tokens
from contrastive_jax.types import Refusal

WORDS = {'woman': 1, 'women': 1, 'girl': 1, 'girls': 1, 'princess': 1, 'Mrs': 1, 'mermaid': 1} | {
  'man': 2, 'men': 2, 'boy': 2, 'boys': 2, 'prince': 2, 'Santa': 2, 'merman': 2
}  # fmt: skip
TONES = ('', 'light', 'medium-light', 'medium', 'medium-dark', 'dark')
TINY = 24  # pixels


@pytest.fixture(scope='module')
def places():
  missing = [
    package
    for package, path in zip(emoji.PACKAGES, (emoji.FONT, emoji.ANNOTATIONS, emoji.EMOJI_TEST), strict=True)
    if not pathlib.Path(path).exists()
  ]
  if missing:
    reason = f'emoji are missing; apt-get install {" ".join(missing)} brings them'
    pytest.fail(reason) if os.environ.get('CI') else pytest.skip(reason)


@pytest.fixture(scope='module')
def cached(places, tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    emoji._both.cache_clear()
    yield
    emoji._both.cache_clear()


@pytest.fixture(scope='module')
def both(cached):
  options = dict(languages='en,de,te', keywords=True, image_size=TINY)
  return {split: sources.emoji(split=split, **options) for split in source.SPLITS}


@pytest.fixture(scope='module')
def fields(both):
  return {split: each.read(np.arange(each.num_examples)) for split, each in both.items()}


def everything(both, fields, name):
  return np.concatenate([fields[split][name] for split in both])


def test_there_are_3610_pictures_of_1647_concepts_864_of_them_held_out(both, fields):
  assert {split: each.num_examples for split, each in both.items()} == {'train': 2746, 'test': 864}
  assert {split: len(np.unique(of['concept'])) for split, of in fields.items()} == {'train': 1256, 'test': 391}
  assert not set(fields['train']['concept']) & set(fields['test']['concept'])


def test_every_group_has_between_a_fifth_and_three_tenths_of_its_pictures_held_out(both, fields):
  assert both['train'].label_names[:2] == ('Smileys & Emotion', 'People & Body') and len(both['test'].label_names) == 9
  train, test = (np.bincount(fields[split]['label'], minlength=9) for split in source.SPLITS)
  share = test / (train + test)
  assert share.min() > 0.2 and share.max() < 0.3


def test_no_two_pictures_are_the_same_and_none_is_blank(both, fields):
  image = everything(both, fields, 'image')
  assert image.shape == (3610, TINY, TINY, 3) and image.dtype == np.uint8
  assert len(np.unique(image.reshape(len(image), -1), axis=0)) > 3600  # at 24 pixels; at full size all differ
  assert image.min((1, 2, 3)).max() < 255


def test_of_emoji_with_one_picture_the_oldest_or_shortest_is_there(both):
  names = {each.captions.texts(np.array([row]))[0][0] for each in both.values() for row in range(each.num_examples)}
  assert {'flag: United States', 'flag: France', 'flag: Norway', 'flag: Spain', 'snowboarder', 'family'} <= names
  assert not {'flag: Bouvet Island', 'flag: Svalbard & Jan Mayen', 'snowboarder: dark skin tone'} & names


def test_tone_and_gender_are_those_of_the_english_name(both, fields):
  for split, each in both.items():
    for row, (name, *_) in enumerate(each.captions.texts(np.arange(each.num_examples))):
      tones = {TONES.index(tone) for tone in re.findall(r'([a-z-]+) skin tone', name)}
      assert fields[split]['tone'][row] == (0 if not tones else tones.pop() if len(tones) == 1 else -1), name
      genders = {WORDS[word] for word in re.findall(r"[\w'’]+", name) if word in WORDS}
      expected = 0 if not genders else genders.pop() if len(genders) == 1 else -1
      assert fields[split]['gender'][row] == expected, name


def test_minimal_pairs_differ_in_one_attribute_of_one_concept(both, fields):
  texts = {split: each.captions.texts(np.arange(each.num_examples)) for split, each in both.items()}
  counts = {}
  for split, of in fields.items():
    pairs = emoji.minimal_pairs(of)
    counts[split] = {attribute: len(found) for attribute, found in pairs.items()}
    for attribute, other in (('tone', 'gender'), ('gender', 'tone')):
      a, b = pairs[attribute].T
      assert (a < b).all() and (of['concept'][a] == of['concept'][b]).all() and (of[other][a] == of[other][b]).all()
      assert (of[attribute][a] != of[attribute][b]).all() and min(of[attribute][a].min(), of[attribute][b].min()) == 0
      assert len({(i, j) for i, j in pairs[attribute].tolist()}) == len(a)
      assert all(texts[split][i][0] != texts[split][j][0] for i, j in pairs[attribute])
  assert counts == {'train': {'tone': 3240, 'gender': 1041}, 'test': {'tone': 1245, 'gender': 421}}


def test_slots_are_languages_each_with_its_keywords_and_hold_their_texts(both, fields):
  captions = both['train'].captions
  assert captions.slots == ('en', 'en:keywords', 'de', 'de:keywords', 'te', 'te:keywords')
  assert captions.texts(np.array([0]))[0][:4:2] == (
    'beaming face with smiling eyes',
    'strahlendes Gesicht mit lachenden Augen',
  )
  assert captions.texts(np.array([0]))[0][1] == 'beaming face with smiling eyes, eye, face, grin, smile'
  batch = both['train'].read(np.array([7, 0]))
  assert batch['caption'].shape == (2, 6, 80) and batch['caption'].dtype == np.int32
  texts = captions.texts(np.array([7, 0]))
  for row in range(2):
    np.testing.assert_array_equal(batch['caption'][row], captions.encode(texts[row]))
  assert (batch['caption'][1, 0, :12] - 1).tolist() == list(b'beaming face')


def test_no_english_name_is_cut_at_the_default_length(both):
  for each in both.values():
    longest = max(len(names[0].encode()) for names in each.captions.texts(np.arange(each.num_examples)))
    assert longest <= each.captions.length == 80


def test_a_missing_caption_is_masked_and_all_padding(cached):
  train = sources.emoji(languages=('en', 'sc', 'de_CH'), image_size=TINY)
  batch, texts = train.read(np.arange(2746)), train.captions.texts(np.arange(2746))
  there = np.array([[bool(text) for text in row] for row in texts])
  np.testing.assert_array_equal(batch['caption_mask'], there)
  np.testing.assert_array_equal(batch['caption'].any(2), there)
  assert there[:, 0].all() and 0 < there[:, 1].sum() < 2746 and 0 < there[:, 2].sum() < 300


def test_a_share_of_training_pictures_has_the_captions_of_another_and_nothing_else_changes(both, fields):
  options = dict(languages='en,de,te', keywords=True, image_size=TINY)
  rows, changed = np.arange(2746), {}
  for share in (0.2, 0.5):
    train = sources.emoji(**options, wrong=share)
    found, texts = train.read(rows), train.captions.texts(rows)
    own = both['train'].captions.texts(rows)
    changed[share] = np.array([a != b for a, b in zip(texts, own, strict=True)])
    assert changed[share].sum() == round(share * 2746) and sorted(texts) == sorted(own)
    np.testing.assert_array_equal(train.captions.encode([text[0] for text in texts]), found['caption'][:, 0])
    np.testing.assert_array_equal(found['caption_mask'], [[bool(text) for text in row] for row in texts])
    for name in ('image', 'label', 'concept', 'tone', 'gender'):
      np.testing.assert_array_equal(found[name], fields['train'][name])
    np.testing.assert_array_equal(train.read(rows[[7, 3]])['caption'], found['caption'][[7, 3]])
  assert (changed[0.5] | ~changed[0.2]).all()
  test = sources.emoji(split='test', **options, wrong=0.5)
  np.testing.assert_array_equal(test.read(np.arange(864))['caption'], fields['test']['caption'])


def test_wrong_captions_are_those_of_variants_in_tone_or_gender(both, fields):
  options = dict(languages='en,de,te', keywords=True, image_size=TINY)
  train = sources.emoji(**options, negatives=3)
  found, caption = train.read(np.arange(2746)), fields['train']['caption'][:, 0]
  variants = [set() for _ in caption]
  for pairs in emoji.minimal_pairs(fields['train']).values():
    for a, b in pairs.tolist():
      variants[a].add(caption[b].tobytes())
      variants[b].add(caption[a].tobytes())
  tokens, mask = found['negative_caption'], found['negative_caption_mask']
  assert tokens.shape == (2746, 3, 80) and tokens.dtype == np.int32
  for row, others in enumerate(variants):
    drawn = {each.tobytes() for each in tokens[row][mask[row]]}
    assert drawn <= others and len(drawn) == mask[row].sum() == min(3, len(others))
  assert not tokens[~mask].any() and 0 < mask[:, 0].sum() < 2746
  np.testing.assert_array_equal(train.read(np.array([9]))['negative_caption'], tokens[9:10])
  assert 'negative_caption' not in fields['train']


def test_pictures_and_captions_are_made_once_and_read_back_the_same(both, fields, monkeypatch):
  def again(*_, **__):
    raise AssertionError('made again')

  monkeypatch.setattr(emoji, 'draw', again)
  monkeypatch.setattr(tokens, 'make', again)
  emoji._both.cache_clear()
  read = sources.emoji(languages=('en', 'de', 'te'), keywords=True, image_size=TINY).read(np.arange(2746))
  for name, value in fields['train'].items():
    np.testing.assert_array_equal(read[name], value)
    assert read[name].dtype == value.dtype
  for change in (dict(image_size=TINY + 1), dict(length=9)):
    with pytest.raises(AssertionError, match='made again'):
      sources.emoji(**dict(languages=('en', 'de', 'te'), keywords=True, image_size=TINY) | change)


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_trained_tokens_are_learnt_from_the_training_split_alone(cached, kind):
  train, test = (sources.emoji(split=s, tokens=kind, vocabulary=600, image_size=TINY) for s in source.SPLITS)
  texts = [names[0] for names in train.captions.texts(np.arange(train.num_examples))]
  assert train.captions.tokenizer == test.captions.tokenizer
  assert tokens.make(kind, texts, vocabulary=600, length=80).tokenizer == train.captions.tokenizer
  caption = test.read(np.arange(test.num_examples))['caption']
  assert train.captions.vocabulary == 600 and caption.max() < 600
  np.testing.assert_array_equal(
    caption[:, 0], test.captions.encode([t[0] for t in test.captions.texts(np.arange(864))])
  )


@pytest.mark.slow
def test_138_languages_have_names_of_emoji_113_of_them_more_than_1500(cached):
  train = sources.emoji(languages='all', image_size=TINY)
  assert len(train.captions.slots) == 113 and {'zh_Hant', 'sr_Latn', 'chr', 'kab'} <= set(train.captions.slots)
  assert train.read(np.arange(64))['caption'].shape == (64, 113, 80)
  place = pathlib.Path(emoji.ANNOTATIONS)
  bare = {each.bare for each in emoji_list.read(pathlib.Path(emoji.EMOJI_TEST))}
  known = [annotations.read(place, locale) for locale in annotations.locales(place)]
  assert sum(any(found[sign].name for sign in bare & set(found)) for found in known) == 138


def few(tmp_path, *texts):
  lines = [f'{" ".join(f"{ord(c):X}" for c in text)} ; fully-qualified     # x E1.0 {name}' for text, name in texts]
  path = tmp_path / 'few.txt'
  path.write_text('\n'.join(['# group: Some', *lines]))
  return emoji_list.read(path)


def test_what_the_font_has_no_picture_of_its_own_for_is_left_out(places, tmp_path):
  texts = ('😀', 'face'), ('\U0001fbfb', 'none'), ('😀\u200d🚒', 'two side by side'), ('🇧🇻', 'far away'), ('🇳🇴', 'near')
  drawn = emoji.draw(pathlib.Path(emoji.FONT), few(tmp_path, *texts), 8)
  assert drawn['number'].tolist() == [0, 4] and drawn['image'].shape == (2, 8, 8, 3)


def test_a_picture_is_drawn_in_colour_in_the_middle_of_white(places, tmp_path):
  image = emoji.draw(pathlib.Path(emoji.FONT), few(tmp_path, ('😀', 'face'), ('🍎', 'apple')), 136)['image'][0].astype(
    int
  )
  red, _, blue = image[68, 20]
  assert red > 200 and blue < 120  # yellow
  assert (image[:4] == 255).all() and (image[-4:] == 255).all()  # the font's 136 x 128


def test_other_files_in_place_of_the_font_are_refused(places, tmp_path):
  path = tmp_path / 'font.ttf'
  path.write_bytes(b'no font')
  with pytest.raises(Refusal, match=r'font\.ttf has no pictures of 109 pixels'):
    emoji.draw(path, few(tmp_path, ('😀', 'face')), 8)


def test_pillow_without_complex_layout_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(emoji.features, 'check', lambda name: name != 'raqm')
  with pytest.raises(Refusal, match='no complex text layout'):
    emoji.draw(tmp_path / 'any.ttf', few(tmp_path, ('😀', 'face')), 8)


def test_missing_files_are_refused_with_the_packages_that_bring_them(tmp_path):
  with pytest.raises(Refusal, match='apt-get install fonts-noto-color-emoji unicode-cldr-core unicode-data'):
    sources.emoji(font=str(tmp_path / 'nothing.ttf'))


@pytest.mark.parametrize(
  'options, reason',
  [
    (dict(split='trian'), "did you mean 'train'"),
    (dict(tokens='words'), "unknown tokens 'words'"),
    (dict(languages=('en', 'dee')), "in a language 'dee'; did you mean 'de'"),
    (dict(languages='en,en'), 'different locales are needed'),
    (dict(languages=()), 'different locales are needed'),
    (dict(image_size=0), 'image_size is 0'),
    (dict(wrong=1.2), 'wrong=1.2 and negatives=0 are given; a share from 0 to 1'),
    (dict(negatives=-1), 'negatives=-1 are given'),
  ],
)
def test_options_that_cannot_be_used_are_refused(places, options, reason):
  with pytest.raises(Refusal, match=reason):
    sources.emoji(**options)
