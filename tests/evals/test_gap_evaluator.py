"""The gap between images and captions of a split."""

import jax
import numpy as np
import pytest
from captioned import Fixed, split

from contrastive_jax.evals import gap
from contrastive_jax.types import Refusal


def run(embedded, **options):
  return gap.make(**options).run(Fixed(test=embedded))


def test_the_gap_is_that_of_images_and_their_first_captions():
  embedded = split(n=60, missing=0.4)
  texts, there = embedded.texts, embedded.texts.mask.any(1)
  first = texts.projection[np.arange(60), texts.mask.argmax(1)]
  want = gap.modality_gap(embedded.projection[there], first[there])
  assert run(embedded) == pytest.approx(want, rel=1e-5) and set(want) == set(gap.GLOSSARY)
  assert not there.all()


def test_a_slot_has_a_gap_of_its_own_and_captions_that_move_away_a_larger_one():
  embedded = split(n=60, missing=0.3)
  there = embedded.texts.mask[:, 2]
  want = gap.modality_gap(embedded.projection[there], embedded.texts.projection[there, 2])
  assert run(embedded, slot='ja') == pytest.approx(want, rel=1e-5)
  near, far = run(split(n=60)), run(split(n=60, shift=3.0))
  assert far['gap/centroid_distance'] > near['gap/centroid_distance'] + 0.5
  assert far['gap/separability'] > 0.9 > near['gap/separability']


def test_rows_over_devices_have_the_gap_of_one(rows_sharding):
  embedded = split(n=64)
  placed = embedded._replace(projection=jax.device_put(embedded.projection, rows_sharding))
  assert run(placed) == pytest.approx(run(embedded), rel=1e-4)


def test_a_transfer_guard_changes_nothing():
  with jax.transfer_guard('disallow'):
    guarded = run(split())
  assert guarded == run(split())


def test_what_has_no_captions_there_is_refused():
  with pytest.raises(Refusal, match=r"split 'test' has no captions in 'fr'.*known: de, en, ja"):
    run(split(), slot='fr')
  with pytest.raises(Refusal, match='gap evaluator needs captions'):
    run(split()._replace(texts=None))
  with pytest.raises(Refusal, match='5 or more are needed, but there are 4'):
    run(split(n=4))
  with pytest.raises(Refusal, match='seed must be at least 0'):
    gap.make(seed=-1)
