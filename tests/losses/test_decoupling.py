"""Identities of Poly-View, DHEL, KCL and the lifts, from their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax import losses

AGGREGATES = ('geometric', 'arithmetic', 'sufficient')


def views(v, b=7, seed=0):
  return losses.unit(jax.random.normal(jax.random.key(seed), (v, b, 5)))


def poly_view(z, aggregate):
  return jit(losses.poly_view, static_argnames='aggregate')(z, temperature=0.3, aggregate=aggregate)


@pytest.mark.parametrize('aggregate', AGGREGATES)
def test_poly_view_of_two_views_is_nt_xent_in_every_form(aggregate):
  z = views(2)
  want = losses.nt_xent(z, temperature=0.3)
  # The rest of a view is the other one, which then looks for the view.
  want = want[::-1] if aggregate == 'sufficient' else want
  np.testing.assert_allclose(poly_view(z, aggregate), want, rtol=1e-5, atol=1e-6)


def test_the_arithmetic_form_of_poly_view_never_exceeds_the_geometric_one():
  apart = poly_view(views(4), 'geometric') - poly_view(views(4), 'arithmetic')
  assert (apart > -1e-6).all() and (apart > 1e-3).any()


def test_equal_positives_make_the_forms_of_poly_view_equal():
  z = jnp.broadcast_to(views(1), (3, 7, 5))
  want = poly_view(z, 'geometric')
  for aggregate in AGGREGATES:
    np.testing.assert_allclose(poly_view(z, aggregate), want, rtol=1e-5)


@pytest.mark.turns(3)
@pytest.mark.parametrize('aggregate', AGGREGATES)
def test_poly_view_of_one_instance_is_zero_with_zero_gradient(aggregate):
  value, gradient = jax.value_and_grad(lambda z: losses.poly_view(z, aggregate=aggregate).sum())(views(3, 1))
  assert abs(value) < 1e-6
  assert jnp.abs(gradient).max() < 1e-6


def test_an_unknown_aggregate_is_refused_with_the_nearest():
  with pytest.raises(ValueError, match="unknown aggregate 'geometrc'; did you mean 'geometric'"):
    losses.poly_view(views(2), aggregate='geometrc')


def test_dhel_is_mv_dhel_of_two_views():
  x, y = views(2)
  want = losses.mv_dhel(jnp.stack([x, y]), temperature=0.3)
  np.testing.assert_allclose(losses.dhel(x, y), want, rtol=1e-5, atol=1e-6)


def test_the_pull_of_a_positive_in_dhel_does_not_depend_on_the_negatives():
  x, y = views(2)
  normal = losses.unit(jax.random.normal(jax.random.key(5), (7, 5)))

  def of_similarity(step):  # adds to every y_i what changes x_i . y_i, not the similarities within y
    energy = losses.dhel(x, y) + (x * y).sum(-1) / 0.3
    return (jax.lax.stop_gradient(energy) - (x * (y + step[:, None] * x)).sum(-1) / 0.3).mean()

  np.testing.assert_allclose(jax.grad(of_similarity)(jnp.zeros(7)), np.full(7, -1 / (7 * 0.3)), rtol=1e-5)
  gradients = jax.grad(lambda x, y: losses.dhel(x, y, both_views=False).mean(), 1)
  np.testing.assert_allclose(gradients(x, y), -x / (7 * 0.3), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(gradients(x, normal), -x / (7 * 0.3), rtol=1e-4, atol=1e-6)


def test_the_expected_kernel_loss_does_not_depend_on_the_batch_size():
  means = []
  for b in (4, 16):
    keys = jax.random.split(jax.random.key(b), 4000)
    values = jit(jax.vmap(lambda key, b=b: losses.kcl(*losses.unit(jax.random.normal(key, (2, b, 5)))).mean()))(keys)
    means.append((values.mean(), values.std() / len(keys) ** 0.5))
  (a, of_a), (c, of_c) = means
  assert abs(a - c) < 4 * (of_a**2 + of_c**2) ** 0.5
  assert of_a < 0.05 * abs(a)


def test_kernel_losses_at_collapse_have_their_closed_form():
  x = jnp.broadcast_to(views(1)[0, :1], (7, 5))
  for kernel, at_zero in dict(gaussian=1, inverse_multiquadric=1, logarithmic=0).items():
    got = losses.kcl(x, x, kernel=kernel, energy_weight=3.0)
    np.testing.assert_allclose(got, np.full(7, at_zero * (-2 + 2 * 3)), atol=1e-4)


def test_an_unknown_kernel_is_refused_with_the_nearest():
  x, y = views(2)
  with pytest.raises(ValueError, match="unknown kernel 'gausian'; did you mean 'gaussian'"):
    losses.kcl(x, y, kernel='gausian')


@pytest.mark.parametrize('loss', [losses.nt_xent, losses.dhel])
def test_the_pairwise_lift_is_the_mean_over_pairs_and_the_loss_itself_for_two_views(loss):
  z = views(3)

  def of_two(a, b):
    return (loss(a, b, temperature=0.3) if loss is losses.dhel else loss(jnp.stack([a, b]), temperature=0.3)).mean()

  want = np.mean([of_two(z[v], z[w]) for v, w in ((0, 1), (0, 2), (1, 2))])
  np.testing.assert_allclose(losses.pairwise(loss)(z, temperature=0.3), want, rtol=1e-5)
  np.testing.assert_allclose(losses.pairwise(loss)(z[:2], temperature=0.3), of_two(z[0], z[1]), rtol=1e-5)


@pytest.mark.parametrize('normalize', [False, True])
def test_the_leave_one_out_lift_compares_each_view_with_the_mean_of_the_others(normalize):
  z = views(3)
  rest = [(z[1] + z[2]) / 2, (z[0] + z[2]) / 2, (z[0] + z[1]) / 2]
  rest = [losses.unit(each) for each in rest] if normalize else rest
  want = np.mean([losses.dhel(z[v], rest[v]).mean() for v in range(3)])
  np.testing.assert_allclose(losses.leave_one_out(losses.dhel, normalize=normalize)(z), want, rtol=1e-5)


def test_lifts_take_labels_and_refuse_losses_of_something_else():
  z, labels = views(3), jnp.arange(7) % 3
  want = np.mean([losses.sup_con(z[jnp.array(pair)], labels).mean() for pair in ((0, 1), (0, 2), (1, 2))])
  np.testing.assert_allclose(losses.pairwise(losses.sup_con)(z, labels), want, rtol=1e-5)
  for loss, message in (
    (losses.mean, r"but its are \['values', 'where'\]"),
    (losses.uniformity, r"but its are \['x', 't'\]"),
    ((losses.nt_xent, losses.dhel), 'it was given a tuple'),
  ):
    with pytest.raises(ValueError, match=message):
      losses.pairwise(loss)
  with pytest.raises(ValueError, match='returns one array, but this one returns several'):
    losses.leave_one_out(losses.info_nce_both)(views(3))


@pytest.mark.parametrize('loss', [losses.barlow_twins, losses.vicreg, losses.mmcr])
def test_moment_losses_are_lifted_too(loss):
  z = views(3)
  of_two = loss if loss is not losses.mmcr else lambda a, b: losses.mmcr(jnp.stack([a, b]))
  want = np.mean([of_two(z[0], z[1]), of_two(z[0], z[2]), of_two(z[1], z[2])])
  np.testing.assert_allclose(losses.pairwise(loss)(z), want, rtol=1e-5)
