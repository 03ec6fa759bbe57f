"""Patients with diabetes: ten measurements of each, and how far the disease has come a year later."""

import functools

import numpy as np
from jaxtyping import Float

from contrastive_jax.data.source import Source, check_split, measure
from contrastive_jax.types import Refusal

HELD_OUT = 0.3


@functools.cache
def _patients() -> tuple[Float[np.ndarray, '442 10'], Float[np.ndarray, '442 1']]:
  from sklearn.datasets import load_diabetes

  vector, target = load_diabetes(return_X_y=True, scaled=False)
  return vector.astype(np.float32), target.astype(np.float32)[:, None]


def diabetes(*, split: str = 'train', seed: int = 0) -> Source:
  """442 patients and the progression of their disease, a number to tell (Efron et al., 2004); in scikit-learn's wheel.

  Fields: `vector` float32 [b, 10], age in years, sex, body mass index, mean blood pressure and six measurements of
  blood serum, as they were taken; `target` float32 [b, 1], progression one year later, 25 to 346. There are no labels.

  It comes without a test split: random three tenths (train_test_split, test_size 0.3) are 'test', 133 patients, and
  309 are 'train'.

  Args:
    split: 'train' or 'test'.
    seed: of the split.

  Raises:
    Refusal: an unknown split, a negative seed.
  """
  from sklearn.model_selection import train_test_split

  check_split(split)
  if seed < 0:
    raise Refusal(f'seed must be at least 0, but it is {seed}')
  vector, target = _patients()
  train, test = train_test_split(np.arange(len(vector)), test_size=HELD_OUT, random_state=seed)
  rows = {'train': train, 'test': test}[split]

  def read(wanted):
    at = rows[wanted]
    return {'vector': vector[at], 'target': target[at], 'label': np.full(len(at), -1, np.int32)}

  return Source('diabetes', split, len(rows), read, vector.shape[1:], (), *measure(vector[train]), input='vector')
