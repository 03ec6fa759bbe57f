import numpy as np
import pytest

from contrastive_jax.data.sampling import planned
from contrastive_jax.types import Refusal

N = 40
GROUP = np.array([0] * 17 + [1] * 9 + [2] * 3 + [-1] * 11)


def draw(plan, *, seed=0, batch_size=4):
  return planned(plan, seed=seed, num_examples=N, batch_size=batch_size)


def test_a_batch_has_rows_of_one_group_and_groups_take_turns():
  of = [set(GROUP[draw({'group': GROUP})(step)]) for step in range(6)]
  assert of == [{0}, {1}, {0}, {1}, {0}, {0}]  # 4 batches of group 0, 2 of group 1, none of group 2


def test_a_round_has_no_row_twice_and_the_next_is_in_another_order():
  drawn = draw({'group': GROUP})
  rounds = [np.concatenate([drawn(step) for step in range(first, first + 6)]) for first in (0, 6)]
  assert all(len(set(rows.tolist())) == 24 for rows in rounds)
  assert rounds[0].tolist() != rounds[1].tolist()
  np.testing.assert_array_equal(drawn(3), draw({'group': GROUP})(3))


def test_one_group_of_all_rows_is_no_plan():
  for step in (0, 9, 10, 25):
    np.testing.assert_array_equal(draw({'group': np.zeros(N, int)})(step), draw(None)(step))


def test_batches_of_classes_have_as_many_of_each_and_no_row_twice():
  label = np.arange(N) % 8
  label[label == 7] = -1
  drawn = draw({'label': label, 'per_class': 3}, batch_size=12)
  for step in range(20):
    rows = drawn(step)
    assert len(set(rows.tolist())) == 12 and rows.dtype == np.int32
    classes, counts = np.unique(label[rows], return_counts=True)
    assert len(classes) == 4 and (counts == 3).all() and classes.min() >= 0


def test_rows_of_a_class_lie_side_by_side_and_no_class_comes_twice():
  label = np.random.default_rng(0).permutation(np.arange(N) % 8)
  drawn = draw({'label': label, 'per_class': 2}, batch_size=12)
  for step in range(20):
    pairs = label[drawn(step)].reshape(-1, 2)
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])
    assert len(set(pairs[:, 0].tolist())) == 6


def test_every_class_and_every_row_of_it_is_drawn_about_equally_often():
  label = np.arange(N) % 5
  drawn = draw({'label': label, 'per_class': 2}, batch_size=4)
  count = np.bincount(np.concatenate([drawn(step) for step in range(3000)]), minlength=N)
  np.testing.assert_allclose(count / 3000, 4 / N, rtol=0.25)


@pytest.mark.parametrize(
  'plan, reason',
  [
    ({'group': np.arange(N)}, 'no group of the plan fills a batch of 4: the largest of 40 has 1'),
    ({'group': GROUP[:5]}, r"the plan's group is \[5\], but the data set has 40 examples"),
    ({'label': np.zeros(N, int), 'per_class': 2}, 'needs 2 classes of 2 examples or more, but the data set has 1'),
    ({'label': np.zeros(N, int), 'per_class': 3}, 'per_class=3 must be at least 1 and divide batch_size=4'),
    ({'label': np.arange(N), 'per_class': 2}, 'needs 2 classes of 2 examples or more, but the data set has 0'),
  ],
)
def test_a_plan_that_makes_no_batch_is_refused(plan, reason):
  with pytest.raises(Refusal, match=reason):
    draw(plan)
