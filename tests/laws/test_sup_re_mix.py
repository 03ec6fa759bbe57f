"""SupReMix from its config: what it needs of the data, and what it learns."""

import jax
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.types import Refusal

NAME = 'metric/sup_re_mix'
OF_PATHS = dict(data__source__name='paths', data__views__name='unaltered')


def of_features(**options):
  """Random features of a batch [B, V, D], the batch, a key, and the loss that a run makes of them."""
  of = tiny.run(NAME, **options)
  state, raw = tiny.fresh(of), jax.device_get(tiny.batches(of, 1)[0])
  g, key = np.random.default_rng(0).standard_normal((len(raw['index']), 2, 5)).astype(np.float32), jax.random.key(3)
  return g, raw, key, of.method.loss(state.params, state.state, {'g': g}, raw, key=key, step=0).loss


def test_labels_are_targets_in_units():
  g, raw, key, got = of_features(method__unit='20', method__window='2')
  label = np.round(raw['target'][:, 0] / 20)
  assert 2 < len(np.unique(label)) < len(label)
  z = losses.unit(g.swapaxes(0, 1))
  np.testing.assert_allclose(got, losses.sup_re_mix(z, label, key=key, window=2.0).mean(), rtol=1e-5)


def test_in_a_unit_that_tells_no_two_apart_without_mixtures_it_is_sup_con_of_one_class():
  g, _, _, got = of_features(method__unit='1e4', method__mix_negative='False', method__mix_positive='False')
  alike = np.zeros(len(g), np.int32)
  np.testing.assert_allclose(
    got, losses.sup_con(losses.unit(g.swapaxes(0, 1)), alike, temperature=0.3).mean(), rtol=1e-5
  )


def test_training_orders_patients_by_their_numbers():
  of = tiny.run(NAME, train__steps='150', schedule__learning_rate='0.01')
  state, loss = tiny.fresh(of), []
  for batch in tiny.batches(of, 150):
    state, metrics = of.step(state, batch)
    loss.append(float(metrics['loss']))
  assert np.mean(loss[-10:]) < np.mean(loss[:10]) - 0.1
  orders = []
  for each in (tiny.fresh(of), state):
    found = of.embedder.at(each.params, each.state)('train')
    cosine, apart = found.projection @ found.projection.T, np.abs(found.target - found.target.T)
    pairs = np.triu_indices(len(apart), 1)
    orders.append(-np.corrcoef(np.asarray(cosine)[pairs], apart[pairs])[0, 1])
  assert orders[1] > orders[0] + 0.1


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(data__source__name='digits', data__views__name='digits'), "numbers, field 'target' of the data"),
    (OF_PATHS, "one number an example is needed, but field 'target' of the data has 4"),
    (dict(method__unit='0'), r'config\.method\.unit must be > 0, but it is 0'),
    (dict(method__weight='l3'), "unknown weight 'l3'"),
    (dict(method__temperature='0'), 'temperature must be > 0'),
    (dict(method__key='1'), r"unknown key 'config\.method\.key'"),
  ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(options, message):
  with pytest.raises(Refusal, match=message):
    tiny.run(NAME, **options).check()
