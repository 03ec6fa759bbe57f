"""Memory laws: what a loss and its gradient need beside their inputs is bounded, whatever the batch. Nothing is run."""

import functools

import gauntlet
import jax
import jax.numpy as jnp
import pytest
from gauntlet import average, instance_axis
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses

BATCH, WIDTH = 16_384, 256
MOST = 200e6  # one matrix of logits would take 1 GiB (two sides) or 4 GiB (two views)
GIVEN = 2 * BATCH * WIDTH * 4  # bytes of two embeddings an instance, for which MOST is; more of them may take more
GROWTH = [n for n in ('nt_xent', 'info_nce_both', 'uniformity') if n in losses.PAIRWISE]


def like(key: str, value, batch: int, mesh=None):
  """An argument of the gauntlet's case, as large as asked."""
  axis, shape = instance_axis(key, value), list(value.shape)
  if axis is None:
    return jax.ShapeDtypeStruct((), jnp.float32)
  shape[axis] = batch
  if len(shape) > 1 and value.dtype != bool:
    shape[-1] = WIDTH
  spec = None if mesh is None else NamedSharding(mesh, P(*(None,) * axis, 'data'))
  return jax.ShapeDtypeStruct(shape, value.dtype, sharding=spec)


@functools.cache
def temporaries(name: str, batch: int, variant: str = 'plain', devices: int = 0) -> int:
  """Bytes of temporaries of the compiled value and gradient, on one device."""
  case = gauntlet.case(name, variant)
  kind = (AxisType.Auto,)
  mesh = jax.make_mesh((devices,), ('data',), axis_types=kind, devices=jax.devices()[:devices]) if devices else None
  sides = ({k: like(k, v, batch, mesh) for k, v in side.items()} for side in (case.learnable, case.fixed))
  fold = losses.ring() if devices else 'auto'
  function = jax.jit(jax.value_and_grad(gauntlet.scalar(case, average, fold=fold)))
  return function.lower(*sides).compile().memory_analysis().temp_size_in_bytes


# Sums of several pairwise losses, which XLA runs side by side on a CPU: in turn they would take 167 and 253 MB.
SUMS = {'clip_with_geometry': 240e6, 'sep_clr': 650e6}


def most(name: str, variant: str = 'plain') -> float:
  """Bytes of temporaries that a loss may take: MOST, and as much again for every further pair of embeddings."""
  if name in SUMS:
    return SUMS[name]
  learnable = gauntlet.case(name, variant).learnable
  given = (like(k, v, BATCH) for k, v in learnable.items())
  return MOST * max(1, sum(x.size * x.dtype.itemsize for x in given) / GIVEN)


@pytest.mark.turns(12)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_temporaries_at_batch_16384_are_at_most_200_mb(name):
  assert temporaries(name, BATCH) <= most(name)


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', GROWTH)
def test_temporaries_do_not_grow_with_the_square_of_the_batch(name):
  assert temporaries(name, 2 * BATCH) < 3 * temporaries(name, BATCH)


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['plain', 'rich'])
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_temporaries_with_every_option_are_bounded_and_do_not_grow_with_the_square(name, variant):
  assert temporaries(name, BATCH, variant) <= most(name, variant) * (2 if variant == 'rich' else 1)
  assert temporaries(name, 2 * BATCH, variant) < 3 * temporaries(name, BATCH, variant)


@pytest.mark.turns(5)
@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_what_is_kept_for_the_backward_pass_is_a_few_times_the_embeddings(name):
  case = gauntlet.case(name, 'plain')
  sides = [{k: like(k, v, BATCH) for k, v in side.items()} for side in (case.learnable, case.fixed)]

  def pullback(learnable, fixed):
    return jax.vjp(lambda a: gauntlet.scalar(case, average, fold=losses.chunked())(a, fixed), learnable)[1]

  kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(pullback, *sides)))
  embeddings = sum(x.size * x.dtype.itemsize for x in sides[0].values())
  assert embeddings / 2 <= kept <= 8 * embeddings


# Half a ring of two devices needs less: what they make for each other does not travel.
@pytest.mark.turns(3)
@pytest.mark.parametrize(('name', 'devices'), [('nt_xent', 4), ('info_nce_both', 2), ('sigmoid', 2)])
def test_memory_per_device_does_not_rise_when_devices_are_added(name, devices):
  few, many = (temporaries(name, 2048 * count, 'plain', count) for count in (devices, 8))
  assert many < 1.02 * few
