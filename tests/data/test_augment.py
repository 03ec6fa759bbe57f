import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax.data import augment as ops

warp = jit(ops.warp, static_argnums=2)
affine = jit(ops.affine, static_argnames='shape')
crop_resize = jit(ops.crop_resize, static_argnames=('size', 'method'))
colour_jitter = jit(ops.colour_jitter)

NEUTRAL = dict(angle=0.0, shear=0.0, zoom=1.0, shift=(0.0, 0.0), mirror=False)


def random_image(h, w, c, seed=0):
  return jax.random.uniform(jax.random.key(seed), (h, w, c), jnp.float32)


def whole(h, w):
  return tuple(jnp.float32(x) for x in (0, 0, h, w))


def test_boxes_lie_inside_and_have_the_wanted_areas_and_ratios():
  u = jax.random.uniform(jax.random.key(0), (4000, 4))
  box = jax.vmap(lambda u: jnp.stack(ops.crop_box(u, (20, 30), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))))(u)
  top, left, height, width = np.asarray(box).T
  assert top.min() >= 0 and left.min() >= 0
  assert (top + height).max() <= 20 + 1e-4 and (left + width).max() <= 30 + 1e-4
  area = height * width / 600
  assert 0.08 - 1e-5 <= area.min() < 0.1 and area.max() <= 1 + 1e-5
  np.testing.assert_allclose(area.mean(), 0.54, atol=0.02)  # uniform
  fits = area < 2 / 3 * 3 / 4 - 1e-3  # so small that the whole range of ratios fits a 20 x 30 image
  ratio = width / height
  assert ratio[fits].min() >= 3 / 4 - 1e-4 and ratio[fits].max() <= 4 / 3 + 1e-4
  np.testing.assert_allclose(np.log(ratio[fits]).mean(), 0, atol=0.02)


@pytest.mark.parametrize('method', ['linear', 'cubic'])
def test_the_crop_of_the_whole_image_is_the_image(method):
  image = random_image(9, 13, 3)
  np.testing.assert_allclose(crop_resize(image, whole(9, 13), (9, 13), method=method), image, atol=1e-5)


def test_a_crop_at_whole_pixels_is_the_slice():
  image = random_image(9, 13, 3)
  box = tuple(jnp.float32(x) for x in (2, 4, 5, 6))
  np.testing.assert_allclose(crop_resize(image, box, (5, 6)), image[2:7, 4:10], atol=1e-5)


def test_a_crop_resized_is_the_slice_resized():
  image = random_image(12, 12, 1)
  box = tuple(jnp.float32(x) for x in (3, 2, 6, 8))
  ours = crop_resize(image, box, (12, 16), method='linear')[2:-2, 2:-2]
  theirs = jax.image.resize(image[3:9, 2:10], (12, 16, 1), 'linear')[2:-2, 2:-2]
  np.testing.assert_allclose(ours, theirs, atol=1e-5)  # the border may see pixels outside the box


def test_flip_is_exact_and_only_where_wanted():
  image = random_image(5, 6, 2)
  np.testing.assert_array_equal(ops.flip(image, True), np.asarray(image)[:, ::-1])
  np.testing.assert_array_equal(ops.flip(image, False), image)


def test_the_neutral_warp_is_the_identity():
  for h, w in ((8, 8), (28, 28), (7, 10)):
    image = random_image(h, w, 3)
    matrix = affine(box=(0.0, 0.0, h, w), shape=(h, w), **NEUTRAL)
    np.testing.assert_allclose(warp(ops.frame(image), matrix, (h, w)), image, atol=1e-5)


def test_warps_by_right_angles_whole_pixels_and_factors_are_array_operations():
  image = random_image(8, 8, 2)
  array = np.asarray(image)

  def warped(box=(0.0, 0.0, 8, 8), size=(8, 8), **change):
    return warp(ops.frame(image), affine(box=box, shape=(8, 8), **(NEUTRAL | change)), size)

  np.testing.assert_allclose(warped(mirror=True), array[:, ::-1], atol=1e-5)
  np.testing.assert_allclose(warped(angle=np.pi / 2), np.rot90(array, -1), atol=1e-5)  # clockwise
  moved = np.zeros_like(array)
  moved[2:, 1:] = array[:-2, :-1]
  np.testing.assert_allclose(warped(shift=(2 / 8, 1 / 8)), moved, atol=1e-5)  # down and right, black behind
  np.testing.assert_allclose(warped(box=(2.0, 3.0, 4.0, 5.0), size=(4, 5)), array[2:6, 3:8], atol=1e-5)
  np.testing.assert_allclose(warped(zoom=2.0)[3:5, 3:5], warped(box=(2.0, 2.0, 4.0, 4.0))[3:5, 3:5], atol=1e-5)
  slanted = warped(shear=1.0)  # one column to the right for every row down, none in the middle
  np.testing.assert_allclose(slanted[4, 1:], (array[4, 1:] + array[4, :-1]) / 2, atol=1e-5)


def test_rotation_is_undone_by_the_opposite_rotation():
  smooth = jnp.exp(-jnp.square(jnp.hypot(*jnp.meshgrid(jnp.arange(28) - 15.0, jnp.arange(28) - 11.0)) / 6))[..., None]

  def rotate(image, angle):
    return warp(
      ops.frame(image), affine(box=(0.0, 0.0, 28, 28), shape=(28, 28), **NEUTRAL | dict(angle=angle)), (28, 28)
    )

  np.testing.assert_allclose(rotate(rotate(smooth, 0.3), -0.3), smooth, atol=0.04)  # bilinear sampling softens
  assert np.abs(rotate(smooth, 0.3) - smooth).max() > 0.1


def test_tone_scales_and_stretches_about_the_mean():
  image = random_image(4, 4, 2) * 0.2 + 0.4
  np.testing.assert_allclose(ops.tone(image, 1.0, 1.0), image, atol=1e-6)
  np.testing.assert_allclose(ops.tone(image, 1.5, 1.0), np.clip(image * 1.5, 0, 1), atol=1e-6)
  flat = np.broadcast_to(image.mean((0, 1)), image.shape)
  np.testing.assert_allclose(ops.tone(image, 1.0, 0.0), flat, atol=1e-6)
  assert ops.tone(image, 5.0, 5.0).max() <= 1 and ops.tone(image, 0.1, 9.0).min() >= 0


def test_neutral_colour_jitter_is_the_identity():
  factors, rank = jnp.array([1.0, 1.0, 1.0, 0.0]), jnp.arange(4.0)
  for channels in (1, 3):
    image = random_image(6, 6, channels).at[0, 0].set(0.0).at[1, 1].set(1.0)
    np.testing.assert_allclose(colour_jitter(image, factors, rank), image, atol=1e-5)


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 0, 1)])
def test_colour_jitter_agrees_with_the_standard_library_in_every_order(order):
  image = random_image(5, 5, 3) * 0.6 + 0.1
  brightness, contrast, saturation, hue = 1.1, 0.8, 0.7, 0.13
  expected = np.asarray(image, np.float64)

  def pixelwise(image, change):
    return np.array([[colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in row] for row in image])

  for op in order:
    if op == 0:
      expected = expected * brightness
    elif op == 1:
      expected = expected.mean((0, 1)) + contrast * (expected - expected.mean((0, 1)))
    elif op == 2:
      expected = pixelwise(expected, lambda h, s, v: (h, s * saturation, v))
    else:
      expected = pixelwise(expected, lambda h, s, v: (h + hue, s, v))
  rank = jnp.argsort(jnp.array(order)).astype(jnp.float32)
  ours = colour_jitter(image, jnp.array([brightness, contrast, saturation, hue]), rank)
  np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_grey_has_equal_channels_of_the_same_luminance_and_one_channel_is_left_alone():
  image = random_image(4, 4, 3)
  result = np.asarray(ops.grey(image, True))
  np.testing.assert_allclose(result, np.repeat(image @ jnp.array([[0.299], [0.587], [0.114]]), 3, 2), atol=2e-4)
  np.testing.assert_array_equal(ops.grey(image, False), image)
  np.testing.assert_array_equal(ops.grey(image[..., :1], True), image[..., :1])


def test_blur_preserves_constant_images_up_to_the_border():
  image = jnp.full((16, 12, 3), 0.37)
  np.testing.assert_allclose(ops.blur(image, 2.0, True, radius=3), image, atol=1e-6)


def test_blur_is_the_gaussian_convolution_inside_and_nothing_where_not_wanted():
  image = random_image(15, 15, 1)
  kernel = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.3**2))
  kernel /= kernel.sum()
  expected = np.apply_along_axis(np.convolve, 0, np.asarray(image)[..., 0], kernel, 'same')
  expected = np.apply_along_axis(np.convolve, 1, expected, kernel, 'same')
  blurred = ops.blur(image, 1.3, True, radius=3)
  np.testing.assert_allclose(blurred[3:-3, 3:-3, 0], expected[3:-3, 3:-3], atol=1e-6)
  np.testing.assert_array_equal(ops.blur(image, 1.3, False, radius=3), image)


def test_erase_blackens_the_box_and_nothing_else():
  image = random_image(8, 9, 2) + 0.1
  erased = np.asarray(ops.erase(image, (2.0, 3.0, 4.0, 5.0), True))
  expected = np.array(image)
  expected[2:6, 3:8] = 0
  np.testing.assert_array_equal(erased, expected)
  np.testing.assert_array_equal(ops.erase(image, (2.0, 3.0, 4.0, 5.0), False), image)
