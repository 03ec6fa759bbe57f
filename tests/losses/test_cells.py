"""Losses of cells: the equations by loops in float64, and what the paper and its code say of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax import losses
from contrastive_jax.types import Refusal

WHOLE = (0.0, 0.0, 1.0, 1.0)
BOXES = [
  WHOLE,
  (0.1, 0.2, 0.7, 0.8),
  (0.7, 0.2, 0.1, 0.8),  # mirrored
  (0.3, 0.1, 0.9, 0.5),
  (0.0, 0.0, 0.4, 0.4),
  (0.6, 0.6, 1.0, 1.0),  # apart from the one before
  (0.95, 0.0, 0.35, 0.9),
]
PAIRS = [(i, j) for i in range(len(BOXES)) for j in range(len(BOXES))]


def looped_distance(x_box, y_box, height, width):
  """Cell by cell: centres from start, index and size of a cell; distance by the larger of the diagonals."""
  distance = np.zeros((height * width, height * width))
  sizes = [((b[2] - b[0]) / width, (b[3] - b[1]) / height) for b in (x_box, y_box)]
  larger = max(np.hypot(*size) for size in sizes)

  def centre(box, size, i):
    return box[0] + (i % width + 0.5) * size[0], box[1] + (i // width + 0.5) * size[1]

  for i in range(height * width):
    for j in range(height * width):
      x, y = centre(x_box, sizes[0], i), centre(y_box, sizes[1], j)
      distance[i, j] = np.hypot(x[0] - y[0], x[1] - y[1]) / larger
  return distance


def boxes(rows):
  return jnp.array(rows, jnp.float32)


def mask_of(x_box, y_box, shape, **options):
  return np.asarray(losses.pair_mask(boxes([x_box]), boxes([y_box]), shape, **options))[0]


@pytest.mark.parametrize('shape', [(7, 7), (4, 6)])
@pytest.mark.parametrize('threshold', [0.7, 0.43, 1.1])
def test_the_mask_is_that_of_a_loop_over_cells(shape, threshold):
  got = losses.pair_mask(
    boxes([BOXES[i] for i, _ in PAIRS]), boxes([BOXES[j] for _, j in PAIRS]), shape, threshold=threshold
  )
  distance = np.stack([looped_distance(BOXES[i], BOXES[j], *shape) for i, j in PAIRS])
  assert got.shape == distance.shape and got.dtype == bool
  clear = np.abs(distance - threshold) > 1e-5  # others may round to either side
  assert clear.mean() > 0.99
  np.testing.assert_array_equal(np.asarray(got)[clear], (distance < threshold)[clear])
  assert 0.001 < got.mean() < 0.3


@pytest.mark.parametrize('box', [WHOLE, (0.2, 0.3, 0.6, 0.7), (0.6, 0.3, 0.2, 0.7)])
def test_identical_square_boxes_pair_every_cell_with_itself_alone(box):
  np.testing.assert_array_equal(mask_of(box, box, (7, 7)), np.eye(49, dtype=bool))
  assert mask_of(box, box, (7, 7), threshold=0.72).sum() == 49 + 4 * 7 * 6  # and its neighbours at 0.707


def test_neighbours_along_the_short_side_of_an_elongated_box_become_positives():
  mask = mask_of((0.0, 0.0, 0.9, 0.3), (0.0, 0.0, 0.9, 0.3), (5, 5)).reshape(5, 5, 5, 5)
  assert mask[2, 2, 1, 2] and mask[2, 2, 3, 2]
  assert not mask[2, 2, 2, 1] and not mask[2, 2, 2, 3]


def test_a_mirrored_view_pairs_each_cell_with_its_image_in_the_mirror():
  mask = mask_of(WHOLE, (1.0, 0.0, 0.0, 1.0), (4, 4)).reshape(4, 4, 4, 4)
  want = np.zeros((4, 4, 4, 4), bool)
  for row, column in np.ndindex(4, 4):
    want[row, column, row, 3 - column] = True
  np.testing.assert_array_equal(mask, want)


def test_the_mask_of_the_other_order_is_the_transpose():
  x, y = boxes([BOXES[1], BOXES[3]]), boxes([BOXES[6], BOXES[0]])
  there, back = (losses.pair_mask(a, b, (5, 3)) for a, b in ((x, y), (y, x)))
  np.testing.assert_array_equal(there, jnp.swapaxes(back, 1, 2))


def test_disjoint_boxes_have_no_pairs_no_loss_and_no_gradient():
  mask = jnp.asarray(mask_of((0.0, 0.0, 0.4, 0.4), (0.6, 0.6, 1.0, 1.0), (7, 7)))[None]
  assert not mask.any()
  x, y = cells(0, (1, 49, 5)), cells(1, (1, 49, 5))
  for loss in (losses.pix_pro, losses.pix_contrast):
    value, gradient = jax.value_and_grad(lambda x, loss=loss: loss(x, y, mask).sum())(x)
    assert value == 0 and (gradient == 0).all()


def cells(seed, shape):
  return losses.unit(jax.random.normal(jax.random.key(seed), shape))


def some_mask(shape=(4, 9, 9), seed=0):
  """Cells with several positives, one, and none; the last image has none at all."""
  mask = np.random.default_rng(seed).random(shape) < 0.2
  mask[0, :3], mask[-1] = False, False
  return jnp.asarray(mask)


X, Y, MASK = cells(2, (4, 9, 6)), cells(3, (4, 9, 6)), some_mask()


def looped_pix_pro(x, y, mask):
  """The mean cosine of the pairs of each image, as its code divides it, and with its sign."""
  x, y, mask = np.float64(x), np.float64(y), np.asarray(mask)
  values = []
  for b in range(len(x)):
    total = sum(x[b, i] @ y[b, j] for i, j in np.argwhere(mask[b]))
    values.append(-total / (mask[b].sum() + 1e-6))
  return np.array(values)


def looped_pix_contrast(x, y, mask, temperature):
  x, y, mask = np.float64(x), np.float64(y), np.asarray(mask)
  values = np.zeros(mask.shape[:2])
  for b, i in np.ndindex(*values.shape):
    weights = [np.exp(x[b, i] @ y[b, j] / temperature) for j in range(mask.shape[2])]
    positives = [w for j, w in enumerate(weights) if mask[b, i, j]]
    if positives:
      values[b, i] = -np.log(sum(positives) / sum(weights))
  return values


def looped_propagate(x, values, gamma):
  x, values = np.float64(x), np.float64(values)
  out = np.zeros_like(values)
  for b, i in np.ndindex(*x.shape[:2]):
    for j in range(x.shape[1]):
      cosine = x[b, i] @ x[b, j] / np.linalg.norm(x[b, i]) / np.linalg.norm(x[b, j])
      out[b, i] += max(cosine, 0) ** gamma * values[b, j] / np.linalg.norm(values[b, j])
    out[b, i] /= np.linalg.norm(out[b, i])
  return out


def test_pix_pro_is_the_mean_over_pairs_of_a_loop():
  np.testing.assert_allclose(losses.pix_pro(X, Y, MASK), looped_pix_pro(X, Y, MASK), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize('temperature', [0.3, 1.0, 0.05])
def test_pix_contrast_is_that_of_a_loop(temperature):
  got = losses.pix_contrast(X, Y, MASK, temperature=temperature)
  np.testing.assert_allclose(got, looped_pix_contrast(X, Y, MASK, temperature), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('gamma', [2.0, 1.0, 0.5, 7.0])
def test_propagation_is_that_of_a_loop(gamma):
  x, values = (jax.random.normal(jax.random.key(i), (2, 9, 5)) for i in (4, 5))
  got = losses.propagate(x, values, gamma=gamma)
  np.testing.assert_allclose(got, looped_propagate(x, values, gamma), atol=1e-5)


def difference(function, x, direction, step=1e-5):
  return sum(sign * function(np.float64(x) + sign * step * direction).sum() for sign in (1, -1)) / (2 * step)


def test_gradients_are_those_of_the_loops_and_the_teacher_gets_none():
  direction = np.random.default_rng(1).normal(size=X.shape)
  for got, loop in (
    (losses.pix_pro, lambda x: looped_pix_pro(x, Y, MASK)),
    (losses.pix_contrast, lambda x: looped_pix_contrast(x, Y, MASK, 0.3)),
  ):
    of_x, of_y = jit(jax.grad(lambda x, y, got=got: got(x, y, MASK).sum(), (0, 1)))(X, Y)
    np.testing.assert_allclose((of_x * direction).sum(), difference(loop, X, direction), rtol=1e-3)
    assert (of_y == 0).all()


@pytest.mark.parametrize('gamma', [2.0, 0.5])
def test_the_gradient_of_propagation_is_that_of_the_loop(gamma):
  x, weight = jax.random.normal(jax.random.key(4), (2, 6, 5)), np.random.default_rng(2).normal(size=(2, 6, 5))
  direction = np.random.default_rng(3).normal(size=x.shape)
  gradient = jit(jax.grad(lambda x: (losses.propagate(x, x, gamma=gamma) * weight).sum()))(x)
  want = difference(lambda x: looped_propagate(x, x, gamma) * weight, x, direction)
  np.testing.assert_allclose((gradient * direction).sum(), want, rtol=1e-3)


def test_cells_at_right_angles_have_finite_gradients_whatever_gamma():
  for gamma in (0.5, 1.0, 2.0, 40.0):
    gradient = jax.grad(lambda x, gamma=gamma: losses.propagate(x, x[..., :2], gamma=gamma).sum())(jnp.eye(4)[None])
    assert jnp.isfinite(gradient).all()


def test_a_large_gamma_leaves_distinct_cells_as_they_are():
  np.testing.assert_allclose(losses.propagate(X, X, gamma=1e4), X, atol=1e-5)
  assert jnp.abs(losses.propagate(X, X) - X).max() > 0.1


def test_propagation_over_cells_that_are_all_alike_is_their_mean():
  x = jnp.ones((1, 5, 3))
  values = cells(6, (1, 5, 4))
  want = losses.unit(values.mean(1, keepdims=True))
  np.testing.assert_allclose(losses.propagate(x, values), jnp.tile(want, (1, 5, 1)), atol=1e-6)


def test_pix_pro_lies_from_minus_one_where_pairs_agree_to_one_where_they_oppose():
  mask = some_mask(seed=1).at[-1].set(True)
  same = jnp.broadcast_to(cells(7, (4, 1, 6)), X.shape)
  np.testing.assert_allclose(losses.pix_pro(same, same, mask), -1, atol=1e-6)
  np.testing.assert_allclose(losses.pix_pro(same, -same, mask), 1, atol=1e-6)
  values = losses.pix_pro(X, Y, mask)
  assert (jnp.abs(values) < 1).all()


def test_pix_contrast_is_the_logarithm_of_the_shares_where_all_cells_are_alike():
  same = jnp.broadcast_to(cells(7, (4, 1, 6)), X.shape)
  positives = np.asarray(MASK.sum(-1))
  want = np.where(positives > 0, np.log(9 / np.maximum(positives, 1)), 0)
  np.testing.assert_allclose(losses.pix_contrast(same, same, MASK), want, atol=1e-5)


def test_pix_contrast_of_one_positive_a_cell_is_cross_entropy():
  mask = jnp.broadcast_to(jnp.eye(9, dtype=bool), (4, 9, 9))
  logits = jnp.einsum('bid,bjd->bij', X, Y) / 0.2
  want = -jax.nn.log_softmax(logits)[:, jnp.arange(9), jnp.arange(9)]
  np.testing.assert_allclose(losses.pix_contrast(X, Y, mask, temperature=0.2), want, rtol=1e-4)


def test_an_image_has_the_value_that_it_has_alone():
  for loss in (losses.pix_pro, losses.pix_contrast):
    alone = jnp.concatenate([loss(X[b : b + 1], Y[b : b + 1], MASK[b : b + 1]) for b in range(4)])
    np.testing.assert_allclose(loss(X, Y, MASK), alone, atol=1e-6)


def test_half_precision_is_summed_in_float32():
  x, y = X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16)
  assert losses.pix_pro(x, y, MASK).dtype == losses.pix_contrast(x, y, MASK).dtype == jnp.float32
  assert losses.propagate(x, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: losses.pair_mask(jnp.zeros((2, 3)), jnp.zeros((2, 3)), (7, 7)), r'must both be \[B, 4\]'),
    (lambda: losses.pair_mask(jnp.zeros((2, 4)), jnp.zeros((2, 4)), (7, 0)), 'height and width of the maps'),
    (lambda: losses.pair_mask(jnp.zeros((2, 4)), jnp.zeros((2, 4)), (7, 7), threshold=0.0), 'threshold must be > 0'),
    (lambda: losses.pix_pro(X, Y[..., :3], MASK), r'x must be \[B, P, D\] and y \[B, Q, D\]'),
    (lambda: losses.pix_pro(X, Y, MASK[:, :4]), r'mask must be \[4, 9, 9\]'),
    (lambda: losses.pix_contrast(X, Y, MASK.astype(jnp.float32)), 'mask must be boolean'),
    (lambda: losses.pix_contrast(X, Y, MASK, temperature=0.0), 'temperature must be > 0'),
    (lambda: losses.propagate(X, Y[:, :4]), r'x and values must be'),
    (lambda: losses.propagate(X, Y, gamma=0.0), 'gamma must be > 0'),
  ],
)
def test_what_cannot_be_meant_is_refused(call, message):
  with pytest.raises(Refusal, match=message):
    call()
