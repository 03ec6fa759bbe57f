"""Texts to tokens: bytes and trained pieces, the same again from the same texts and from their JSON."""

import json
import subprocess
import sys

import numpy as np
import pytest

from contrastive_jax.data import tokens
from contrastive_jax.types import Refusal

WORDS = ('red', 'green', 'small', 'large', 'happy', 'cat', 'dog', 'face', 'house', 'grün', 'кошка', '猫', 'समझ')
TEXTS = tuple(f'{a} {b}: {c}' for i, a in enumerate(WORDS) for b in WORDS for c in WORDS[i % 3 :: 3])
STRANGE = ('', ' ', '[PAD]', 'a\x00b', '\U0001f469\u200d\U0001f680', 'never\tseen  ﷽ ' * 9, 'red cat: face')


def made(kind, **options):
  return tokens.make(kind, TEXTS, vocabulary=None if kind == 'byte' else 400, **options)


def test_bytes_are_those_of_utf_8_plus_one_padded_and_cut():
  byte = tokens.make('byte', (), length=4)
  assert byte.encode(['aé', 'abcdef', '']).tolist() == [[98, 196, 170, 0], [98, 99, 100, 101], [0, 0, 0, 0]]
  assert byte.vocabulary == 257 and byte.encode(['a']).dtype == np.int32


@pytest.mark.parametrize('kind', tokens.KINDS)
def test_no_text_has_a_token_0_before_its_end_or_one_beyond_the_vocabulary(kind):
  made_of = made(kind, length=200)
  ids = made_of.encode(STRANGE + TEXTS)
  assert ids.max() < made_of.vocabulary and not ids[0].any()
  for row in ids[1:]:
    used = np.flatnonzero(row)
    assert len(used) and used[-1] + 1 == len(used)


@pytest.mark.parametrize('kind', tokens.KINDS)
def test_the_same_ids_come_of_the_json(kind):
  first = made(kind, length=40)
  again = tokens.restore(first.tokenizer)
  np.testing.assert_array_equal(again.encode(STRANGE + TEXTS), first.encode(STRANGE + TEXTS))
  assert (again.vocabulary, again.length, again.tokenizer) == (first.vocabulary, 40, first.tokenizer)


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_training_twice_makes_the_same_tokenizer_in_this_process_and_in_another(kind):
  first = made(kind).tokenizer
  assert made(kind).tokenizer == first
  code = f'import runpy; print(runpy.run_path({__file__!r})["made"]({kind!r}).tokenizer)'
  out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == first


@pytest.mark.parametrize('kind, share', [('bpe', 0.5), ('unigram', 0.9)])  # the library keeps few unigrams of few words
def test_a_text_has_fewer_trained_pieces_than_bytes_of_no_more_kinds_than_asked(kind, share):
  pieces, byte = made(kind, length=200), made('byte', length=200)
  assert 257 < pieces.vocabulary <= 400
  assert (pieces.encode(TEXTS) > 0).sum() < (byte.encode(TEXTS) > 0).sum() * share


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_distinct_texts_have_distinct_tokens(kind):
  texts = tuple(dict.fromkeys(STRANGE[2:] + TEXTS))
  assert len(np.unique(made(kind, length=200).encode(texts), axis=0)) == len(texts)


@pytest.mark.parametrize(
  'options, reason',
  [
    (dict(kind='bytes'), "unknown tokens 'bytes'; did you mean 'byte'"),
    (dict(kind='bpe', vocabulary=256), 'vocabulary is 256; 257 .* to 65536 tokens'),
    (dict(kind='bpe', vocabulary=70000), 'vocabulary is 70000'),
    (dict(kind='byte', vocabulary=300), "'byte' have 257"),
    (dict(kind='byte', length=0), 'length is 0'),
  ],
)
def test_what_no_tokens_can_be_made_of_is_refused(options, reason):
  with pytest.raises(Refusal, match=reason):
    tokens.make(texts=TEXTS, **options)


@pytest.mark.parametrize('text', ['', '{}', '[1]', json.dumps({'type': 'bpe', 'length': 3, 'tokenizer': {}})])
def test_json_of_no_tokenizer_is_refused(text):
  with pytest.raises(Refusal, match='this is no tokenizer'):
    tokens.restore(text)
