"""Rows against columns: the operator that every pairwise loss and evaluator is written against."""

from contrastive_jax.similarity.folds import Chunked, Dense, Fold, Local, Ring, crosses
from contrastive_jax.similarity.operator import Similarity
from contrastive_jax.similarity.terms import (
  Pair,
  Term,
  dot,
  logsumexp,
  maximum,
  mean,
  minimum,
  negative,
  positive,
  same_id,
  size,
  top,
  total,
  valid,
)

__all__ = [
  'Chunked',
  'Dense',
  'Fold',
  'Local',
  'Pair',
  'Ring',
  'Similarity',
  'Term',
  'crosses',
  'dot',
  'logsumexp',
  'maximum',
  'mean',
  'minimum',
  'negative',
  'positive',
  'same_id',
  'size',
  'top',
  'total',
  'valid',
]
