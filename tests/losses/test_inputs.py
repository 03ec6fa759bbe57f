"""What every loss does with its inputs: normalise, refuse, average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.types import Refusal

Z = np.ones((2, 4, 5), np.float32)
X, Y = np.ones((4, 5), np.float32), np.ones((6, 5), np.float32)
OF_VIEWS = ['nt_xent', 'decoupled', 'mv_info_nce', 'mv_dhel', 'align_uniform']
TWO_SIDED = ['info_nce', 'info_nce_both', 'symmetric_info_nce', 'sigmoid']
WITH_TEMPERATURE = [*OF_VIEWS[:4], *TWO_SIDED]


def call(name, *arrays, **keywords):
  """Traces only: what is refused is refused before anything is computed."""
  arrays = arrays or ((Z,) if name in OF_VIEWS else (X, X))
  return jax.eval_shape(lambda *a: getattr(losses, name)(*a, **keywords), *arrays)


# --- unit ---


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_unit_keeps_the_type_and_gives_norm_one(dtype):
  x = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
  got = losses.unit(jnp.asarray(x, dtype))
  assert got.dtype == dtype
  tolerance = dict(float32=1e-6, bfloat16=8e-3, float16=1e-3)[dtype]
  np.testing.assert_allclose(np.linalg.norm(np.asarray(got, np.float32), axis=-1), 1, rtol=tolerance)


def test_unit_of_a_zero_row_is_zero_with_a_finite_gradient():
  value, gradient = jax.value_and_grad(lambda x: losses.unit(x).sum())(jnp.zeros((2, 5)))
  assert value == 0
  assert jnp.isfinite(gradient).all()


def test_the_gradient_of_unit_is_orthogonal_to_the_row_and_scales_inversely_with_it():
  x = jnp.asarray([[3.0, -4.0, 12.0]])
  gradient = jax.grad(lambda x: losses.unit(x)[0, 0])
  np.testing.assert_allclose((gradient(x) * x).sum(), 0, atol=1e-6)
  np.testing.assert_allclose(gradient(10 * x), gradient(x) / 10, rtol=1e-5)


# --- mean ---


def test_mean_without_a_mask_is_the_mean():
  assert losses.mean(jnp.asarray([1.0, 2.0, 6.0])) == 3


def test_mean_divides_by_the_anchors_kept():
  values = jnp.asarray([[1.0, 2.0, jnp.nan], [3.0, 4.0, jnp.inf]])
  assert losses.mean(values, jnp.asarray([True, True, False])) == 2.5


def test_mean_of_no_anchors_is_zero_with_zero_gradient():
  value, gradient = jax.value_and_grad(losses.mean)(jnp.ones(3), jnp.zeros(3, bool))
  assert value == 0
  assert (gradient == 0).all()


# --- shapes of values ---


def test_values_are_one_an_anchor_or_one_an_instance():
  shapes = {name: call(name).shape for name in OF_VIEWS}
  assert shapes == dict(nt_xent=(2, 4), decoupled=(2, 4), mv_info_nce=(4,), mv_dhel=(4,), align_uniform=())
  assert call('sup_con', Z, np.zeros(4, int)).shape == (2, 4)
  assert [v.shape for v in call('info_nce_both', X, Y)] == [(4,), (6,)]
  assert call('info_nce', X, Y).shape == call('sigmoid', X, Y).shape == call('symmetric_info_nce', X, X).shape == (4,)
  assert call('uniformity', X).shape == call('alignment', X, X).shape == ()


@pytest.mark.parametrize('name', [*OF_VIEWS, *TWO_SIDED])
def test_values_of_bfloat16_embeddings_are_float32(name):
  arrays = [a.astype(jnp.bfloat16) for a in ((Z,) if name in OF_VIEWS else (X, X))]
  assert {v.dtype.name for v in jax.tree.leaves(call(name, *arrays))} == {'float32'}


# --- refusals ---


@pytest.mark.parametrize('name', OF_VIEWS)
@pytest.mark.parametrize(
  ('shape', 'message'), [((4, 5), r'\[V, B, D\].*\(4, 5\)'), ((1, 4, 5), r'V >= 2.*\(1, 4, 5\)')]
)
def test_losses_of_views_refuse_what_is_not_several_views(name, shape, message):
  with pytest.raises(Refusal, match=message):
    call(name, np.ones(shape, np.float32))


def test_sup_con_takes_one_view_but_not_labels_of_another_length():
  assert call('sup_con', Z[:1], np.zeros(4, int)).shape == (1, 4)
  with pytest.raises(Refusal, match=r'\[4\].*\(3,\)'):
    call('sup_con', Z, np.zeros(3, int))


def test_dclw_refuses_three_views():
  with pytest.raises(Refusal, match=r'V = 2.*\(3, 4, 5\)'):
    call('decoupled', np.ones((3, 4, 5), np.float32), sigma=0.5)


@pytest.mark.parametrize('name', TWO_SIDED)
@pytest.mark.parametrize('other', [(4, 6), (4,), (2, 4, 5)])
def test_two_sided_losses_refuse_sides_that_do_not_fit_and_name_both_shapes(name, other):
  with pytest.raises(Refusal) as refusal:
    call(name, X, np.ones(other, np.float32))
  assert str(X.shape) in str(refusal.value) and str(other) in str(refusal.value)


@pytest.mark.parametrize('name', ['symmetric_info_nce', 'alignment'])
def test_losses_of_pairs_refuse_sides_of_different_lengths(name):
  with pytest.raises(Refusal, match='4 and 6'):
    call(name, X, Y)


@pytest.mark.parametrize('name', TWO_SIDED)
@pytest.mark.parametrize('key', ['x_id', 'y_id', 'x_mask', 'y_mask'])
def test_ids_and_masks_of_another_length_are_refused_by_both_lengths(name, key):
  with pytest.raises(Refusal, match=rf'{key} must have one entry an instance, \[4\].*\(3,\)'):
    call(name, **{key: np.zeros(3, bool if 'mask' in key else int)})


@pytest.mark.parametrize(
  ('name', 'arrays', 'options', 'message'),
  [
    ('unit', (np.arange(6).reshape(2, 3),), {}, 'x must be floating-point, but it is int64'),
    ('nt_xent', (Z.astype(np.int32),), {}, 'z must be floating-point, but it is int32'),
    ('info_nce', (X, X.astype(np.int8)), {}, 'y must be floating-point, but it is int8'),
    ('uniformity', (X.astype(np.int32),), {}, 'x must be floating-point, but it is int32'),
    ('vicreg', (X, X.astype(np.int32)), {}, 'b must be floating-point, but it is int32'),
    ('w_mse', (Z.astype(np.int32), np.zeros((1, 8), int)), {}, 'h must be floating-point, but it is int32'),
    ('sup_con', (Z, np.zeros(4, np.float32)), {}, 'labels must be integers, but it is float32'),
    ('sigmoid', (X, X), dict(x_mask=np.ones(4, np.float32)), 'x_mask must be boolean, but it is float32'),
    ('symmetric_info_nce', (X, X), dict(y_id=np.ones(4, np.float32)), 'y_id must be integers, but it is float32'),
  ],
)
def test_arrays_of_another_type_are_refused_by_name(name, arrays, options, message):
  with pytest.raises(Refusal, match=message):
    getattr(losses, name)(*arrays, **options)


def test_a_list_is_refused_as_no_array():
  with pytest.raises(Refusal, match='z must be an array, but it is a list'):
    losses.nt_xent(Z.tolist())


@pytest.mark.parametrize('name', WITH_TEMPERATURE)
@pytest.mark.parametrize('temperature', [0, 0.0, -0.1])
def test_a_static_temperature_that_is_not_positive_is_refused(name, temperature):
  with pytest.raises(Refusal, match=f'temperature must be > 0, but it is {temperature}'):
    call(name, temperature=temperature)


@pytest.mark.parametrize('name', WITH_TEMPERATURE)
@pytest.mark.parametrize('shape', [(3,), (4, 1), (2, 1), (1,)])
def test_a_temperature_of_another_shape_is_refused(name, shape):
  with pytest.raises(Refusal, match='temperature must be a scalar'):
    call(name, temperature=np.ones(shape, np.float32))


@pytest.mark.parametrize('name', ['mv_info_nce', 'mv_dhel', 'info_nce_both', 'symmetric_info_nce'])
def test_losses_without_one_temperature_an_anchor_refuse_one_even_where_it_would_broadcast(name):
  square = np.ones((4, 4, 5), np.float32)
  arrays = (square,) if name in OF_VIEWS else (X, X)
  with pytest.raises(Refusal, match=r'temperature must be a scalar, but it is \[4\]'):
    call(name, *arrays, temperature=np.ones(4, np.float32))


@pytest.mark.parametrize(
  ('name', 'arrays', 'options'),
  [('decoupled', (Z,), dict(sigma=0)), ('uniformity', (X,), dict(t=-1)), ('alignment', (X, X), dict(exponent=0))],
)
def test_other_hyper_parameters_that_are_not_positive_are_refused(name, arrays, options):
  (key,) = options
  with pytest.raises(Refusal, match=f'{key} must be > 0'):
    call(name, *arrays, **options)


@pytest.mark.parametrize('shape', [(1, 5), (4,), (2, 4, 5)])
def test_uniformity_refuses_what_is_not_two_rows(shape):
  with pytest.raises(Refusal, match='uniformity needs rows'):
    call('uniformity', np.ones(shape, np.float32))


@pytest.mark.parametrize('name', [*OF_VIEWS, *TWO_SIDED])
def test_unknown_folds_and_precisions_are_refused_with_what_is_known(name):
  with pytest.raises(Refusal, match="unknown fold 'chunky': use 'auto', dense"):
    call(name, fold='chunky')
  with pytest.raises(Refusal, match=r"unknown precision 'bf16'.*bfloat16"):
    call(name, precision='bf16')


def of_rows(**more):
  state = losses.running(4, temperature=0.1)
  return lambda: losses.isog_clr(Z, state, **more)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (of_rows(tau_min=0.0), r'0 < tau_min <= tau_max is needed, but they are 0\.0 and 1\.0'),
    (of_rows(tau_min=0.9, tau_max=0.2), '0 < tau_min <= tau_max'),
    (of_rows(tau_beta=5.0), r'tau_beta must lie in \(0, 1\], but it is 5\.0'),
    (of_rows(tau_clip=-1.0), 'tau_clip must be > 0, but it is -1'),
    (lambda: losses.sup_re_mix(Z, [1, 2, 3, 4], key=jax.random.key(0)), 'labels must be an array, but it is a list'),
    (
      lambda: losses.sup_re_mix(Z, np.array([2**24, 2**24 + 1, 5, 6]), key=jax.random.key(0)),
      r'labels beyond 2\^24 are not told apart in float32, but one is 16777217',
    ),
  ],
)
def test_rates_ranges_and_labels_that_cannot_be_meant_are_refused(call, message):
  with pytest.raises(Refusal, match=message):
    call()
