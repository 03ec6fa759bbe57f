"""Hostile inputs: every pairwise loss stays finite in value and gradient, in every fold."""

import functools
import inspect

import gauntlet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from gauntlet import TILES, assert_close, instance_axis, scalar
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses

EMBEDDINGS = ('x', 'y', 't', 'negatives', 'queue', 'proxies', *gauntlet.VIEWS)
EMBEDDINGS += ('gates', 'phi_x', 'phi_y', 'phi_queue')
# Where no positives exist these still have something to say: every pair is a negative.
WITHOUT_POSITIVES = {'sbcl', 'sbcl_queue', 'sigmoid'}
# These return the new rows of their memory beside the values.
REMEMBERING = {name for name in losses.PAIRWISE if 'state' in inspect.signature(getattr(losses, name)).parameters}


def embeds(key: str, value) -> bool:
  """Whether an argument is embeddings: a `t` without axes is the width of a potential."""
  return key in EMBEDDINGS and np.ndim(value) > 1


def mesh_of(fold: str):
  return jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,)) if fold == 'ring' else None


@functools.cache
def compiled(name: str, fold: str):
  """Value and gradient with everything the loss can be given, for any contents of these shapes."""
  return jit(jax.value_and_grad(scalar(gauntlet.case(name, 'rich'), fold=TILES[fold])))


def run(name, fold, learnable, fixed):
  mesh = mesh_of(fold)

  def put(key, value):
    axis = instance_axis(key, value)
    spec = P() if axis is None else P(*(None,) * axis, 'data')
    return value if mesh is None else jax.device_put(value, NamedSharding(mesh, spec))

  sides = ({k: put(k, v) for k, v in side.items()} for side in (learnable, fixed))
  return compiled(name, fold)(*sides)


# --- scenarios: (learnable, fixed) -> the same, made extreme; None where the loss has nothing of the kind ---


def tiny_temperature(learnable, fixed):
  keys = [k for k, v in learnable.items() if k in ('temperature', 't') and not embeds(k, v)]
  return {**learnable, **{k: np.full_like(learnable[k], {'temperature': 0.005, 't': 200.0}[k]) for k in keys}}, fixed


def embeddings_as(make):
  return lambda learnable, fixed: ({k: make(v) if embeds(k, v) else v for k, v in learnable.items()}, fixed)


def all_the_same(z):
  return np.broadcast_to(z.reshape(-1, z.shape[-1])[0], z.shape).copy()


def one_repeated(z):
  z = z.copy()
  z[..., 1, :] = z[..., 0, :]
  return z


def zero_rows(z):
  z = z.copy()
  z[..., ::2, :] = 0
  return np.asarray(losses.unit(z))


def fixed_as(pattern: str, value):
  def change(learnable, fixed):
    if not any(pattern in k for k in fixed):
      return None
    return learnable, {k: np.full_like(v, value) if pattern in k else v for k, v in fixed.items()}

  return change


def no_positives(learnable, fixed):
  if not any(k == 'labels' or k.endswith('_id') for k in fixed):
    return None
  return learnable, {k: np.full_like(v, -1) if k == 'labels' or k.endswith('_id') else v for k, v in fixed.items()}


SCENARIOS = dict(
  tiny_temperature=tiny_temperature,
  tiny_temperature_at_collapse=lambda a, b: tiny_temperature(*embeddings_as(all_the_same)(a, b)),
  all_the_same=embeddings_as(all_the_same),
  opposite=embeddings_as(lambda z: all_the_same(z) * np.where(np.arange(z.shape[-2]) % 2, 1, -1)[:, None].astype('f')),
  one_repeated=embeddings_as(one_repeated),
  zero_rows=embeddings_as(zero_rows),
  all_masked=fixed_as('mask', False),
  anchors_masked=fixed_as('x_mask', False),
  candidates_masked=fixed_as('y_mask', False),
  no_positives=no_positives,
)


@pytest.mark.turns(15)
@pytest.mark.parametrize('fold', ['dense', 'chunked', 'ring'])
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_values_and_gradients_are_finite_at_every_extreme(name, fold):
  case = gauntlet.case(name, 'rich')
  for scenario, change in SCENARIOS.items():
    changed = change(case.learnable, case.fixed)
    if changed is None:
      continue
    value, gradient = run(name, fold, *changed)
    finite = jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), (value, gradient))
    assert all(jax.tree.leaves(finite)), (scenario, finite)
    if scenario == 'all_masked' or (scenario == 'no_positives' and name not in WITHOUT_POSITIVES):
      if name in REMEMBERING:  # whose rows stay what they are
        value = case.call(*changed, fold=losses.dense())[0]
      assert not any(np.any(x) for x in jax.tree.leaves((value, gradient))), scenario


@pytest.mark.turns(12)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_bfloat16_embeddings_at_scale_100_give_the_values_of_their_float32_selves(name):
  case = gauntlet.case(name, 'plain')
  fold = list(TILES)[losses.PAIRWISE.index(name) % len(TILES)]
  learnable = {k: jnp.bfloat16(v) if embeds(k, v) else np.float32(0.01) for k, v in case.learnable.items()}
  value, gradient = jit(jax.value_and_grad(scalar(case, fold=TILES[fold])))(learnable, case.fixed)
  wide = {k: np.asarray(v, np.float32) for k, v in learnable.items()}
  want, of_wide = gauntlet.dense(name, 'plain')(wide, case.fixed)
  assert value.dtype == jnp.float32
  assert all(gradient[k].dtype == learnable[k].dtype for k in learnable)
  assert_close(value, want)
  assert_close(gradient, of_wide, 8e-3)  # the gradient of a bfloat16 array is one


@pytest.mark.turns(9)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_one_instance_is_refused_or_gives_finite_values_and_gradients(name):
  case = gauntlet.case(name, 'plain', 1)
  if case is None:
    return
  fold = ['dense', 'chunked'][losses.PAIRWISE.index(name) % 2]
  got = jit(jax.value_and_grad(scalar(case, fold=TILES[fold])))(case.learnable, case.fixed)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(got))
