"""What all presets of views share: their type, the plain image, normalisation, checks of options."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from contrastive_jax.types import Refusal

Colours = tuple[float, ...]
Image = Float[Array, 'h w c']
Box = Float[Array, '4']  # x1, y1, x2, y2 of a view in its image
Pixels = UInt8[Array, 'h w c']  # or a floating-point input of another shape

# Small view s has this number and s: beyond all others, so that neither depends on how many there are of the other.
FIRST_SMALL = 2**16
CAPTIONS = 2**17  # not a view: the draw of captions


class Views(NamedTuple):
  """How a data set's raw image [h, w, c] of uint8 becomes the encoder's input, float32 and normalised."""

  augment: Callable[[Key[Array, ''], Pixels, int], Image]  # one random view; its number may choose the options
  plain: Callable[[Pixels], Image]  # no randomness: what evaluations see
  kinds: int = 1  # views v and v + kinds are made alike, but for their keys
  located: Callable[[Key[Array, ''], Pixels, int], tuple[Image, Box]] | None = None  # `augment`, and where it cut


def tell(located: Callable[..., tuple[Image, Box]], plain: Callable[[Pixels], Image], kinds: int = 1) -> Views:
  """Views of a function that makes one and says where it lies in its image."""

  def augment(key, image, view=0):
    return located(key, image, view)[0]

  return Views(augment, plain, kinds, located)


def place(box, shape: tuple[int, int], mirror) -> Box:
  """Where a crop (top, left, height, width; pixels) lies in an image of `shape`: x1, y1, x2, y2, shares of its sides.

  x1 > x2 where it is mirrored, so that from the first corner to the second is from the view's first pixel to its last.
  Corners are those of pixels, so crops side by side share an edge. The code of PixPro (Xie et al., 2021) takes the
  indices of the outermost pixels instead, over the side less one pixel.
  """
  top, left, height, width = (jnp.asarray(side, jnp.float32) for side in box)
  x1, x2 = left / shape[1], (left + width) / shape[1]
  ends = jnp.where(mirror, x2, x1), jnp.where(mirror, x1, x2)
  return jnp.stack([ends[0], top / shape[0], ends[1], (top + height) / shape[0]])


def unit(image: Pixels) -> Image:
  """Pixels in [0, 1]; other inputs, which are floating-point numbers, as they are."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image


def normalise(image: Image, mean: Colours, std: Colours) -> Image:
  """`(image - mean) / std`, per channel.

  Raises:
    Refusal: statistics of another number of channels.
  """
  channels = image.shape[-1]
  if len(mean) != channels or len(std) != channels:
    raise Refusal(f'mean has {len(mean)} and std {len(std)} values; there are {channels} channels')
  return (image - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def size(image: Image, image_size: int | None) -> tuple[int, int]:
  """Height and width of a view: a square of `image_size`, or those of the image."""
  height, width, _ = image.shape
  return (height, width) if image_size is None else (image_size, image_size)


def plain(mean: Colours, std: Colours, image_size: int | None) -> Callable[[Pixels], Image]:
  """The image itself, or its largest centred square at the wanted size, normalised.

  Raises:
    Refusal: a size below 1, or of what is no image.
  """
  if image_size is not None and image_size < 1:
    raise Refusal(f'image_size is {image_size}; at least 1 pixel is needed')

  def of_image(image):
    image = unit(image)
    if image_size is not None and image.ndim != 3:
      raise Refusal(f'image_size={image_size} is of images, but the input is {list(image.shape)}')
    if image_size is not None and image.shape[:2] != (image_size, image_size):
      height, width = image.shape[:2]
      side = min(height, width)
      top, left = (height - side) // 2, (width - side) // 2
      square = image[top : top + side, left : left + side]
      image = jnp.clip(jax.image.resize(square, (image_size, image_size, image.shape[2]), 'cubic'), 0.0, 1.0)
    return normalise(image, mean, std)

  return of_image


def check_ranges(**ranges: tuple[float, float]):
  """Refuses pairs that are not 0 < least <= greatest."""
  for name, (low, high) in ranges.items():
    if not 0 < low <= high:
      raise Refusal(f'{name} is ({low}, {high}); 0 < least <= greatest is needed')


def check_sizes(**sizes: float):
  """Refuses sizes below 0."""
  for name, value in sizes.items():
    if not value >= 0:
      raise Refusal(f'config.data.views.{name} must be at least 0, but it is {value}')


def check_fractions(**fractions: float | tuple[float, ...]):
  """Refuses values outside of [0, 1], and empty tuples of them."""
  for name, given in fractions.items():
    values = given if isinstance(given, tuple) else (given,)
    if not values:
      raise Refusal(f'{name} is empty; at least one value from 0 to 1 is needed')
    for value in values:
      if not 0 <= value <= 1:
        raise Refusal(f'{name} is {value}; a value from 0 to 1 is needed')
