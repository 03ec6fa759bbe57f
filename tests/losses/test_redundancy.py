"""Losses of second moments: their equations in NumPy, their identities, and the global batch on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses

PARTITION = np.random.default_rng(7).permutation(24).reshape(2, 12).astype(np.int32)


def rows(*shape, seed=0):
  return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def barlow_twins(a, b):
  a, b = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in (a, b))
  c = a.T @ b / len(a)
  return ((1 - np.diag(c)) ** 2).sum() + 0.005 * (c**2).sum() - 0.005 * (np.diag(c) ** 2).sum()


def vicreg(a, b):
  value = 25 * ((a - b) ** 2).mean()
  for x in (a, b):
    covariance = np.cov(x, rowvar=False)
    value += 25 / 2 * np.maximum(1 - np.sqrt(np.diag(covariance) + 1e-4), 0).mean()
    value += ((covariance**2).sum() - (np.diag(covariance) ** 2).sum()) / x.shape[1]
  return value


def mmcr(z, weight=0.0):
  each = np.linalg.svd(z.swapaxes(0, 1), compute_uv=False).sum(-1).mean()
  return -np.linalg.svd(z.mean(0), compute_uv=False).sum() + weight * each


def w_mse(h, partition):
  total, pairs = 0.0, [(v, w) for w in range(len(h)) for v in range(w)]
  for part in partition:
    white = []
    for view in h[:, part]:
      centred = view - view.mean(0)
      factor = np.linalg.cholesky(np.cov(view, rowvar=False))
      white.append(np.linalg.solve(factor, centred.T).T)
    for v, w in pairs:
      cosine = (white[v] * white[w]).sum(1) / np.linalg.norm(white[v], axis=1) / np.linalg.norm(white[w], axis=1)
      total += (2 - 2 * cosine).mean() / len(pairs) / len(partition)
  return total


UNIT = rows(3, 24, 6) / np.linalg.norm(rows(3, 24, 6), axis=-1, keepdims=True)
CASES = {
  'barlow_twins': (losses.barlow_twins, barlow_twins, (rows(24, 6), rows(24, 6, seed=1))),
  'vicreg': (losses.vicreg, vicreg, (0.5 * rows(24, 6), rows(24, 6, seed=1))),
  'mmcr': (losses.mmcr, mmcr, (UNIT,)),
  'mmcr of few': (losses.mmcr, mmcr, (UNIT[:, :4],)),
  'mmcr with weight': (lambda z: losses.mmcr(z, weight=0.3), lambda z: mmcr(z, 0.3), (UNIT,)),
  'w_mse': (lambda h: losses.w_mse(h, PARTITION), lambda h: w_mse(h, PARTITION), (rows(3, 24, 6),)),
}
each_case = pytest.mark.parametrize('name', CASES)


def numerical(function, arguments, at, direction, step=1e-5):
  """The derivative of a NumPy function along a direction of one argument."""
  moved = [
    function(*(x + sign * step * direction if i == at else x for i, x in enumerate(arguments))) for sign in (1, -1)
  ]
  return (moved[0] - moved[1]) / (2 * step)


@each_case
def test_value_and_gradient_are_those_of_the_equation_in_numpy(name):
  loss, by_numpy, arguments = CASES[name]
  exact = [np.asarray(x, np.float64) for x in arguments]
  np.testing.assert_allclose(jit(loss)(*arguments), by_numpy(*exact), rtol=1e-5)
  gradients = jit(jax.grad(loss, tuple(range(len(arguments)))))(*arguments)
  for at, gradient in enumerate(gradients):
    direction = rows(*gradient.shape, seed=9).astype(np.float64)
    want = numerical(by_numpy, exact, at, direction)
    np.testing.assert_allclose((np.asarray(gradient) * direction).sum(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.turns(2)
@each_case
def test_eight_devices_have_the_statistics_of_the_global_batch(name):
  loss, _, arguments = CASES[name]
  if arguments[0].shape[-2] % 8:
    pytest.skip('so few instances do not divide')
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  split = [jax.device_put(x, NamedSharding(mesh, P(*[None] * (x.ndim - 2), 'data'))) for x in arguments]
  got, want = (jit(jax.value_and_grad(loss))(*given) for given in (split, arguments))
  for g, w in zip(got, want, strict=True):
    np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['barlow_twins', 'vicreg', 'mmcr', 'w_mse'])
def test_a_call_inside_shard_map_is_refused(name):
  loss, _, arguments = CASES[name]
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  specs = tuple(P(*[None] * (x.ndim - 2), 'data') for x in arguments)
  with pytest.raises(ValueError, match=f'{name} inside shard_map or pmap would see the statistics of one device'):
    jax.shard_map(lambda *given: loss(*given)[None], mesh=mesh, in_specs=specs, out_specs=P('data'))(*arguments)


def test_equal_uncorrelated_views_leave_barlow_twins_nothing():
  corners = np.asarray(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T.astype(np.float32)
  assert losses.barlow_twins(corners, corners) < 1e-8


def test_equal_uncorrelated_views_of_unit_variance_leave_vicreg_nothing():
  corners = np.asarray(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T.astype(np.float32)
  assert losses.vicreg(corners, corners) < 1e-5


def test_a_partition_that_a_compiled_function_closes_over_is_checked_too():
  partition = jnp.asarray(PARTITION)
  assert jnp.isfinite(jax.jit(lambda h: losses.w_mse(h, partition))(jnp.asarray(rows(2, 24, 6))))
  with pytest.raises(ValueError, match='instances 0 to 19, but it holds 0 to 23'):
    jax.jit(lambda h: losses.w_mse(h, partition))(jnp.asarray(rows(2, 20, 6)))


def test_constant_features_cost_vicreg_its_whole_hinge():
  same = jnp.ones((8, 5))
  np.testing.assert_allclose(losses.vicreg(same, same), 25 * (1 - 0.01), rtol=1e-5)


def test_mmcr_has_its_closed_forms():
  z = jnp.asarray(UNIT)
  collapsed = jnp.broadcast_to(z[0, 0], z.shape)
  np.testing.assert_allclose(losses.mmcr(collapsed), -(24**0.5), rtol=1e-5)
  orthogonal = jnp.broadcast_to(jnp.eye(4, 6), (3, 4, 6))
  np.testing.assert_allclose(losses.mmcr(orthogonal), -4, rtol=1e-5)
  assert losses.mmcr(z) >= -((24 * 6) ** 0.5)
  np.testing.assert_allclose(losses.mmcr(z[::-1]), losses.mmcr(z), rtol=1e-5)


@pytest.mark.slow
def test_the_gradient_of_mmcr_is_finite_at_collapse():
  z = jnp.broadcast_to(jnp.asarray(UNIT)[0, 0], UNIT.shape)
  assert jnp.isfinite(jax.grad(lambda z: losses.mmcr(z, weight=0.1))(z)).all()


def test_w_mse_of_equal_views_is_zero_and_ignores_lower_triangular_maps():
  h = jnp.asarray(rows(2, 24, 6))
  np.testing.assert_allclose(losses.w_mse(jnp.stack([h[0], h[0]]), PARTITION), 0, atol=1e-6)
  lower = jnp.tril(jnp.asarray(rows(6, 6, seed=3))) + 3 * jnp.eye(6)
  np.testing.assert_allclose(losses.w_mse(h @ lower.T, PARTITION), losses.w_mse(h, PARTITION), rtol=1e-4)
  turned = jnp.linalg.qr(rows(6, 6, seed=4))[0]
  assert abs(losses.w_mse(h @ turned, PARTITION) - losses.w_mse(h, PARTITION)) > 1e-3


def whitened(h):
  """What `w_mse` makes of the rows of h, read out of its Euclidean form.

  Batches that are white already are left as they are, so that against each of them the loss is a constant less twice
  its product with the rows in question: enough of them tell all rows.
  """
  random = np.random.default_rng(0)
  white = np.zeros((200, *h.shape))
  for each in white:
    for part in PARTITION:
      rows_of_part = random.normal(size=(12, 6))
      each[part] = np.linalg.qr(rows_of_part - rows_of_part.mean(0))[0] * 11**0.5
  against = jax.vmap(lambda a: losses.w_mse(jnp.stack([h, a]), PARTITION, distance='euclidean'))
  values = jit(against)(jnp.asarray(white)) * h.size
  products = np.concatenate([np.ones((200, 1)), -2 * white.reshape(200, -1)], 1)
  found, *_ = np.linalg.lstsq(products, np.asarray(values))
  np.testing.assert_allclose(products @ found, values, rtol=1e-6)
  return found[1:].reshape(h.shape)


def test_w_mse_whitens_each_sub_batch_to_a_covariance_of_the_identity():
  h = (np.float64(rows(24, 6)) + 3) @ (rows(6, 6, seed=1) + 2 * np.eye(6))
  assert np.abs(np.cov(h[PARTITION[0]], rowvar=False) - np.eye(6)).max() > 3
  with jax.enable_x64(True):
    white = whitened(h)
  for part in PARTITION:
    np.testing.assert_allclose(np.cov(white[part], rowvar=False), np.eye(6), atol=1e-8)
    np.testing.assert_allclose(white[part].mean(0), 0, atol=1e-8)


@pytest.mark.parametrize('seed', range(3))
def test_w_mse_lies_between_zero_and_four_which_opposite_views_cost(seed):
  h = jnp.asarray(rows(3, 24, 6, seed=seed) * np.float32([[[1]], [[30]], [[0.01]]]))
  assert 0 < jit(losses.w_mse)(h, PARTITION) < 4
  opposite = jnp.stack([h[0], -2 * h[0]])
  np.testing.assert_allclose(jit(losses.w_mse)(opposite, PARTITION), 4, rtol=1e-5)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: losses.barlow_twins(jnp.ones((4, 3)), jnp.ones((5, 3))), r'\(4, 3\) and \(5, 3\)'),
    (lambda: losses.vicreg(jnp.ones((1, 3)), jnp.ones((1, 3))), 'B >= 2'),
    (lambda: losses.mmcr(jnp.ones((1, 4, 3))), 'V >= 2 views are needed'),
    (lambda: losses.w_mse(jnp.ones((2, 8, 6)), PARTITION[:, :6]), r'\[P, W\] with W > D.* 6 features'),
    (lambda: losses.w_mse(jnp.ones((2, 24, 6)), PARTITION * 1.0), 'partition must be integers, but it is float'),
    (lambda: losses.w_mse(jnp.ones((2, 20, 6)), PARTITION), r'instances 0 to 19, but it holds 0 to 23'),
    (lambda: losses.w_mse(jnp.ones((2, 24, 6)), PARTITION, distance='cosin'), "did you mean 'cosine'"),
  ],
)
def test_wrong_shapes_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
