"""SIRL from its config: what it needs of the data, and what it learns."""

import functools

import compiling
import jax
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import resolve, setup
from contrastive_jax.types import Refusal


def test_data_without_queries_are_refused_before_the_first_step():
  config = resolve.load(f'{tiny.ROOT}/configs/metric/sirl.py:tiny', {'data.source.name': 'digits'})
  with pytest.raises(Refusal, match="'partner' and 'odd'"):
    setup.build(config).check()


def test_a_negative_margin_is_refused_before_the_first_step():
  with pytest.raises(Refusal, match='margin must be at least 0'):
    tiny.run('metric/sirl', method__margin='-0.5').check()


def test_views_besides_the_first_are_refused_before_the_first_step():
  with pytest.raises(Refusal, match=r'config\.data\.num_views=1 is needed, but it is 2'):
    tiny.run('metric/sirl', data__num_views='2').check()


def test_the_loss_is_of_the_outputs_of_the_encoder_as_they_are():
  of = tiny.run('metric/sirl')
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  batch = compiling.jit(tiny.views(of))(raw, np.int32(0))
  encode = functools.partial(of.method.encode, key=jax.random.key(0), step=0, train=True)
  features, _ = compiling.jit(encode)(state.params, state.state, batch)
  out = of.method.loss(state.params, state.state, features, batch, key=jax.random.key(0), step=0)
  apply = compiling.jit(resolve.build(tiny.config('metric/sirl').encoder, 'encoder').apply)
  three = [apply(state.params['encoder'], {}, raw[name])[0] for name in ('series', 'partner', 'odd')]
  np.testing.assert_allclose(out.loss, losses.similarity_query(*three, margin=1.0).mean(), rtol=1e-5)
  assert np.ptp(np.linalg.norm(three[0], axis=1)) > 0.01


def test_training_raises_agreement_with_the_answers():
  options = dict(train__steps='60', schedule__learning_rate='0.01', data__source__queries='32')
  of = tiny.run('metric/sirl', **options)
  state, found = tiny.fresh(of), []
  for batch in tiny.batches(of, 60):
    state, metrics = of.step(state, batch)
    found.append(float(metrics['agreement']))
  assert found[-1] > 0.9 > found[0]
