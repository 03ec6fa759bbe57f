"""SepCLR by brute force in float64, and what it implies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.types import Refusal

WEIGHTS = dict(salient_weight=3.0, background_weight=5.0, joint_weight=0.7)


def kernel(x, variance):
  return np.exp(-np.square(x[:, None] - x[None]).sum(-1) / (2 * variance))


def unif(x, variance):
  return np.log(kernel(x, variance)[np.triu_indices(len(x), 1)].mean())


def by_definition(c, s, target, variance, salient_weight, background_weight, joint_weight):
  """The loss of two views, term by term as published."""
  shown = np.where(target[:, None], s, 0)
  common = (np.square(c[0] - c[1]).sum(-1) / (2 * variance)).mean() + 2 * np.mean([unif(v, variance) for v in c])
  aligned = (np.square(s[0] - s[1]).sum(-1)[target] / (2 * variance)).mean() if target.any() else 0.0
  salient = aligned + 2 * np.mean([unif(v, variance) for v in shown])
  nothing = (np.square(s).sum(-1)[:, ~target] / (2 * variance)).mean() if not target.all() else 0.0
  kernels = [kernel(a, variance) * kernel(b, variance) for a, b in zip(shown, c, strict=True)]
  joint = np.mean([np.log(each.mean(1)).mean() for each in kernels])
  return common + salient_weight * salient + background_weight * nothing + joint_weight * joint


def example(views=2, b=9, seed=0):
  random = np.random.default_rng(seed)
  c = random.normal(size=(views, b, 4))
  c /= np.linalg.norm(c, axis=-1, keepdims=True)
  return c, random.normal(size=(views, b, 3)), random.random(b) < 0.6


def loss(c, s, target, **options):
  return losses.sep_clr(jnp.float32(c), jnp.float32(s), jnp.asarray(target), **options)


@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(4, 5)], ids=['dense', 'chunked'])
@pytest.mark.parametrize('variance', [0.5, 1.3])
def test_sep_clr_equals_its_definition(variance, fold):
  c, s, target = example()
  got = loss(c, s, target, variance=variance, **WEIGHTS, fold=fold)
  assert got.shape == (9,)
  np.testing.assert_allclose(got.mean(), by_definition(c, s, target, variance, **WEIGHTS), rtol=2e-5)


@pytest.mark.parametrize('members', [True, False])
def test_a_set_without_members_adds_nothing_and_leaves_gradients_finite(members):
  c, s, _ = example()
  target = np.full(9, members)
  np.testing.assert_allclose(
    loss(c, s, target, **WEIGHTS).mean(), by_definition(c, s, target, 0.5, **WEIGHTS), rtol=2e-5
  )
  gradient = jax.grad(lambda s: loss(c, s, target, **WEIGHTS).mean())(jnp.float32(s))
  assert jnp.isfinite(gradient).all()


def test_without_background_the_salient_embedding_is_shown_whole():
  c, s, _ = example()
  everyone = np.ones(9, bool)
  of_salient = dict(salient_weight=1.0, background_weight=7.0, joint_weight=0.0)
  common_alone = loss(c, s, everyone, salient_weight=0.0, background_weight=0.0, joint_weight=0.0).mean()
  aligned = np.square(s[0] - s[1]).sum(-1).mean()  # 2 t is 1
  expected = aligned + 2 * np.mean([unif(v, 0.5) for v in s])
  np.testing.assert_allclose(loss(c, s, everyone, **of_salient).mean() - common_alone, expected, rtol=1e-4)


def test_uniformity_of_coincident_points_is_zero():
  x = jnp.broadcast_to(jnp.array([0.3, -2.0, 1.0]), (6, 3))
  np.testing.assert_allclose(losses.uniformity(x, t=1.0), 0, atol=1e-6)


def test_the_background_term_vanishes_only_where_salient_vectors_of_the_background_do():
  c, s, target = example()
  only = dict(salient_weight=0.0, joint_weight=0.0)

  def term(s):
    both = [loss(c, s, target, background_weight=w, **only).mean() for w in (1.0, 0.0)]
    return float(both[0] - both[1])

  silent = np.where(target[:, None], s, 0)
  assert abs(term(silent)) < 1e-6
  silent[0, np.flatnonzero(~target)[0], 1] = 0.5
  assert term(silent) > 1e-3


def test_the_joint_entropy_of_a_collapsed_batch_is_zero_and_never_above():
  collapsed = losses.kernel_negative_entropy(jnp.ones((7, 3)))
  np.testing.assert_allclose(collapsed, np.zeros(7), atol=1e-6)
  for scale in (0.1, 1.0, 10.0):
    values = losses.kernel_negative_entropy(scale * jax.random.normal(jax.random.key(0), (20, 5)))
    assert (values <= 1e-6).all() and (values >= -np.log(20) - 1e-5).all()


def test_the_joint_entropy_with_a_constant_common_part_is_that_of_the_salient_part_alone():
  _, s, target = example()
  shown = np.where(target[:, None], s[0], 0)
  both = np.concatenate([shown, np.broadcast_to([0.6, 0.8], (9, 2))], axis=1)
  alone = losses.kernel_negative_entropy(jnp.float32(shown))
  np.testing.assert_allclose(losses.kernel_negative_entropy(jnp.float32(both)), alone, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(alone, np.log(kernel(shown, 0.5).mean(1)), rtol=1e-5)


def test_the_kernel_of_two_embeddings_side_by_side_is_the_product_of_theirs():
  c, s, _ = example()
  both = losses.kernel_negative_entropy(jnp.float32(np.concatenate([s[0], c[0]], axis=1)), variance=0.7)
  np.testing.assert_allclose(both, np.log((kernel(s[0], 0.7) * kernel(c[0], 0.7)).mean(1)), rtol=1e-5)


def test_more_views_than_two_are_the_mean_over_pairs_and_over_views():
  c, s, target = example(views=3)
  pairs = [by_definition(c[[v, w]], s[[v, w]], target, 0.5, **WEIGHTS) for v, w in ((0, 1), (0, 2), (1, 2))]
  np.testing.assert_allclose(loss(c, s, target, **WEIGHTS).mean(), np.mean(pairs), rtol=2e-5)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda c, s, t: (c[:1], s, t), 'V >= 2 views are needed, but common'),
    (lambda c, s, t: (c, s[:, :5], t), 'same views and instances'),
    (lambda c, s, t: (c, s, t.astype(int)), 'target must be boolean'),
  ],
)
def test_arrays_that_do_not_fit_are_refused(change, said):
  with pytest.raises(Refusal, match=said):
    loss(*change(*example()))


def test_a_variance_of_zero_is_refused():
  with pytest.raises(Refusal, match='variance must be > 0'):
    loss(*example(), variance=0.0)
