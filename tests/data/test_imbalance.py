"""Long tails: how many examples of which class are left, which rows they are, and what runs make of it."""

import pathlib

import jax
import numpy as np
import pytest

from contrastive_jax.data import identity, sampling, sources
from contrastive_jax.data.captions import Captions
from contrastive_jax.data.imbalance import long_tail
from contrastive_jax.engine import resolve, serve, setup, workdir
from contrastive_jax.types import Refusal

ROOT = pathlib.Path(__file__).parents[2]
TINY = f'{ROOT}/configs/ssl/isog_clr.py:tiny'


def source(label, names=()):
  """Examples whose only pixel says which row of the set they are."""
  image = np.arange(len(label), dtype=np.uint8)[:, None, None, None]
  label = np.asarray(label, np.int32)
  read = lambda rows: {'image': image[rows], 'label': label[rows]}  # noqa: E731
  return sources.Source('made', 'train', len(label), read, (1, 1, 1), names, (0.5,), (0.25,))


def captioned(label):
  """The same, each example captioned with the row of the set it is."""
  texts = lambda rows: [(f'row {row}',) for row in rows]  # noqa: E731
  return source(label)._replace(captions=Captions(('en',), 3, 9, len, '{}', texts))


def contents(found):
  batch = found.read(np.arange(found.num_examples))
  return batch['image'].ravel(), batch['label']


def sizes(found):
  return np.bincount(contents(found)[1]).tolist()


def load(**overrides):
  return resolve.load(TINY, {key.replace('__', '.'): str(value) for key, value in overrides.items()})


# --- which examples ---


def test_captions_are_those_of_the_kept_rows():
  found = long_tail(captioned([0, 1] * 20), ratio=10)
  rows = np.array([3, 0, 11])
  assert found.captions.texts(rows) == [(f'row {row}',) for row in contents(found)[0][rows]]
  assert found.num_examples == 22


def test_sizes_of_classes_fall_exponentially_from_the_first_to_the_last():
  thinned = long_tail(source(np.arange(200) % 4), ratio=27)
  assert sizes(thinned) == [50, 16, 5, 1]  # 50, 16.67, 5.56, 1.85
  assert sizes(long_tail(source(np.arange(200) % 4), ratio=8)) == [50, 25, 12, 6]
  assert sizes(long_tail(source(np.arange(30) % 3), ratio=1)) == [10, 10, 10]


def test_whole_sizes_are_not_lost_to_rounding():
  for root in range(1, 12):
    thinned = long_tail(source(np.arange(9 * root**2) % 3), ratio=root**2)
    assert sizes(thinned) == [3 * root**2, 3 * root, 3]


def test_the_largest_class_is_as_large_as_every_class_has_enough_for():
  label = np.repeat([0, 1, 2], [90, 12, 30])
  assert sizes(long_tail(source(label), ratio=4)) == [24, 12, 6]
  assert sizes(long_tail(source(label), ratio=64)) == [90, 11, 1]
  assert sizes(long_tail(source(label), ratio=4, largest=9)) == [9, 4, 2]


def test_the_kept_rows_are_the_set_s_own_in_its_order_and_none_twice():
  label = np.random.default_rng(0).integers(0, 4, 200)
  kept, labels = contents(long_tail(source(label), ratio=5, seed=3))
  assert (np.diff(kept.astype(int)) > 0).all()
  np.testing.assert_array_equal(labels, label[kept])


def test_rows_of_state_are_the_places_of_the_kept_examples():
  thinned = long_tail(source(np.arange(100) % 5), ratio=10)
  pixel, label = contents(thinned)
  for step in range(3):
    rows = sampling.planned(None, seed=0, num_examples=thinned.num_examples, batch_size=16)(step)
    batch = thinned.read(rows)
    assert rows.max() < thinned.num_examples == len(pixel) == 42
    np.testing.assert_array_equal(batch['image'].ravel(), pixel[rows])
    np.testing.assert_array_equal(batch['label'], label[rows])


def test_the_choice_depends_on_the_seed_alone():
  made = source(np.arange(200) % 4)
  once, again, other = (contents(long_tail(made, ratio=9, seed=seed))[0] for seed in (1, 1, 2))
  np.testing.assert_array_equal(once, again)
  assert len(once) != len(other) or (once != other).any()
  # The stream of the generator is promised never to change.
  kept = contents(long_tail(source(np.arange(40) % 4), ratio=9, seed=1))[0]
  assert kept.tolist() == [0, 2, 3, 4, 5, 7, 8, 12, 16, 20, 23, 24, 26, 27, 28, 32, 36]


def test_seeds_put_the_classes_in_different_orders_with_the_same_sizes():
  made = source(np.arange(200) % 4)
  orders = {tuple(np.argsort(sizes(long_tail(made, ratio=27, seed=seed)))) for seed in range(8)}
  assert len(orders) >= 4
  assert {tuple(sorted(sizes(long_tail(made, ratio=27, seed=seed)))) for seed in range(8)} == {(1, 5, 16, 50)}


def test_a_larger_ratio_keeps_a_part_of_what_a_smaller_keeps():
  made = source(np.arange(200) % 4)
  few, many = (set(contents(long_tail(made, ratio=ratio, seed=5))[0]) for ratio in (20, 5))
  assert few < many


def test_rows_without_a_label_are_left_out_and_class_numbers_may_have_gaps():
  label = np.tile([2, -1, 7, 40], 10)
  thinned = long_tail(source(label), ratio=4)
  assert np.unique(contents(thinned)[1], return_counts=True)[1].tolist() == [10, 5, 2]


def test_what_does_not_depend_on_the_rows_stays():
  made = source(np.arange(60) % 3, ('a', 'b', 'c'))
  thinned = long_tail(made, ratio=2)
  kept = ('name', 'split', 'input_shape', 'label_names', 'mean', 'std')
  assert [getattr(thinned, key) for key in kept] == [getattr(made, key) for key in kept]


@pytest.mark.parametrize(
  ('label', 'options', 'message'),
  [
    (np.arange(9) % 3, dict(ratio=0.5), 'at least 1, not 0.5'),
    (np.arange(9) % 3, dict(ratio=float('inf')), 'at least 1, not inf'),
    (np.arange(9) % 3, dict(ratio=float('nan')), 'at least 1, not nan'),
    (np.arange(9) % 3, dict(ratio=2, seed=-1), 'imbalance_seed must be at least 0, but it is -1'),
    (np.arange(9) % 3, dict(ratio=4), "imbalance=4 leaves no example of the rarest class of 'made', whose most .* 3"),
    (np.arange(9) % 3, dict(ratio=1, largest=0), 'leaves no example .* keeps 0'),
    (np.arange(9) % 3, dict(ratio=1, largest=4), "largest=4 needs 4 examples of class 'a', of which 'made' has 3"),
    (np.repeat([0, 1, 2], [9, 1, 9]), dict(ratio=4, largest=9), "needs 5 examples of class 'b', of which 'made' has 1"),
    (np.zeros(9), dict(ratio=2), "examples of two classes or more, but 'made' has 1"),
    (np.full(9, -1), dict(ratio=2), "two classes or more, but 'made' has 0"),
  ],
)
def test_tails_that_cannot_be_had_are_refused(label, options, message):
  with pytest.raises(Refusal, match=message):
    long_tail(source(label, ('a', 'b', 'c')), **options)


# --- in a run ---


def test_a_config_of_all_examples_says_nothing_of_imbalance():
  assert set(load().data) == {'source', 'views', 'num_views', 'batch_size'}
  assert load(data__imbalance=1) == load()
  thinned = load(data__imbalance=1, data__imbalance_largest=20)
  assert (thinned.data.imbalance, thinned.data.imbalance_largest, thinned.data.imbalance_seed) == (1.0, 20, None)
  assert resolve.complete(thinned) == thinned


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    (dict(data__imbalance_seed=1), 'imbalance_seed is set, but nothing is left out'),
    (dict(data__imbalance=0.1), 'at least 1, not 0.1'),
    (dict(data__imbalance='ten'), 'imbalance'),
    (dict(data__imbalance=1000), "leaves no example of the rarest class of 'digits'"),
    (dict(data__imbalance=100, data__batch_size=400), 'batch_size 400 is larger than the data set'),
  ],
)
def test_runs_on_tails_that_cannot_be_had_are_refused(overrides, message):
  with pytest.raises(Refusal, match=message):
    setup.build(load(**overrides))


def test_a_run_trains_on_the_tail_and_is_tested_on_all_classes_alike():
  run = setup.build(load(data__imbalance=10, data__imbalance_seed=1))
  train, test = run.sources['train'], run.sources['test']
  counts = np.sort(sizes(train))
  assert counts[-1] // counts[0] == 10 and run.info.num_examples == train.num_examples == counts.sum()
  assert test.num_examples == 360
  state = jax.eval_shape(run.fresh).state['per_sample']
  assert state.temperature.shape == state.visited.shape == (train.num_examples,)
  assert run.info.steps_per_epoch == train.num_examples // 32


def test_a_run_on_a_tail_is_evaluated_there_or_on_all_examples_as_asked(tmp_path):
  config = load(data__imbalance=10, train__devices=1)
  run = setup.build(config)
  workdir.enter(str(tmp_path / 'run'), config, run.sources)
  same = serve.sources(resolve.load(str(tmp_path / 'run')), str(tmp_path / 'run'))
  assert not identity.differences(identity.describe(run.sources), identity.describe(same))
  whole = resolve.load(str(tmp_path / 'run'), {'data.imbalance': '1'})
  found = serve.sources(whole, str(tmp_path / 'run'))
  assert found['train'].num_examples == 1437
  # The state of every example keeps the shape that it was trained with.
  assert serve.build(whole, found, str(tmp_path / 'run')).info.num_examples == run.info.num_examples
  assert serve.build(whole, found, str(tmp_path / 'run')).sources['train'].num_examples == 1437
