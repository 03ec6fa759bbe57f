"""Label smoothing, hard negative captions and several captions of an image: identities, optima and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax import losses
from contrastive_jax.losses import softmax
from contrastive_jax.types import Refusal

B, D, TAU = 6, 5, 0.25


def unit_rows(*shape, seed=0):
  rows = np.random.default_rng([seed, *shape]).normal(size=shape)
  return jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), jnp.float32)


X, Y = unit_rows(B, D), unit_rows(B, D, seed=1)
ORTHOGONAL = jnp.eye(2 * B)[:B], jnp.eye(2 * B)[B:]  # every similarity is 0
clip = jit(losses.symmetric_info_nce)
smoothed = jit(losses.symmetric_info_nce, static_argnames='label_smoothing')
neg_clip = jit(losses.neg_clip)
one_to_k = jit(losses.one_to_k, static_argnames=('divide_by', 'balanced'))


def close(got, want, tolerance=1e-5):
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# --- ALIGN: label smoothing ---


def test_align_without_smoothing_is_twice_clip_to_the_bit():
  of_x, of_y = jit(losses.info_nce_both, static_argnames='label_smoothing')(X, Y, temperature=TAU, label_smoothing=0.0)
  np.testing.assert_array_equal(of_x + of_y, 2 * clip(X, Y, temperature=TAU))


@pytest.mark.parametrize('eps', [0.0, 0.1, 0.9])
def test_align_of_constant_similarities_is_twice_log_b_for_any_smoothing(eps):
  close(2 * smoothed(*ORTHOGONAL, label_smoothing=eps), np.full(B, 2 * math.log(B)))


def of_gap(gap, eps):
  """The loss of pairs whose positive logits exceed all others by `gap`."""
  x = jnp.eye(B)
  return losses.symmetric_info_nce(x, x, temperature=1 / gap, label_smoothing=eps).mean()


@pytest.mark.parametrize('eps', [0.05, 0.1, 0.3])
def test_with_smoothing_the_optimal_gap_is_finite_and_the_minimum_positive(eps):
  best = math.log((1 - eps + eps / B) * B / eps)
  least = of_gap(best, eps)
  target = np.array([1 - eps + eps / B] + [eps / B] * (B - 1))
  close(least, -(target * np.log(target)).sum())  # the entropy of the target
  assert least > 0.1
  assert all(of_gap(best * factor, eps) > least for factor in (0.5, 0.9, 1.1, 2.0))
  close(jit(jax.grad(lambda gap: of_gap(gap, eps)))(best), 0, 1e-5)


def test_while_positives_dominate_the_temperature_falls():
  y = losses.unit(X + 0.1 * Y)
  for tau, eps in ((1.0, 0.1), (1.0, 0.0), (0.5, 0.1)):
    assert (
      jit(jax.grad(lambda tau, eps=eps: losses.symmetric_info_nce(X, y, temperature=tau, label_smoothing=eps).mean()))(
        tau
      )
      > 0
    )


def test_smoothing_shares_its_part_among_candidates_that_exist():
  keep = np.array([True, True, False, True, True, True])
  masks = dict(x_mask=keep, y_mask=keep)
  got = smoothed(X, Y, temperature=TAU, label_smoothing=0.2, **masks)
  close(got[keep], smoothed(X[keep], Y[keep], temperature=TAU, label_smoothing=0.2))
  assert got[2] == 0


@pytest.mark.parametrize('eps', [-0.1, 1.0])
def test_smoothing_that_is_no_share_is_refused(eps):
  with pytest.raises(Refusal, match=rf'label_smoothing must lie in \[0, 1\), but it is {eps}'):
    losses.info_nce(X, Y, label_smoothing=eps)


# --- NegCLIP ---


def directions(negatives, mask=None):
  """Each direction, from the gradient-free difference to CLIP's own direction."""
  both = neg_clip(X, Y, negatives, temperature=TAU, negatives_mask=mask)
  of_x, of_y = jit(losses.info_nce_both)(X, Y, temperature=TAU)
  return 2 * both - of_y, of_x


def test_neg_clip_without_negatives_is_clip_to_the_bit():
  np.testing.assert_array_equal(neg_clip(X, Y, jnp.zeros((B, 0, D)), temperature=TAU), clip(X, Y, temperature=TAU))


def test_negatives_that_are_masked_leave_clip_to_the_bit():
  mask = jnp.zeros((B, 2), bool)
  got = neg_clip(X, Y, unit_rows(B, 2, D), temperature=TAU, negatives_mask=mask)
  np.testing.assert_array_equal(got, clip(X, Y, temperature=TAU))


def test_negatives_are_further_columns_of_every_image():
  negatives = unit_rows(B, 2, D)
  columns = jnp.concatenate([Y, negatives.reshape(-1, D)])
  to_text, of_clip = directions(negatives)
  close(to_text, jit(losses.info_nce)(X, columns, temperature=TAU))
  assert (to_text > of_clip).all()


def test_negatives_raise_the_direction_from_images_and_leave_the_other_to_the_bit():
  plain = dict(temperature=TAU, x_id=None, y_id=None, x_mask=None, y_mask=None, fold='auto', precision=None)
  columns = {'z': unit_rows(2 * B, D)}
  (of_x, of_y), (more, same) = (softmax.directions(X, Y, **plain, negatives=each) for each in (None, columns))
  assert (more > of_x).all()
  np.testing.assert_array_equal(same, of_y)
  close(neg_clip(X, Y, columns['z'].reshape(B, 2, D), temperature=TAU), (more + same) / 2)


def test_a_mask_of_negatives_is_leaving_them_out():
  negatives, mask = unit_rows(B, 3, D), np.random.default_rng(0).random((B, 3)) < 0.5
  kept = jnp.asarray(np.asarray(negatives)[mask])
  want = jit(losses.info_nce)(X, jnp.concatenate([Y, kept]), temperature=TAU)
  close(directions(negatives, mask)[0], want)


def test_a_negative_like_the_caption_costs_the_image_log_2_at_least():
  to_text, _ = directions(Y[:, None])
  assert (to_text >= math.log(2) - 1e-6).all()


# --- 1-to-K ---


def captions(k=3):
  return unit_rows(B, k, D, seed=2)


@pytest.mark.parametrize('balanced', [False, True])
def test_one_to_k_of_one_caption_is_clip(balanced):
  close(one_to_k(X, Y[:, None], temperature=TAU, balanced=balanced), clip(X, Y, temperature=TAU))


@pytest.mark.parametrize('k', [1, 2, 4])
def test_the_sum_over_positives_is_at_least_k_log_k_and_is_reached(k):
  """With captions of the image's own direction, and cold, only the image's own captions share its softmax."""
  far = jnp.broadcast_to(jnp.eye(B)[:, None], (B, k, B))
  close(one_to_k(jnp.eye(B), far, temperature=0.01, divide_by=0.5), np.full(B, k * math.log(k)), 1e-4)
  assert (one_to_k(X, captions(k), temperature=TAU, divide_by=0.5, balanced=True) > k * math.log(k)).all()
  close(one_to_k(jnp.eye(B), far, temperature=0.01), np.full(B, math.log(k) / 2), 1e-4)


@pytest.mark.parametrize('k', [1, 3])
def test_one_to_k_of_constant_similarities_has_its_closed_form(k):
  x, y = ORTHOGONAL
  t = jnp.broadcast_to(y[:, None], (B, k, 2 * B))
  to_text, to_image = k * math.log(B * k), math.log(B)
  close(one_to_k(x, t), np.full(B, (to_text + to_image) / (2 * k)))
  close(one_to_k(x, t, divide_by=1.0), np.full(B, (to_text + to_image) / 2))
  close(one_to_k(x, t, balanced=True), np.full(B, (to_text / k + to_image) / 2))


def test_both_readings_come_from_the_two_published_sums():
  t = captions()
  of_x = jax.nn.logsumexp(X @ t.reshape(-1, D).T / TAU, axis=1)
  of_t = jax.nn.logsumexp(t.reshape(-1, D) @ X.T / TAU, axis=1).reshape(B, 3)
  positive = (X[:, None] * t).sum(-1) / TAU
  to_text, to_image = (of_x[:, None] - positive).sum(1).mean(), (of_t - positive).mean()
  close(one_to_k(X, t, temperature=TAU).mean(), (to_text + to_image) / 6)
  close(one_to_k(X, t, temperature=TAU, divide_by=1.0).mean(), (to_text + to_image) / 2)
  close(one_to_k(X, t, temperature=TAU, balanced=True).mean(), (to_text / 3 + to_image) / 2)


def test_permuting_the_languages_of_an_image_changes_nothing():
  t = captions()
  permuted = t.at[1].set(t[1, np.array([2, 0, 1])]).at[4].set(t[4, np.array([1, 0, 2])])
  close(one_to_k(X, permuted, temperature=TAU), one_to_k(X, t, temperature=TAU))


def test_captions_that_are_masked_are_neither_anchors_nor_candidates():
  t = captions()
  one = np.zeros((B, 3), bool)
  one[:, 1] = True
  close(one_to_k(X, t, mask=one, temperature=TAU), clip(X, t[:, 1], temperature=TAU))
  mask = np.random.default_rng(1).random((B, 3)) < 0.6
  garbage = jnp.where(mask[:, :, None], t, 1e3)
  got, want = (
    jit(jax.value_and_grad(lambda x, t: losses.one_to_k(x, t, mask=mask, temperature=TAU).sum()))(X, each)
    for each in (garbage, t)
  )
  close(got[0], want[0])
  close(got[1], want[1])


def test_an_image_without_captions_has_no_value_and_stays_a_candidate():
  t, mask = captions(), np.ones((B, 3), bool)
  mask[2] = False
  got = one_to_k(X, t, mask=mask, temperature=TAU)
  assert got[2] == 0
  kept = np.flatnonzero(mask[:, 0])
  assert (got[kept] > one_to_k(X[kept], t[kept], temperature=TAU)).all()
  away = one_to_k(X.at[2].set(-9 * X[2] / TAU), t, mask=mask, temperature=TAU)
  assert (jnp.abs(away - got)[kept] > 1e-6).all()


# --- refusals ---


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: losses.one_to_k(X, Y), r'x must be \[B, D\] and t \[B, K, D\]'),
    (lambda: losses.one_to_k(X[:4], captions()), r'with one B and D, but they are \(4, 5\) and \(6, 3, 5\)'),
    (lambda: losses.one_to_k(X, captions(), mask=np.ones((B, 2), bool)), r'mask of t must be \[6, 3\].*\[6, 2\]'),
    (lambda: losses.one_to_k(X, captions(), mask=np.ones((B, 3))), 'mask of t must be boolean'),
    (lambda: losses.one_to_k(X, captions(), divide_by=0), 'divide_by must be > 0'),
    (lambda: losses.one_to_k(X, captions(), temperature=-1), 'temperature must be > 0'),
    (lambda: losses.one_to_k(X, captions(), temperature=jnp.ones(B)), 'temperature must be a scalar'),
    (lambda: losses.neg_clip(X, Y, Y), r'negatives \[B, K, D\]'),
    (lambda: losses.neg_clip(X, Y[:3], captions()), 'as many rows as each other'),
    (lambda: losses.neg_clip(X, Y, captions(), negatives_mask=np.ones(B, bool)), r'mask of negatives must be \[6, 3\]'),
  ],
)
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(Refusal, match=message):
    call()
