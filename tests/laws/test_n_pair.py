"""N-pair from its config: which batches it needs, and what it learns of them."""

import jax
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.data.source import labels
from contrastive_jax.types import Refusal

NAME = 'metric/n_pair'


def test_pairs_are_the_two_examples_of_each_class_of_the_batch():
  of = tiny.run(NAME)
  state, raw = tiny.fresh(of), tiny.batches(of, 1)[0]
  label = np.asarray(raw['label'])
  np.testing.assert_array_equal(label, labels(of.sources['train'])[np.asarray(raw['index'])])
  g = np.random.default_rng(0).standard_normal((len(label), 5)).astype(np.float32)
  got = of.method.loss(state.params, state.state, {'g': g}, raw, key=jax.random.key(0), step=0).loss
  first, second = (np.array([g[label == each][place] for each in np.unique(label)]) for place in (0, 1))
  assert len(first) == 8
  np.testing.assert_allclose(got, losses.n_pair(first, second, penalty=0.02).mean(), rtol=1e-5)


def gap(of, state) -> float:
  """How much more alike test images of one class are than those of two: a difference of mean cosines."""
  found = of.embedder.at(state.params, state.state)('test')
  cosine = np.asarray(found.projection) @ np.asarray(found.projection).T
  same = found.label[:, None] == found.label
  return cosine[same & ~np.eye(len(same), dtype=bool)].mean() - cosine[~same].mean()


def test_training_sets_the_classes_of_held_out_images_apart():
  of = tiny.run(NAME, train__steps='150', schedule__learning_rate='0.005', data__views__name='unaltered')
  state, found = tiny.fresh(of), []
  before = gap(of, state)
  for batch in tiny.batches(of, 150):
    state, metrics = of.step(state, batch)
    found.append(float(metrics['loss']))
  assert np.mean(found[-10:]) < np.log(8) < found[0]  # a guess among eight
  assert gap(of, state) > before + 0.3


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(data__per_class='0'), 'config.data.per_class=2, but it is 0'),
    (dict(data__per_class='4'), 'config.data.per_class=2, but it is 4'),
    (dict(data__num_views='2'), r'config\.data\.num_views=1 is needed, but it is 2'),
    (dict(data__batch_size='32'), 'needs 16 classes of 2 examples or more, but the data set has 10'),
    (dict(method__distance='far'), "unknown distance 'far'"),
    (dict(method__penalti='1'), "did you mean 'penalty'"),
  ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(options, message):
  with pytest.raises(Refusal, match=message):
    tiny.run(NAME, **options).check()
