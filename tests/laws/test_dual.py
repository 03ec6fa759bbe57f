"""Two towers in pairs: with wrong captions, with a language as pivot, with captions that are missing."""

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import gradient
from contrastive_jax.types import Refusal

TAU = 0.07
PIVOT = dict(method__loss='symmetric_info_nce', method__pivot='True')


def first(name: str, without: tuple[tuple[int, ...], ...] = (), **overrides):
  """A run's fresh state, its first batch less some captions, that with views, and the unit-norm features."""
  of = tiny.run(name, **overrides)
  state, (batch,) = tiny.fresh(of), tiny.batches(of, 1)
  mask = batch['caption_mask']
  for place in without:
    mask = mask.at[place].set(False)
  batch = {**batch, 'caption_mask': mask}
  views = tiny.views(of)(batch, np.int32(0))
  features, _ = of.method.encode(state.params, state.state, views, key=jax.random.key(0), step=0, train=True)
  return state, batch, views, {name: losses.unit(value) for name, value in features.items()}


def loss_of(name: str, state, batch, **overrides) -> float:
  return float(tiny.gradients(name, **overrides)(state, batch)[0].loss)


def clip(x, y, mask):
  return losses.mean(losses.symmetric_info_nce(x, y, x_mask=mask, y_mask=mask, temperature=TAU), mask)


def test_captions_of_variants_are_further_candidates_of_images():
  state, batch, views, unit = first('multimodal/neg_clip')
  (x, t), mask = (unit[name][:, 0] for name in ('g', 't')), views['negative_caption_mask']
  assert unit['n'].shape[:2] == mask.shape == (32, 2) and 0 < mask.sum() < mask.size
  found = loss_of('multimodal/neg_clip', state, batch)
  want = losses.neg_clip(x, t, unit['n'], negatives_mask=mask, temperature=TAU).mean()
  np.testing.assert_allclose(found, want, rtol=2e-5)
  assert found > clip(x, t, jnp.ones(32, bool)) + 1e-4
  of = tiny.run('multimodal/neg_clip')
  texts = of.method.embed(state.params, state.state, {'caption': batch['negative_caption']})['texts']
  np.testing.assert_allclose(unit['n'][mask], texts[mask], rtol=1e-5, atol=1e-6)


def test_with_a_pivot_images_meet_its_captions_and_these_the_others():
  missing = ((3, 0), (5, 2), (6, 1), (6, 2))
  state, batch, views, unit = first('multimodal/one_to_k', missing, **PIVOT)
  x, t, mask = unit['g'][:, 0], unit['t'], views['caption_mask']
  pairs = [clip(x, t[:, 0], mask[:, 0])]
  pairs += [clip(t[:, 0], t[:, k], mask[:, 0] & mask[:, k]) for k in range(1, 4)]
  np.testing.assert_allclose(loss_of('multimodal/one_to_k', state, batch, **PIVOT), np.mean(pairs), rtol=2e-5)


def test_without_a_pivot_images_meet_the_captions_of_every_slot():
  missing, pairs = ((3, 0), (5, 2)), dict(method__loss='symmetric_info_nce')
  state, batch, views, unit = first('multimodal/one_to_k', missing, **pairs)
  x, t, mask = unit['g'][:, 0], unit['t'], views['caption_mask']
  want = np.mean([clip(x, t[:, k], mask[:, k]) for k in range(4)])
  np.testing.assert_allclose(loss_of('multimodal/one_to_k', state, batch, **pairs), want, rtol=2e-5)


def test_the_terms_of_the_gap_are_those_of_the_pairs_that_exist():
  name, kept = 'multimodal/contrastive_gap', np.delete(np.arange(32), [3, 8])
  state, batch, views, unit = first(name, ((3,), (8,)))
  x, t = (unit[of][:, 0][kept] for of in ('g', 't'))
  assert views['caption_mask'][kept].all()
  want = losses.clip_with_geometry(x, t, temperature=TAU).mean()
  np.testing.assert_allclose(loss_of(name, state, batch), want, rtol=2e-5)


@pytest.mark.parametrize('loss', ['symile', 'pairwise_clip'])
def test_a_tuple_is_an_image_and_its_caption_in_each_language_less_those_that_are_missing(loss):
  name, overrides = 'multimodal/symile', dict(method__loss=loss, method__temperature='0.07')
  state, batch, views, unit = first(name, ((3, 0), (5, 1), (6, 0), (6, 1)), **overrides)
  reps, there = [unit['g'][:, 0], *jnp.swapaxes(unit['t'], 0, 1)], views['caption_mask']
  assert len(reps) == 3 and there.shape == (32, 2) and not there[6].any()
  given = dict(mask=jnp.concatenate([jnp.ones((32, 1), bool), there], 1), temperature=TAU)
  if loss == 'symile':
    given['key'] = gradient.step_keys(tiny.run(name, **overrides).seed, 0).loss
  want = getattr(losses, loss)(reps, **given).mean()
  np.testing.assert_allclose(loss_of(name, state, batch, **overrides), want, rtol=2e-5)
  whole = {**batch, 'caption_mask': jnp.ones_like(batch['caption_mask'])}
  assert abs(loss_of(name, state, whole, **overrides) - want) > 1e-3


@pytest.mark.parametrize(
  ('name', 'overrides', 'message'),
  [
    ('one_to_k', dict(method__pivot='True'), "pivot pairs captions with captions, but loss 'one_to_k' is of images"),
    ('neg_clip', dict(data__source__negatives='0'), r'needs wrong captions: .* config\.data\.source\.negatives=2'),
    ('neg_clip', dict(method__negatives_mask='1'), r"unknown key 'config\.method\.negatives_mask'"),
    ('symile', dict(method__key='1'), r"unknown key 'config\.method\.key'"),
    ('symile', dict(method__pivot='True'), "pivot pairs captions with captions, but loss 'symile' is of images"),
    ('clip', dict(method__temperature='0.001'), r'temperature=0\.001 is below config\.method\.lowest_temperature'),
  ],
)
def test_what_does_not_fit_is_refused(name, overrides, message):
  with pytest.raises(Refusal, match=message):
    tiny.run(f'multimodal/{name}', **overrides).check()


def test_micro_batches_of_drawn_captions_give_the_gradient_of_the_whole_batch():
  """Of three slots one is drawn, and some captions are missing: the loss must see the masks of those drawn."""
  languages = "('en','de','ja')"
  of = tiny.run('multimodal/clip', data__source__languages=languages, data__source__keywords='False')
  raw = tiny.batches(of, 1)[0]
  raw = {**raw, 'caption_mask': raw['caption_mask'].at[::2, 1:].set(False).at[1::4, 0].set(False)}
  state = tiny.fresh(of)
  want, wanted = compiling.jit(gradient.plain(tiny.method_of(of), of.expand))(state, raw)
  got, found = tiny.cached(of, 8)(state, raw)
  assert float(got.loss) == pytest.approx(float(want.loss), rel=1e-5)
  assert float(got.metrics['positive_similarity']) == pytest.approx(
    float(want.metrics['positive_similarity']), abs=1e-5
  )
  assert tiny.distance(found, wanted) < 1e-4
