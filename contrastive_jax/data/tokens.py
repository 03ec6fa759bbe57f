"""Texts to tokens of one length: raw bytes, or pieces that the `tokenizers` library learns from the training texts.

Nothing is normalised: every text can be encoded, whatever its script, because pieces are made of bytes. Token 0 is
padding and stands for nothing else; no text, whatever is written in it, has a token 0 before its end.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from contrastive_jax.types import Refusal, nearest

KINDS = ('bpe', 'byte', 'unigram')
BYTES = 256
VOCABULARY = 8192  # of a trained kind, where nothing else is asked
MOST = 2**16  # tokens are kept in two bytes

# To the bytes that it did not keep the trainer of unigrams gives the lowest score of all and 0.0001 more to each than
# to the one before, in an order that is not the same twice; they lie above the lowest by no more than this.
STEPS = BYTES * 1e-4
DIGITS = 6  # of scores, whose last digits depend on the order of a parallel sum


class Tokens(NamedTuple):
  """A way from texts to tokens."""

  encode: Callable[[Sequence[str]], np.ndarray]  # texts -> int32 [n, length]
  vocabulary: int  # tokens are 0 to vocabulary - 1
  length: int
  tokenizer: str  # JSON of which `restore` makes it again


def check(kind: str, vocabulary: int | None, length: int):
  """Refuses options that `make` cannot use.

  Raises:
    Refusal: unknown kind; a vocabulary too small for all bytes, too large for two, or of a kind that has no choice; a
      length below 1.
  """
  if kind not in KINDS:
    raise Refusal(f"unknown tokens '{kind}'{nearest(kind, KINDS)}")
  if length < 1:
    raise Refusal(f'length is {length}; at least 1 token is needed')
  if kind == 'byte' and vocabulary not in (None, BYTES + 1):
    raise Refusal(f"vocabulary is {vocabulary}; tokens 'byte' have {BYTES + 1}, so leave it out")
  if vocabulary is not None and not BYTES < vocabulary <= MOST:
    raise Refusal(f'vocabulary is {vocabulary}; {BYTES + 1} (padding and every byte) to {MOST} tokens are possible')


def make(kind: str, texts: Sequence[str], *, vocabulary: int | None = None, length: int = 64) -> Tokens:
  """Tokens of a kind, the same for the same texts in the same order.

  Args:
    kind: 'byte', the bytes of UTF-8, token = byte + 1; 'bpe', byte pairs merged as they are frequent (Sennrich et al.,
      2016); 'unigram', pieces of the most probable segmentation under a unigram model (Kudo, 2018).
    texts: of the training split; 'byte' learns nothing from them.
    vocabulary: the most tokens, padding and the 256 bytes included, of a trained kind, 8,192 if None; texts may have
      fewer pieces. 'byte' has 257.
    length: tokens of a text; shorter ones are padded with 0, longer ones cut.

  Raises:
    Refusal: see `check`.
  """
  check(kind, vocabulary, length)
  if kind == 'byte':
    return restore(json.dumps({'type': 'byte', 'length': length}))
  pieces = (VOCABULARY if vocabulary is None else vocabulary) - 1
  model = {'bpe': _byte_pairs, 'unigram': _unigrams}[kind](texts, pieces)
  return restore(json.dumps({'type': kind, 'length': length, 'tokenizer': json.loads(model.to_str())}))


def restore(tokenizer: str) -> Tokens:
  """The tokens that a JSON text was made of: the same ids for any text.

  Raises:
    Refusal: a text that `make` did not write.
  """
  try:
    said: dict[str, Any] = json.loads(tokenizer)
    kind, length = said['type'], int(said['length'])
    model = None if kind == 'byte' else tokenizers.Tokenizer.from_str(json.dumps(said['tokenizer']))
  except Exception as error:  # the library raises no class of its own
    raise Refusal(f'this is no tokenizer: {" ".join(str(error).split())[:200]}') from None

  def pieces(texts):
    if model is None:
      return [np.frombuffer(text.encode()[:length], np.uint8) for text in texts]
    return [encoding.ids[:length] for encoding in model.encode_batch_fast(list(texts), add_special_tokens=False)]

  def encode(texts):
    out = np.zeros((len(texts), length), np.int32)
    for row, found in zip(out, pieces(texts), strict=True):
      row[: len(found)] = found
      row[: len(found)] += 1  # 0 is padding
    return out

  return Tokens(encode, 1 + (BYTES if model is None else model.get_vocab_size()), length, tokenizer)


def _byte_pairs(texts: Sequence[str], pieces: int) -> tokenizers.Tokenizer:
  model = tokenizers.Tokenizer(models.BPE())
  model.pre_tokenizer = _bytes()
  trainer = trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=_alphabet(), show_progress=False)
  model.train_from_iterator(texts, trainer)
  return model


def _unigrams(texts: Sequence[str], pieces: int) -> tokenizers.Tokenizer:
  """As the library trains them, but for what depends on chance in it: order, last digits, scores of unneeded bytes."""
  model = tokenizers.Tokenizer(models.Unigram())
  model.pre_tokenizer = _bytes()
  trainer = trainers.UnigramTrainer(vocab_size=pieces, initial_alphabet=_alphabet(), show_progress=False)
  model.train_from_iterator(texts, trainer)
  scores = dict(json.loads(model.to_str())['model']['vocab'])
  least = min(scores.values())
  for piece, score in scores.items():
    unneeded = len(piece) == 1 and score <= least + STEPS
    scores[piece] = round(least if unneeded else score, DIGITS)
  canonical = tokenizers.Tokenizer(models.Unigram(sorted(scores.items(), key=lambda item: (-item[1], item[0]))))
  canonical.pre_tokenizer = _bytes()
  return canonical


def _bytes() -> pre_tokenizers.PreTokenizer:
  """Words, each with the space before it, spelt in one character for each byte."""
  return pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)


def _alphabet() -> list[str]:
  return sorted(pre_tokenizers.ByteLevel.alphabet())
