"""What all presets of views share: their type, the plain image, normalisation, checks of options."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from contrastive_jax.types import Refusal

Colours = tuple[float, ...]
Image = Float[Array, 'h w c']
Pixels = UInt8[Array, 'h w c']

# Small view s has this number and s: beyond all others, so that neither depends on how many there are of the other.
FIRST_SMALL = 2**16
CAPTIONS = 2**17  # not a view: the draw of captions


class Views(NamedTuple):
  """How a data set's raw image [h, w, c] of uint8 becomes the encoder's input, float32 and normalised."""

  augment: Callable[[Key[Array, ''], Pixels, int], Image]  # one random view; its number may choose the options
  plain: Callable[[Pixels], Image]  # no randomness: what evaluations see
  kinds: int = 1  # views v and v + kinds are made alike, but for their keys


def unit(image: Pixels) -> Image:
  """Values in [0, 1]."""
  return image.astype(jnp.float32) / 255


def normalise(image: Image, mean: Colours, std: Colours) -> Image:
  """`(image - mean) / std`, per channel.

  Raises:
    Refusal: statistics of another number of channels.
  """
  channels = image.shape[2]
  if len(mean) != channels or len(std) != channels:
    raise Refusal(f'mean has {len(mean)} and std {len(std)} values; the images have {channels} channels')
  return (image - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def size(image: Image, image_size: int | None) -> tuple[int, int]:
  """Height and width of a view: a square of `image_size`, or those of the image."""
  height, width, _ = image.shape
  return (height, width) if image_size is None else (image_size, image_size)


def plain(mean: Colours, std: Colours, image_size: int | None) -> Callable[[Pixels], Image]:
  """The image itself, or its largest centred square at the wanted size, normalised.

  Raises:
    Refusal: a size below 1.
  """
  if image_size is not None and image_size < 1:
    raise Refusal(f'image_size is {image_size}; at least 1 pixel is needed')

  def of_image(image):
    image = unit(image)
    height, width = image.shape[:2]
    if image_size is not None and (height, width) != (image_size, image_size):
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
