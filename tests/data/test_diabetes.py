"""Patients with diabetes: vectors with a number to tell."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from contrastive_jax.data import sources
from contrastive_jax.types import Refusal


def whole(split, **options):
  source = sources.diabetes(split=split, **options)
  return source, source.read(np.arange(source.num_examples))


@pytest.mark.parametrize('seed', [0, 3])
def test_every_patient_is_in_one_split_with_their_own_number(seed):
  vector, target = load_diabetes(return_X_y=True, scaled=False)
  (_, train), (_, test) = whole('train', seed=seed), whole('test', seed=seed)
  assert (len(train['vector']), len(test['vector'])) == (309, 133)
  found = np.concatenate([np.hstack([each['vector'], each['target']]) for each in (train, test)])
  assert sorted(map(tuple, found)) == sorted(map(tuple, np.float32(np.column_stack([vector, target]))))


def test_statistics_are_those_of_training_patients_in_both_splits():
  (train, batch), (test, _) = whole('train'), whole('test')
  assert (train.mean, train.std) == (test.mean, test.std)
  np.testing.assert_allclose(train.mean, batch['vector'].mean(0), rtol=1e-5)
  np.testing.assert_allclose(train.std, batch['vector'].std(0), rtol=1e-4)


def test_another_seed_holds_out_other_patients():
  first, second = ({*map(tuple, whole('test', seed=seed)[1]['vector'])} for seed in (0, 1))
  assert 10 < len(first & second) < 80  # 40 of 133 are expected in both


def test_rows_are_read_in_the_order_asked_for():
  source, batch = whole('train')
  some = source.read(np.array([5, 2, 5]))
  np.testing.assert_array_equal(some['target'], batch['target'][[5, 2, 5]])
  np.testing.assert_array_equal(some['label'], [-1, -1, -1])


def test_impossible_options_are_refused():
  with pytest.raises(Refusal, match='unknown split'):
    sources.diabetes(split='half')
  with pytest.raises(Refusal, match='seed must be at least 0'):
    sources.diabetes(seed=-1)
