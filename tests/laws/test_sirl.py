"""SIRL from its config: what it needs of the data, and what it learns."""

import pytest
import tiny

from contrastive_jax.engine import resolve, setup
from contrastive_jax.types import Refusal


def test_data_without_queries_are_refused_before_the_first_step():
  config = resolve.load(f'{tiny.ROOT}/configs/metric/sirl.py:tiny', {'data.source.name': 'digits'})
  with pytest.raises(Refusal, match="'partner' and 'odd'"):
    setup.build(config).check()


def test_a_negative_margin_is_refused_before_the_first_step():
  with pytest.raises(Refusal, match='margin must be at least 0'):
    tiny.run('metric/sirl', method__margin='-0.5').check()


def test_training_raises_agreement_with_the_answers():
  options = dict(train__steps='60', schedule__learning_rate='0.01', data__source__queries='32')
  of = tiny.run('metric/sirl', **options)
  state, found = tiny.fresh(of), []
  for batch in tiny.batches(of, 60):
    state, metrics = of.step(state, batch)
    found.append(float(metrics['agreement']))
  assert found[-1] > 0.9 > found[0]
