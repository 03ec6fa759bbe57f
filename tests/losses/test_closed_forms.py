"""Closed forms and identities that the papers' equations imply."""

import inspect
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from compiling import jit

from contrastive_jax import losses

TAU = 0.25


def compile_once(name: str):
  # Eagerly, every small operation would be compiled by itself.
  static = {'include_same_view', 'exponent'} & set(inspect.signature(getattr(losses, name)).parameters)
  return jit(getattr(losses, name), static_argnames=tuple(static))


compiled = types.SimpleNamespace(**{name: compile_once(name) for name in (*losses.PAIRWISE, 'alignment')})


def unit_rows(*shape, seed=0):
  rows = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), jnp.float32)


def collapsed(*shape):
  return jnp.broadcast_to(unit_rows(shape[-1]), shape)


def assert_equal(got, want, tolerance=1e-5):
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# --- collapse: all embeddings coincide ---


@pytest.mark.parametrize(('views', 'b'), [(2, 6), (3, 4)])
def test_nt_xent_at_collapse_is_the_log_of_the_number_of_candidates(views, b):
  assert_equal(compiled.nt_xent(collapsed(views, b, 5), temperature=TAU), np.full((views, b), math.log(views * b - 1)))


def test_sup_con_of_one_label_is_least_at_collapse():
  labels, least = jnp.zeros(6, int), math.log(11)
  assert_equal(compiled.sup_con(collapsed(2, 6, 5), labels, temperature=TAU), np.full((2, 6), least))
  assert compiled.sup_con(unit_rows(2, 6, 5), labels, temperature=TAU).mean() > least


@pytest.mark.parametrize(('views', 'b'), [(2, 6), (3, 4)])
def test_mv_dhel_at_collapse_has_its_closed_form(views, b):
  want = (views - 1) / TAU + views * math.log(b - 1) - math.log(views * (views - 1) / 2)
  assert_equal(compiled.mv_dhel(collapsed(views, b, 5), temperature=TAU), np.full(b, want))


@pytest.mark.parametrize(('same', 'want'), [(True, math.log((3 * 4 - 1) / (3 - 1))), (False, math.log(4))])
def test_mv_info_nce_at_collapse_has_the_closed_form_of_its_denominator(same, want):
  got = compiled.mv_info_nce(collapsed(3, 4, 5), temperature=TAU, include_same_view=same)
  assert_equal(got, np.full(4, want))


def test_clip_at_uniform_logits_is_log_b():
  x = jnp.pad(unit_rows(6, 3), ((0, 0), (0, 3)))
  y = jnp.pad(unit_rows(6, 3, seed=1), ((0, 0), (3, 0)))  # orthogonal to every row of x
  assert_equal(compiled.symmetric_info_nce(x, y), np.full(6, math.log(6)))


def test_uniformity_is_zero_at_collapse():
  assert_equal(compiled.uniformity(collapsed(6, 5)), 0)


def of_the_uniform_law(d, t):
  """The logarithm of the expected potential of two independent uniform unit vectors."""
  return math.log(scipy.special.hyp0f1(d / 2, t**2)) - 2 * t


def least_uniformity(b, d, t):
  """No b unit rows have less: with the pairs of a row with itself their mean is no less than that of the law."""
  return math.log((b * math.exp(of_the_uniform_law(d, t)) - 1) / (b - 1))


def test_uniformity_of_rows_evenly_around_a_circle_nears_that_of_the_uniform_law():
  apart = []
  for b in (16, 64, 256):
    angles = 2 * np.pi * np.arange(b) / b
    value = compiled.uniformity(jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1))
    assert_equal(value, least_uniformity(b, 2, 2))
    apart.append(abs(value - of_the_uniform_law(2, 2)))
  assert apart[0] > 0.1 > apart[1] > 2 * apart[2] > 0


@pytest.mark.parametrize(('b', 'd'), [(24, 3), (40, 4)])
def test_rows_that_descend_the_uniformity_near_its_bound_on_the_sphere_and_never_beat_it(b, d):
  def descended(x, _):
    value, gradient = jax.value_and_grad(lambda x: losses.uniformity(losses.unit(x)))(x)
    return losses.unit(x - gradient), value

  _, values = jit(lambda x: jax.lax.scan(descended, x, length=200))(unit_rows(b, d))
  above = np.asarray(values) - least_uniformity(b, d, 2)
  assert above[0] > 0.1
  assert (above > -1e-5).all() and above[-1] < 0.05 * above[0]


@pytest.mark.parametrize('t', [0.5, 2.0])
def test_uniformity_of_orthogonal_rows_is_minus_two_t(t):
  assert_equal(compiled.uniformity(jnp.eye(6), t=t), -2 * t)


def test_uniformity_of_opposite_rows_is_minus_four_t():
  assert_equal(compiled.uniformity(jnp.asarray([[1.0, 0.0], [-1.0, 0.0]]), t=3), -12)


def test_uniformity_is_exact_for_rows_of_any_norm():
  x = 3 * unit_rows(6, 5)
  squares = jnp.square(x[:, None] - x[None]).sum(-1)[np.triu_indices(6, 1)]
  assert_equal(compiled.uniformity(x, t=0.1), jnp.log(jnp.exp(-0.1 * squares).mean()))


def test_alignment_is_two_minus_twice_the_mean_cosine():
  x, y = unit_rows(6, 5), unit_rows(6, 5, seed=1)
  assert_equal(compiled.alignment(x, y), 2 - 2 * (x * y).sum(-1).mean())


@pytest.mark.parametrize('exponent', [1, 1.5, 2, 3])
def test_alignment_of_coinciding_pairs_is_zero_with_zero_gradient(exponent):
  x = unit_rows(6, 5)
  value, gradient = jit(jax.value_and_grad(lambda x, y: losses.alignment(x, y, exponent=exponent)))(x, x)
  assert_equal(value, 0)
  assert_equal(gradient, np.zeros_like(x))


# --- identities between losses ---


def test_info_nce_is_the_softplus_of_dcl_for_each_anchor_of_two_views():
  z = unit_rows(2, 6, 5)
  want = jax.nn.softplus(compiled.decoupled(z, temperature=TAU))
  assert_equal(compiled.nt_xent(z, temperature=TAU), want)


def test_the_gradient_of_an_anchors_nt_xent_is_that_of_its_dcl_times_the_coupling():
  z = unit_rows(2, 6, 5)
  both = (losses.nt_xent, losses.decoupled)
  coupled, decoupled = (jit(jax.grad(lambda z, f=f: f(z, temperature=TAU)[1, 2]))(z) for f in both)
  coupling = 1 - jnp.exp(-compiled.nt_xent(z, temperature=TAU)[1, 2])  # 1 - the positive's share of the denominator
  assert_equal(coupled, coupling * decoupled)


def test_dcl_falls_without_bound_on_opposite_instances_while_nt_xent_falls_to_zero():
  z = jnp.broadcast_to(jnp.asarray([[1.0], [-1.0]]), (2, 2, 1))
  for tau in (1.0, 0.1, 0.01):
    assert_equal(compiled.decoupled(z, temperature=tau), np.full((2, 2), math.log(2) - 2 / tau))
    assert_equal(compiled.nt_xent(z, temperature=tau), np.full((2, 2), math.log1p(2 * math.exp(-2 / tau))))


def test_the_coupling_of_nt_xent_rises_towards_one_with_the_batch_and_dcl_has_none():
  z, sizes = unit_rows(2, 256, 5), (2, 16, 256)

  def pulls(loss):  # on the positives of the first two instances, of batches that only gain negatives
    return np.stack([-TAU * b * of_positive_similarities(loss, z[:, :b])[:2] for b in sizes])

  assert_equal(pulls(losses.decoupled), np.ones((3, 2)))
  coupling = pulls(losses.nt_xent)
  assert (np.diff(coupling, axis=0) > 0).all()
  assert (coupling[0] < 0.7).all() and (coupling[-1] > 0.98).all() and (coupling < 1).all()


def dclw_weights(z, sigma):
  positives = (z[0] * z[1]).sum(-1) / TAU
  plain = compiled.decoupled(z, temperature=TAU)
  return 1 - (compiled.decoupled(z, temperature=TAU, sigma=sigma) - plain) / positives


def test_dclw_weights_average_to_one_and_are_larger_for_harder_positives():
  z = unit_rows(2, 9, 5)
  weights = dclw_weights(z, 0.5)
  assert_equal(weights[0], weights[1], 1e-3)
  assert_equal(weights.mean(), 1, 1e-3)
  by_difficulty = weights[0][jnp.argsort((z[0] * z[1]).sum(-1))]
  assert (jnp.diff(by_difficulty) < 0).all()


def test_dclw_of_infinite_sigma_is_dcl():
  z = unit_rows(2, 6, 5)
  assert_equal(compiled.decoupled(z, temperature=TAU, sigma=1e7), compiled.decoupled(z, temperature=TAU))


def test_the_weights_of_dclw_are_constants_of_the_gradient():
  z = unit_rows(2, 6, 5)
  weights = dclw_weights(z, 0.5)

  def weighted(z):
    positives = (z[0] * z[1]).sum(-1) / TAU
    return (losses.decoupled(z, temperature=TAU) + (1 - weights) * positives).sum()

  got = jit(jax.grad(lambda z: losses.decoupled(z, temperature=TAU, sigma=0.5).sum()))(z)
  assert_equal(got, jit(jax.grad(weighted))(z), 1e-4)


def test_sup_con_with_a_label_for_each_instance_is_nt_xent():
  z = unit_rows(3, 6, 5)
  assert_equal(compiled.sup_con(z, jnp.arange(6), temperature=TAU), compiled.nt_xent(z, temperature=TAU))


def test_sup_con_of_one_view_is_that_of_as_many_views_of_fewer_instances():
  z = unit_rows(2, 6, 5)
  one = compiled.sup_con(z.reshape(1, 12, 5), jnp.tile(jnp.arange(6), 2), temperature=TAU)
  assert_equal(one.reshape(2, 6), compiled.nt_xent(z, temperature=TAU))


def test_mv_dhel_of_two_views_is_dhel():
  u, v = z = unit_rows(2, 6, 5)
  outside = ~jnp.eye(6, dtype=bool)
  energies = [jax.nn.logsumexp(a @ a.T / TAU, axis=1, where=outside) for a in (u, v)]
  assert_equal(compiled.mv_dhel(z, temperature=TAU), -(u * v).sum(-1) / TAU + sum(energies))


def test_mv_info_nce_of_two_views_is_never_less_than_its_one_view_relatives():
  z = unit_rows(2, 6, 5)
  relatives = [compiled.nt_xent(z, temperature=TAU).mean(0), compiled.symmetric_info_nce(z[0], z[1], temperature=TAU)]
  for same, relative in zip((True, False), relatives, strict=True):
    assert (compiled.mv_info_nce(z, temperature=TAU, include_same_view=same) > relative - 1e-5).all()


def of_positive_similarities(loss, z, **options):
  """The loss's derivative in all positive similarities of each instance together."""
  views, b, _ = z.shape

  def mean(shift):  # a coordinate of its own for each instance adds to its positives, and to nothing else
    own = jnp.broadcast_to(jnp.diag(jnp.sqrt(shift)), (views, b, b))
    return loss(jnp.concatenate([z, own], -1), temperature=TAU, **options).mean()

  return jit(jax.grad(mean))(jnp.full(b, 0.5))


def test_the_gradient_in_the_positive_similarities_of_mv_dhel_knows_no_negatives():
  z = unit_rows(3, 4, 5)
  assert_equal(of_positive_similarities(losses.mv_dhel, z), np.full(4, -1 / (4 * TAU)))


@pytest.mark.parametrize('same', [True, False])
def test_the_gradient_in_the_positive_similarities_of_mv_info_nce_is_coupled(same):
  z = unit_rows(3, 4, 5)
  own = jnp.broadcast_to(jnp.sqrt(0.5) * jnp.eye(4), (3, 4, 4))
  values = compiled.mv_info_nce(jnp.concatenate([z, own], -1), temperature=TAU, include_same_view=same)
  got = of_positive_similarities(losses.mv_info_nce, z, include_same_view=same)
  assert_equal(got, -(1 - jnp.exp(-values)) / (4 * TAU))  # exp(-value) is the positives' share


def test_align_uniform_of_two_views_is_the_objective_of_its_paper():
  z = unit_rows(2, 6, 5)
  want = 3 * compiled.alignment(z[0], z[1]) + 0.5 * (compiled.uniformity(z[0]) + compiled.uniformity(z[1])) / 2
  assert_equal(compiled.align_uniform(z, align_weight=3, uniform_weight=0.5), want)


# --- two sides ---


def test_swapping_the_towers_of_clip_changes_nothing():
  x, y = unit_rows(6, 5), unit_rows(6, 5, seed=1)
  assert_equal(compiled.symmetric_info_nce(x, y), compiled.symmetric_info_nce(y, x))


def test_both_directions_are_info_nce_with_the_sides_in_either_order():
  x, y = unit_rows(4, 5), unit_rows(7, 5, seed=1)
  ids = dict(x_id=jnp.asarray([0, 1, 2, -1]), y_id=jnp.asarray([2, 0, 0, 5, -1, 1, 1]))
  masks = dict(x_mask=jnp.asarray([True, True, False, True]), y_mask=jnp.arange(7) != 2)
  got = compiled.info_nce_both(x, y, **ids, **masks)
  assert_equal(got[0], compiled.info_nce(x, y, **ids, **masks))
  swapped = {f'{"yx"["xy".index(k[0])]}{k[1:]}': v for k, v in (ids | masks).items()}
  assert_equal(got[1], compiled.info_nce(y, x, **swapped))


@pytest.mark.turns(2)
@pytest.mark.parametrize('loss', [compiled.info_nce, compiled.sigmoid])
def test_masking_rows_is_leaving_them_out(loss):
  x, y = unit_rows(4, 5), unit_rows(6, 5, seed=1)
  x_id, y_id = jnp.arange(4), jnp.asarray([0, 1, 1, 2, 3, 9])
  keep_x, keep_y = np.asarray([True, False, True, True]), np.asarray([True, True, False, True, True, False])
  got = loss(x, y, x_id=x_id, y_id=y_id, x_mask=keep_x, y_mask=keep_y)
  assert_equal(got[keep_x], loss(x[keep_x], y[keep_y], x_id=x_id[keep_x], y_id=y_id[keep_y]))
  assert_equal(got[~keep_x], 0)
  assert_equal(losses.mean(got, keep_x), got[keep_x].mean())


def test_masked_rows_of_x_are_no_candidates_of_y():
  x, y = unit_rows(4, 5), unit_rows(4, 5, seed=1)
  keep = np.asarray([True, False, True, True])
  _, got = compiled.info_nce_both(x, y, x_mask=keep)
  _, want = compiled.info_nce_both(x[keep], y, x_id=np.flatnonzero(keep), y_id=np.arange(4))
  assert_equal(got, want)


def test_further_rows_of_y_are_negatives():
  x, y = unit_rows(4, 5), unit_rows(7, 5, seed=1)
  logits = x @ y.T / 0.1
  assert_equal(compiled.info_nce(x, y), jax.nn.logsumexp(logits, 1) - jnp.diagonal(logits))
  assert (compiled.info_nce(x, y) > compiled.info_nce(x, y[:4])).all()


def test_sigmoid_starts_near_ten():
  x, y = unit_rows(32, 256), unit_rows(32, 256, seed=1)
  assert abs(compiled.sigmoid(x, y).mean() - 10) < 0.5


def test_the_derivative_of_sigmoid_in_its_bias_is_the_surplus_of_predicted_matches():
  x, y = unit_rows(6, 5), unit_rows(6, 5, seed=1)
  got = jit(jax.grad(lambda b: losses.sigmoid(x, y, bias=b).mean()))(-1.0)
  assert_equal(got, (jax.nn.sigmoid(x @ y.T / 0.1 - 1.0) - jnp.eye(6)).sum() / 6)


# --- order ---


def test_permuting_views_and_instances_permutes_the_values_of_nt_xent_decoupled_and_sup_con():
  z, labels, tau = unit_rows(3, 5, 4), jnp.asarray([0, 1, 0, -1, 1]), jnp.linspace(0.1, 0.5, 15).reshape(3, 5)
  views, order = np.asarray([2, 0, 1]), np.asarray([3, 1, 4, 0, 2])
  grid = np.ix_(views, order)
  for loss, first, second in [
    (compiled.nt_xent, (), ()),
    (compiled.decoupled, (), ()),
    (compiled.sup_con, (labels,), (labels[order],)),
  ]:
    assert_equal(loss(z[grid], *second, temperature=tau[grid]), loss(z, *first, temperature=tau)[grid])


@pytest.mark.parametrize('loss', [compiled.mv_info_nce, compiled.mv_dhel])
def test_permuting_views_changes_nothing_and_permuting_instances_permutes_values(loss):
  z, order = unit_rows(3, 5, 4), np.asarray([3, 1, 4, 0, 2])
  assert_equal(loss(z[np.asarray([2, 0, 1])]), loss(z))
  assert_equal(loss(z[:, order]), loss(z)[order])
