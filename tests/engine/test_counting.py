"""Counts from traces against counts by hand; nothing is compiled."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.engine.counting import Counts, count

B, D = 64, 16
FOLD = losses.chunked(rows=16, cols=32)


def array(*shape: int, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def counted(function, *arguments, devices: int = 1) -> Counts:
  return count(jax.make_jaxpr(function)(*arguments), devices=devices)


def mesh(devices: int = 8):
  return jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def on_devices(function, *arguments, out=None) -> Counts:
  """Counts of a function of shards on 8 devices."""
  out = P('data') if out is None else out
  mapped = jax.shard_map(function, mesh=mesh(), in_specs=P('data'), out_specs=out, check_vma=False)
  return counted(mapped, *arguments, devices=8)


def of_loss(loss, *arguments, wrt=0) -> Counts:
  """Of value and gradient of the mean of a loss."""
  return counted(jax.value_and_grad(lambda *a: loss(*a).mean(), wrt), *arguments)


# --- products ---


def test_a_product_of_m_k_and_k_n_has_2_m_n_k_flop():
  assert counted(jnp.dot, array(3, 5), array(5, 7)) == Counts(default=2 * 3 * 5 * 7)


def test_products_are_told_apart_by_type_and_precision():
  exact = functools.partial(jnp.dot, precision='highest')
  assert counted(exact, array(3, 5), array(5, 7)) == Counts(float32=210)
  half = array(3, 5, dtype=jnp.bfloat16), array(5, 7, dtype=jnp.bfloat16)
  assert counted(exact, *half) == Counts(bfloat16=210)


def test_a_batched_product_counts_every_product():
  assert counted(functools.partial(jnp.einsum, 'bij,bjk->bik'), array(4, 3, 5), array(4, 5, 7)).flop == 4 * 210


def convolved(strides: int, padding: str, image, kernel):
  return lax.conv_general_dilated(image, kernel, (strides,) * 2, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def test_a_convolution_without_padding_counts_as_the_product_of_its_patches():
  image, kernel = array(2, 8, 8, 5), array(3, 3, 5, 7)
  assert counted(functools.partial(convolved, 1, 'VALID'), image, kernel).flop == 2 * (2 * 6 * 6 * 7) * (3 * 3 * 5)


def test_multiplications_by_padding_do_not_count():
  image, kernel = array(2, 8, 8, 5), array(3, 3, 5, 7)
  met = (3 * 8 - 2) ** 2  # pairs of an entry of the kernel and of the image, along both axes
  assert counted(functools.partial(convolved, 1, 'SAME'), image, kernel).flop == 2 * met * 2 * 7 * 5


@pytest.mark.parametrize(('strides', 'padding'), [(1, 'SAME'), (2, 'SAME'), (2, 'VALID')])
def test_either_gradient_of_a_convolution_costs_what_the_convolution_does(strides, padding):
  image, kernel = array(2, 9, 9, 4), array(3, 3, 4, 6)
  forward = counted(functools.partial(convolved, strides, padding), image, kernel).flop
  both = jax.grad(lambda i, k: jnp.sum(convolved(strides, padding, i, k) ** 2), (0, 1))
  assert counted(both, image, kernel).flop == 3 * forward


def test_grouped_convolutions_count_their_own_channels_only():
  function = functools.partial(
    lax.conv_general_dilated, window_strides=(1,), padding='VALID', feature_group_count=4,
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )  # fmt: skip
  assert counted(function, array(2, 9, 8), array(3, 2, 12)).flop == 2 * (2 * 7 * 12) * (3 * 2)


# --- loops and branches ---


def test_a_product_in_a_scan_counts_once_a_turn():
  def function(x, ys):
    return lax.scan(lambda carry, y: (carry @ y, None), x, ys)

  assert counted(function, array(3, 3), array(11, 3, 3)).flop == 11 * 2 * 27


def test_loops_multiply_through_jit_and_remat():
  inner = jax.checkpoint(jax.jit(lambda x: jnp.exp(x @ x)))

  def function(x):
    return lax.fori_loop(0, 5, lambda _, y: lax.fori_loop(0, 4, lambda _, z: inner(z), y), x)

  assert counted(function, array(3, 3)) == Counts(default=20 * 54, transcendentals=20 * 9)


def test_a_loop_of_unknown_length_is_counted_once_and_said_to_be():
  def function(x):
    return lax.while_loop(lambda y: y.sum() < 1, lambda y: y @ y, x)

  assert counted(function, array(3, 3)) == Counts(default=54, exact=False)


def test_a_loop_of_unknown_length_without_costs_leaves_the_count_exact():
  assert counted(lambda x: lax.while_loop(lambda y: y < 9, lambda y: y + 1, x), array()).exact


def test_of_a_branch_the_cheapest_counts():
  def function(x):
    return lax.cond(x.sum() > 0, lambda: x @ x @ x, lambda: 2 * x)

  assert counted(function, array(3, 3)).flop == 0


# --- several devices ---


def test_work_outside_shard_map_is_divided_and_inside_it_is_of_one_device():
  assert counted(jnp.dot, array(8, 5), array(5, 7), devices=8).flop == 2 * 5 * 7
  assert on_devices(lambda x: x @ x.T, array(16, 5)).flop == 2 * 2 * 2 * 5


def test_a_ring_of_eight_counts_every_turn_and_every_byte():
  def local(x):
    def turn(_, carry):
      kept, visiting = carry
      return kept + x @ visiting.T, lax.ppermute(visiting, 'data', [(i, (i + 1) % 8) for i in range(8)])

    return lax.fori_loop(0, 8, turn, (jnp.zeros((4, 4)), x))[0]

  assert on_devices(local, array(32, 5)) == Counts(default=8 * 2 * 4 * 4 * 5, sent=8 * 4 * 5 * 4)


@pytest.mark.parametrize(
  ('collective', 'out', 'sent'),
  [
    (lambda x: lax.all_gather(x, 'data', tiled=True), P(), 7 * 160),
    (lambda x: lax.all_to_all(x, 'data', 0, 0, tiled=True), P('data'), 7 * 20),
    (lambda x: lax.psum_scatter(x, 'data', tiled=True), P('data'), 7 * 20),
    (lambda x: lax.psum(x, 'data'), P(), 2 * 7 * 20),
    (lambda x: lax.pmax(x, 'data'), P(), 2 * 7 * 20),
    (lambda x: lax.ppermute(x, 'data', [(i, i) for i in range(8)]), P('data'), 0),
  ],
)
def test_collectives_send_what_a_ring_needs(collective, out, sent):
  assert on_devices(collective, array(64, 5), out=out) == Counts(sent=sent)  # 8 x 5 floats on each, 160 bytes


# --- losses: the counts of the design ---


def test_symmetric_info_nce_has_8_b2_d():
  found = of_loss(functools.partial(losses.symmetric_info_nce, fold=FOLD), array(B, D), array(B, D), wrt=(0, 1))
  assert found.flop == found.float32 == 8 * B * B * D
  assert found.exact and found.sent == 0


def test_in_reduced_precision_they_are_products_of_bfloat16():
  loss = functools.partial(losses.symmetric_info_nce, fold=FOLD, precision='bfloat16')
  assert of_loss(loss, array(B, D), array(B, D), wrt=(0, 1))[:3] == (0, 0, 8 * B * B * D)


def test_keys_without_gradient_leave_4_b2_d():
  assert of_loss(functools.partial(losses.info_nce, fold=FOLD), array(B, D), array(B, D)).flop == 4 * B * B * D


def test_the_mean_of_a_sigmoid_loss_has_6_b2_d():
  found = of_loss(functools.partial(losses.sigmoid, fold=FOLD), array(B, D), array(B, D), wrt=(0, 1))
  assert found.flop == 6 * B * B * D


@pytest.mark.parametrize('views', [2, 3])
def test_nt_xent_has_4_n2_d_and_the_surplus_of_its_diagonal_tiles(views):
  tile, n = 16, views * B
  positives = 4 * B * views**2 * D  # of each instance, forward and gradient, outside the tiles
  # A tile above the diagonal takes 8 tile^2 D for two tiles of the matrix, one on it 6 for one: 2 tile^2 D too many.
  surplus = 2 * tile**2 * D * (n // tile)
  found = of_loss(functools.partial(losses.nt_xent, fold=FOLD), array(views, B, D))
  assert found.flop == 4 * n * n * D + surplus + positives


@pytest.mark.parametrize(('fold', 'turns'), [(losses.ring(rows=8, cols=8), 8), (losses.chunked(rows=8, cols=8), 7)])
def test_eight_devices_share_the_products_and_send_little_more_than_embeddings_and_gradients(fold, turns):
  width = 512
  split = NamedSharding(mesh(), P('data'))
  x = jax.ShapeDtypeStruct((B, width), jnp.float32, sharding=split)
  loss = functools.partial(losses.symmetric_info_nce, fold=fold)
  jaxpr = jax.make_jaxpr(jax.value_and_grad(lambda x, y: loss(x, y).mean(), (0, 1)))(x, x)
  found = count(jaxpr, devices=8)
  assert found.flop == 8 * B * B * width // 8
  shard = B // 8 * width * 4
  # Columns in both passes and their gradients; the ring's gradients come home a turn later.
  least = {8: 3 * 8 + 1, 7: 3 * 7}[turns] * shard
  assert least <= found.sent < 1.05 * least
