"""Operations on one image that views are made of: resampling, colour, blur, erasing, solarisation.

Every function is a pure function of an image float32 [h, w, c] with values in [0, 1] and of parameters that are already
drawn, so it can be jitted and mapped over examples that each have parameters of their own, and tested without
randomness.
"""

import dm_pix as pix
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_IDENTITY_SIGMA = 1e-2  # exp(-0.5 / sigma ** 2) is exactly 0 in float32: the blur's matrix is the identity


def between(low, high, u):
  """Moves u of [0, 1) to [low, high), linearly."""
  return low + (high - low) * u


def flip(image: Float[Array, 'h w c'], where) -> Float[Array, 'h w c']:
  """Mirrors the image left to right where `where` (a scalar) is true."""
  return jnp.where(where, image[:, ::-1], image)


def crop_box(u: Float[Array, '4'], shape: tuple[int, int], *, scale: tuple[float, float], ratio: tuple[float, float]):
  r"""Draws the box of a random resized crop: (top, left, height, width) in pixels, not rounded.

  The area is uniform in `scale` (fractions of the image) and the logarithm of the aspect ratio width / height uniform
  in the part of `ratio` at which a box of that area fits the image, so no draw is ever rejected: with fractions f_h,
  f_w of the sides and q = f_w / f_h, both are at most 1 when :math:`|\log q| \le -\log(\text{area})`.

  Args:
    u: four uniform draws in [0, 1).
    shape: height and width of the image.
    scale: least and greatest area, as fractions of the image.
    ratio: least and greatest aspect ratio (width / height).

  Source: random resized crops of Szegedy et al., 2015, as used by Chen et al. (SimCLR), 2020; there draws that do not
  fit are rejected, which makes large areas slightly rarer than uniform.
  """
  height, width = shape
  area = between(*scale, u[0])
  limit = -jnp.log(area)
  low, high = (jnp.clip(jnp.log(r * height / width), -limit, limit) for r in ratio)
  log_q = between(low, high, u[1])
  rows = jnp.minimum(jnp.sqrt(area) * jnp.exp(-log_q / 2), 1.0) * height
  columns = jnp.minimum(jnp.sqrt(area) * jnp.exp(log_q / 2), 1.0) * width
  return (height - rows) * u[2], (width - columns) * u[3], rows, columns


def crop_resize(image: Float[Array, 'h w c'], box, size: tuple[int, int], *, method='cubic') -> Float[Array, 'H W c']:
  """Resamples the box (top, left, height, width; pixels, inside the image) to `size`, antialiased when it shrinks.

  `method` is one of jax.image's ('linear', 'cubic'); cubic may leave [0, 1] a little. The whole image at its own size
  is returned unchanged up to rounding.
  """
  corner, extent = jnp.stack(box[:2]), jnp.stack(box[2:])
  scale = jnp.asarray(size, jnp.float32) / extent
  return jax.image.scale_and_translate(image, (*size, image.shape[2]), (0, 1), scale, -corner * scale, method)


def affine(*, box, shape: tuple[int, int], angle, shear, zoom, shift, mirror) -> Float[Array, '2 3']:
  """Composes crop, mirror, rotation, shear, zoom and translation into one map for `warp`.

  Args:
    box: (top, left, height, width) in pixels: the part of the image that fills the output when the rest is neutral.
    shape: height and width of the image.
    angle: rotation in radians, clockwise on the screen. Neutral: 0.
    shear: horizontal shear, in columns per row. Neutral: 0.
    zoom: magnification of the content. Neutral: 1.
    shift: (down, right) translation of the content, as fractions of the box. Neutral: 0, 0.
    mirror: whether to flip left to right (a boolean scalar).

  Returns:
    [2, 3] matrix from output (row, column, 1), in units of half the output's sides around its centre, to image pixels
    around the image's centre.
  """
  top, left, height, width = box
  cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  # Output to input: undo the shift, then the rotation and zoom, then the shear.
  turn = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin - shear * cos, cos + shear * sin])])
  half = jnp.stack([height, width]) * jnp.where(mirror, jnp.array([0.5, -0.5]), 0.5).astype(jnp.float32)
  linear = turn * half
  middle = jnp.stack([top + (height - shape[0]) / 2, left + (width - shape[1]) / 2])
  down, right = shift
  moved = turn[:, 0] * down * height + turn[:, 1] * right * width
  return jnp.concatenate([linear, (middle - moved)[:, None]], axis=1)


def frame(image: Float[Array, 'h w c']) -> Float[Array, 'H W c']:
  """Surrounds the image with one black pixel, which `warp` extends outwards."""
  return jnp.pad(image, ((1, 1), (1, 1), (0, 0)))


def warp(image: Float[Array, 'h w c'], matrix: Float[Array, '2 3'], size: tuple[int, int]) -> Float[Array, 'H W c']:
  """Resamples the image through an affine map (see `affine`): bilinear, once; beyond its border, its border goes on.

  Does not antialias: meant for maps that magnify or shrink a little. The library's warp interpolates in three
  dimensions, with channels as the third (8 reads a value instead of 4).
  """
  height, width, channels = image.shape
  rows, columns = ((2 * jnp.arange(n, dtype=jnp.float32) + 1) / n - 1 for n in size)
  grid = jnp.stack([*jnp.meshgrid(rows, columns, indexing='ij'), jnp.ones(size, jnp.float32)])
  # A matrix product, because its result is stored: elementwise arithmetic would be fused into, that is repeated with
  # the sines and random bits it comes from in, each of the pixels' later uses.
  y, x = jnp.einsum('ak,kij->aij', matrix, grid, precision=lax.Precision.HIGHEST)
  y, x = jnp.clip(y + (height - 1) / 2, 0, height - 1), jnp.clip(x + (width - 1) / 2, 0, width - 1)
  row, column = y.astype(jnp.int32), x.astype(jnp.int32)
  y_part, x_part = (y - row)[..., None], (x - column)[..., None]
  flat = image.reshape(-1, channels)

  def corner(down, right):
    place = jnp.minimum(row + down, height - 1) * width + jnp.minimum(column + right, width - 1)
    return flat.at[place].get(mode='promise_in_bounds')

  above = corner(0, 0) * (1 - x_part) + corner(0, 1) * x_part
  below = corner(1, 0) * (1 - x_part) + corner(1, 1) * x_part
  return above * (1 - y_part) + below * y_part


def tone(image: Float[Array, 'h w c'], brightness, contrast) -> Float[Array, 'h w c']:
  """Multiplies by `brightness`, then scales distances to each channel's mean by `contrast`; clipped to [0, 1]."""
  return jnp.clip(pix.adjust_contrast(image * brightness, contrast), 0.0, 1.0)


def colour_jitter(
  image: Float[Array, 'h w c'], factors: Float[Array, '4'], rank: Float[Array, '4']
) -> Float[Array, 'h w c']:
  """Changes brightness, contrast, saturation and hue in the order of `rank` (least first), clipping to [0, 1].

  Brightness, saturation and hue commute (each changes one coordinate of hue, saturation and value; clipping aside), so
  an order only says which of them come before contrast: two passes over the colours instead of four.

  Args:
    image: one (grey) or three channels; saturation and hue change nothing in a grey image.
    factors: brightness (product), contrast (product of distances to each channel's mean), saturation (product), hue
      (fraction of a turn, added). Neutral: 1, 1, 1, 0.
    rank: four different numbers, in the order of `factors`.

  Source: Chen et al. (SimCLR), 2020, appendix A, and its official code (multiplicative brightness, random order).
  """
  neutral = jnp.array([1, 1, 1, 0], jnp.float32)

  def shift(image, chosen):
    brightness, _, saturation, hue = jnp.where(chosen, factors, neutral)
    image = jnp.clip(image * brightness, 0.0, 1.0)
    if image.shape[2] != 3:
      return image
    h, s, v = jnp.moveaxis(pix.rgb_to_hsv(image), 2, 0)
    return pix.hsv_to_rgb(jnp.stack([h + hue, jnp.clip(s * saturation, 0.0, 1.0), v], axis=2))

  image = tone(shift(image, rank < rank[1]), 1.0, factors[1])
  return shift(image, rank > rank[1])


def grey(image: Float[Array, 'h w c'], where) -> Float[Array, 'h w c']:
  """Replaces the colours by their luminance (ITU-R BT.601) where `where` is true; one channel stays as it is."""
  if image.shape[2] != 3:
    return image
  return jnp.where(where, pix.rgb_to_grayscale(image, keep_dims=True), image)


def blur(image: Float[Array, 'h w c'], sigma, where, *, radius: int) -> Float[Array, 'h w c']:
  """Blurs with a Gaussian of `sigma` pixels cut at `radius` where `where` (a scalar) is true.

  Two products with banded matrices, whose rows are normalised over the pixels inside the image: a constant image stays
  constant up to its border (a convolution that pads with zeros, the library's way, darkens it), and per-example widths
  cost one batched matrix product on every backend.
  """
  sigma = jnp.where(where, sigma, _IDENTITY_SIGMA)

  def band(n):
    distance = jnp.abs(jnp.arange(n)[:, None] - jnp.arange(n)).astype(jnp.float32)
    weight = jnp.where(distance <= radius, jnp.exp(-jnp.square(distance / sigma) / 2), 0.0)
    return weight / weight.sum(axis=1, keepdims=True)

  high = lax.Precision.HIGHEST
  rows = jnp.einsum('yi,ijc->yjc', band(image.shape[0]), image, precision=high)
  return jnp.einsum('xj,yjc->yxc', band(image.shape[1]), rows, precision=high)


def erase(image: Float[Array, 'h w c'], box, where, *, value: float = 0.0) -> Float[Array, 'h w c']:
  """Sets the pixels whose centres lie in the box (top, left, height, width; pixels) to `value` where `where` is true.

  Source: random erasing (Zhong et al., 2017) and cutout (DeVries and Taylor, 2017).
  """
  top, left, height, width = box
  row = jnp.arange(image.shape[0], dtype=jnp.float32) + 0.5
  column = jnp.arange(image.shape[1], dtype=jnp.float32) + 0.5
  inside = ((row >= top) & (row < top + height))[:, None] & (column >= left) & (column < left + width)
  return jnp.where((inside & where)[..., None], value, image)


def solarise(image: Float[Array, 'h w c'], where, *, threshold: float = 0.5) -> Float[Array, 'h w c']:
  """Inverts values from `threshold` on, x to 1 - x, where `where` (a scalar) is true.

  Source: Grill et al. (BYOL), 2020, appendix B, for a darkroom effect of that name.
  """
  return jnp.where(where & (image >= threshold), 1 - image, image)
