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


# --- supervised ---

PUBLISHED = dict(width=(1e-5, 0.05, 0.05), background_width=(1.0, 0.05, 0.05))  # a class and two numbers
FREE = dict(salient_weight=3.0, joint_weight=0.7)


def supervised_by_definition(c, s, y, target, variance, width, background_width, salient_weight, joint_weight):
  """The supervised loss of two views c and one view s, pair by pair as its repository sums them."""

  def aligned(k):
    pairs = [(i, j) for j in np.flatnonzero(target) for i in np.flatnonzero(target) if i < j]
    near = [np.exp(-((y[i, k] - y[j, k]) ** 2) / width[k]) * (s[i, k] - s[j, k]) ** 2 for i, j in pairs]
    return np.mean(near) if near else 0.0

  shown = np.where(target[:, None], s, 0)
  nothing = np.square(s[~target]).mean(0) / background_width if not target.all() else np.zeros(s.shape[1])
  of_each = [unif(shown[:, [k]], variance) + (aligned(k) + nothing[k]) / 2 for k in range(s.shape[1])]
  common = (np.square(c[0] - c[1]).sum(-1) / (2 * variance)).mean() + np.mean([unif(v, variance) for v in c])
  joint = np.log((kernel(shown, variance) * kernel(c[0], variance)).mean(1)).mean()
  return common + salient_weight * np.mean(of_each) + joint_weight * joint


def with_attributes(b=9, seed=0):
  """Two common views, one salient, and attributes: a class and two numbers."""
  random = np.random.default_rng(seed)
  c, s, target = example(b=b, seed=seed)
  return c, s[:1], np.concatenate([random.integers(0, 3, (b, 1)), random.random((b, 2))], axis=1), target


def supervised(c, s, y, target, **options):
  arrays = (jnp.float32(x) for x in (c, s, y))
  return losses.sep_clr_supervised(*arrays, jnp.asarray(target), **{**PUBLISHED, **FREE, **options})


@pytest.mark.parametrize('fold', [losses.dense(), losses.chunked(4, 5)], ids=['dense', 'chunked'])
@pytest.mark.parametrize('variance', [0.5, 1.3])
def test_supervised_sep_clr_equals_its_definition(variance, fold):
  c, s, y, target = with_attributes()
  got = supervised(c, s, y, target, variance=variance, fold=fold)
  assert got.shape == (9,)
  expected = supervised_by_definition(c, s[0], y, target, variance, **PUBLISHED, **FREE)
  np.testing.assert_allclose(got.mean(), expected, rtol=2e-5)


def test_its_published_weights_are_its_defaults():
  c, s, y, target = with_attributes()
  y[:, 0] /= 2
  weights = dict(salient_weight=100.0, joint_weight=10.0)
  expected = supervised_by_definition(c, s[0], y, target, 0.5, (0.05,) * 3, (0.05,) * 3, **weights)
  arrays = (jnp.float32(x) for x in (c, s, y))
  np.testing.assert_allclose(losses.sep_clr_supervised(*arrays, target).mean(), expected, rtol=2e-5)


def test_of_several_salient_views_the_loss_is_the_mean_where_the_common_ones_agree():
  c, s, target = example()
  _, _, y, _ = with_attributes()
  alike = np.stack([c[0], c[0]])
  each = [supervised(alike, s[[v]], y, target).mean() for v in range(2)]
  np.testing.assert_allclose(supervised(alike, s, y, target).mean(), np.mean(each), rtol=2e-5)


@pytest.mark.parametrize('members', [[], [4], [2, 5], list(range(9))])
def test_sets_of_none_of_one_and_of_all_instances_add_what_they_have_and_leave_gradients_finite(members):
  c, s, y, _ = with_attributes()
  target = np.isin(np.arange(9), members)
  expected = supervised_by_definition(c, s[0], y, target, 0.5, **PUBLISHED, **FREE)
  value, gradient = jax.value_and_grad(lambda s: supervised(c, s, y, target).mean())(jnp.float32(s))
  np.testing.assert_allclose(value, expected, rtol=2e-5)
  assert jnp.isfinite(gradient).all()


def test_permuting_attributes_coordinates_and_widths_together_changes_nothing_and_attributes_alone_do():
  c, s, y, target = with_attributes()
  order = np.array([2, 0, 1])
  widths = {name: tuple(np.array(each)[order]) for name, each in PUBLISHED.items()}
  before = supervised(c, s, y, target)
  np.testing.assert_allclose(supervised(c, s[..., order], y[:, order], target, **widths), before, rtol=1e-5, atol=1e-5)
  assert abs(supervised(c, s, y[:, order], target).mean() - before.mean()) > 1e-3


def test_attributes_of_the_background_count_for_nothing():
  c, s, y, target = with_attributes()
  others = np.where(target[:, None], y, 7 - 5 * y)
  np.testing.assert_array_equal(supervised(c, s, others, target), supervised(c, s, y, target))


def test_salient_vectors_of_the_background_count_by_their_squares_alone():
  c, s, y, target = with_attributes()
  moved = np.where(target[:, None], s, 2 - s)
  change = (np.square(moved) - np.square(s))[0, ~target].mean(0) / PUBLISHED['background_width']
  got = supervised(c, moved, y, target).mean() - supervised(c, s, y, target).mean()
  np.testing.assert_allclose(got, FREE['salient_weight'] * change.mean() / 2, rtol=1e-4)


@pytest.mark.parametrize('coordinate', range(3))
def test_a_coordinate_that_equals_its_attribute_is_better_than_one_that_equals_it_shuffled(coordinate):
  c, _, y, target = with_attributes(b=40)
  found = []
  for order in (np.arange(40), *(np.random.default_rng(seed).permutation(40) for seed in range(3))):
    s = y.copy()
    s[target, coordinate] = y[target, coordinate][np.argsort(order[target])]
    found.append(float(supervised(c, s[None], y, target, joint_weight=0.0).mean()))
  assert found[0] < min(found[1:])


def test_names_of_classes_are_exchangeable_and_coordinates_that_tell_them_are_aligned_at_no_cost():
  c, s, y, target = with_attributes()
  of_class, widths = y[:, :1], dict(width=(1e-5,), background_width=(1.0,))
  renamed = np.choose(of_class.astype(int), [5.0, -3.0, 40.0])
  before = supervised(c, s[..., :1], of_class, target, **widths)
  np.testing.assert_array_equal(supervised(c, s[..., :1], renamed, target, **widths), before)
  told = np.where(target[:, None], renamed / 10, 0)[None]
  got = supervised(c, told, of_class, target, **widths, joint_weight=0.0).mean()
  alone = supervised(c, told, of_class, target, **widths, joint_weight=0.0, salient_weight=0.0).mean()
  np.testing.assert_allclose(got - alone, FREE['salient_weight'] * unif(told[0], 0.5), rtol=1e-4)


def test_without_its_salient_and_joint_terms_it_is_alignment_and_uniformity_of_the_common_views():
  c, s, y, target = with_attributes()
  got = supervised(c, s, y, target, variance=0.25, salient_weight=0.0, joint_weight=0.0).mean()
  np.testing.assert_allclose(got, losses.align_uniform(jnp.float32(c), t=2, align_weight=2), rtol=1e-5)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda c, s, y, t: (c[:1], s, y, t), 'V >= 2 views are needed, but common'),
    (lambda c, s, y, t: (c, np.concatenate([s] * 3), y, t), 'same views and instances'),
    (lambda c, s, y, t: (c, s, y[:, :2], t), r'for each of the 3 salient coordinates of an instance, \[9, 3\], but'),
    (lambda c, s, y, t: (c, s, y[:5], t), r'for each of the 3 salient coordinates of an instance, \[9, 3\], but'),
    (lambda c, s, y, t: (c, s, y, t[:5]), 'one entry an instance'),
  ],
)
def test_arrays_that_do_not_fit_together_are_refused(change, said):
  with pytest.raises(Refusal, match=said):
    supervised(*change(*with_attributes()))


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    (dict(width=(0.05, 0.05)), 'width must be one number or one for each of the 3 attributes, but it has 2'),
    (dict(background_width=(1.0,)), 'background_width must be one number or one for each of the 3 attributes'),
    (dict(width=(1e-5, 0.0, 0.05)), 'width must be > 0, but it is 0.0'),
    (dict(background_width=-1.0), 'background_width must be > 0, but it is -1.0'),
    (dict(variance=0.0), 'variance must be > 0'),
  ],
)
def test_widths_that_are_none_are_refused(options, said):
  with pytest.raises(Refusal, match=said):
    supervised(*with_attributes(), **options)


def test_attributes_that_are_no_floating_point_numbers_are_refused():
  c, s, y, target = with_attributes()
  with pytest.raises(Refusal, match='attributes must be floating-point'):
    losses.sep_clr_supervised(jnp.float32(c), jnp.float32(s), y.astype(int), target)
