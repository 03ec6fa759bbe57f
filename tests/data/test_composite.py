"""Two labels on one image: digits pasted on digits, so that no set has to be installed."""

import numpy as np
import pytest

from contrastive_jax.data import sources
from contrastive_jax.types import Refusal

SMALL = dict(base='digits', pasted='digits', pasted_size=4, train_size=300, test_size=50)


def whole(**options):
  source = sources.composite(**{**SMALL, **options})
  return source, source.read(np.arange(source.num_examples))


def test_outside_of_its_place_nothing_changes_and_inside_the_brighter_pixel_stays():
  _, plain = whole(pasted_share=0.0)
  _, with_digit = whole(pasted_share=1.0)
  base, image = plain['image'].astype(int), with_digit['image'].astype(int)
  assert (image >= base).all()
  for below, above in zip(base, image, strict=True):
    rows, cols, _ = np.nonzero(above != below)
    assert np.ptp(rows) < 4 and np.ptp(cols) < 4
  assert (image != base).any((1, 2, 3)).mean() > 0.95


def test_a_composite_without_pasted_images_is_the_faded_base():
  source, batch = whole(pasted_share=0.0, fade=0.5, train_size=None)
  base = sources.digits().read(np.arange(source.num_examples))
  np.testing.assert_array_equal(batch['image'], np.round(base['image'] * np.float32(0.5)).astype(np.uint8))
  np.testing.assert_array_equal(batch['label'], base['label'])
  assert (batch['label_pasted'] == -1).all()


def test_a_pasted_image_of_its_own_size_is_there_pixel_by_pixel():
  _, batch = whole(pasted_size=None, fade=0.0)
  of_set = sources.digits().read(np.arange(1437))
  known = {image.tobytes(): label for image, label in zip(of_set['image'], of_set['label'], strict=True)}
  assert [known[image.tobytes()] for image in batch['image']] == batch['label_pasted'].tolist()


@pytest.mark.parametrize('share', [0.25, 0.5, 1.0])
def test_the_share_of_images_with_something_pasted_is_exact(share):
  _, batch = whole(pasted_share=share)
  assert (batch['label_pasted'] >= 0).sum() == round(share * 300)


def test_images_are_the_same_whichever_label_is_wanted():
  one, of_base = whole(label='base', pasted_share=0.5)
  two, of_pasted = whole(label='pasted', pasted_share=0.5)
  np.testing.assert_array_equal(of_base['image'], of_pasted['image'])
  np.testing.assert_array_equal(of_base['label'], of_pasted['label_base'])
  np.testing.assert_array_equal(of_pasted['label'], of_base['label_pasted'])
  assert (one.mean, one.std) == (two.mean, two.std)


def test_labels_are_independent():
  _, batch = whole(train_size=None)
  table = np.zeros((10, 10))
  np.add.at(table, (batch['label_base'], batch['label_pasted']), 1)
  expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
  assert (np.square(table - expected) / expected).sum() < 81 + 3 * np.sqrt(2 * 81)  # chi squared of 9 x 9


def test_rows_are_read_alike_alone_and_together_and_a_seed_makes_others():
  source, batch = whole(pasted_share=0.5)
  for row in (0, 7, 299):
    np.testing.assert_array_equal(source.read(np.array([row]))['image'][0], batch['image'][row])
  assert (whole(pasted_share=0.5, seed=1)[1]['image'] != batch['image']).any()


def test_both_splits_are_normalised_by_the_training_images():
  train, test = (sources.composite(split=split, **SMALL) for split in sources.SPLITS)
  assert (train.mean, train.std) == (test.mean, test.std)
  assert (train.num_examples, test.num_examples) == (300, 50)
  images = train.read(np.arange(300))['image'] / 255
  np.testing.assert_allclose(train.mean, images.mean(), rtol=1e-5)


def test_resampling_keeps_a_constant_and_interpolates_a_ramp():
  from contrastive_jax.data.composite import _interpolation

  np.testing.assert_allclose(_interpolation(8, 14).sum(1), 1, rtol=1e-6)
  ramp = _interpolation(8, 16) @ np.arange(8)
  np.testing.assert_allclose(np.diff(ramp)[1:-1], 0.5, rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    (dict(label='bace'), "unknown label 'bace'; did you mean 'base'"),
    (dict(base='digts'), "unknown source 'digts' as base; did you mean 'digits'"),
    (dict(pasted='arrays'), "source 'arrays' needs options of its own"),
    (dict(pasted_share=1.5), 'pasted_share is 1.5; a value from 0 to 1'),
    (dict(fade=-0.1), 'fade is -0.1'),
    (dict(pasted_size=9), r'\[9, 9\] pixels'),
    (dict(train_size=5000), '5000 images are wanted'),
    (dict(seed=-1), 'seed must be at least 0'),
  ],
)
def test_what_cannot_be_made_is_refused(options, said):
  with pytest.raises(Refusal, match=said):
    sources.composite(**{**SMALL, **options})
