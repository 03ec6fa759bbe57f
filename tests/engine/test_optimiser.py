"""Learning rates by step."""

import pytest

from contrastive_jax.engine import optimiser


@pytest.mark.parametrize('schedule', [optimiser.constant, optimiser.cosine])
def test_a_warmup_shorter_than_half_a_step_starts_at_the_peak(schedule):
  rate = schedule(10, 256, learning_rate=0.3, warmup=0.04)
  assert float(rate(0)) == pytest.approx(0.3)
  assert float(rate(1)) > 0.25


@pytest.mark.parametrize('schedule', [optimiser.constant, optimiser.cosine])
def test_a_warmup_rises_linearly_to_the_peak(schedule):
  rate = schedule(10, 256, learning_rate=0.3, warmup=0.4)
  assert [float(rate(step)) for step in range(5)] == pytest.approx([0, 0.075, 0.15, 0.225, 0.3])


def test_a_constant_schedule_stays_at_its_peak_after_the_warmup():
  rate = optimiser.constant(10, 512, learning_rate=0.3, warmup=0.2)
  assert [float(rate(step)) for step in (2, 5, 9, 100)] == pytest.approx([0.6] * 4)
