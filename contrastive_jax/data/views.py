"""Views of images, made on the device: presets of augmentations, and the views of a batch.

A preset is a factory ``name(*, mean, std, image_size=None, ...) -> Views``; its keyword options are its configuration.
Everything random comes from the key, so a view is a pure function of (seed, step, index, view): the same on any number
of devices, however the batch is cut, and after a restart.

All options called `scale`, `ratio`, `zoom` or `erase_area` are (least, greatest) pairs; probabilities are in [0, 1];
angles are in degrees and drawn from [-x, x], as are shears and shifts; brightness and contrast x draw a factor from
[max(0, 1 - x), 1 + x]. With everything neutral, a view is the plain image.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from contrastive_jax.data import augment as ops
from contrastive_jax.types import SMALL_VIEW, VIEW, Batch, Refusal

Colours = tuple[float, ...]
Image = Float[Array, 'h w c']
Pixels = UInt8[Array, 'h w c']

NEUTRAL = np.array([1, 1, 1, 0], np.float32)  # brightness, contrast, saturation, hue that change nothing
# Small view s has the key of this view: beyond all others, so that neither depends on how many there are of the other.
FIRST_SMALL = 2**16
SMALLEST_BLURRED = 64  # pixels: SimCLR blurs ImageNet (224) but not CIFAR-10 (32)


class Views(NamedTuple):
  """How a data set's raw image [h, w, c] of uint8 becomes the encoder's input, float32 and normalised."""

  augment: Callable[[Key[Array, ''], Pixels], Image]  # one random view
  plain: Callable[[Pixels], Image]  # no randomness: what evaluations see


def simclr(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  crop_scale: tuple[float, float] = (0.08, 1.0),
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
  flip: float = 0.5,
  jitter: float = 0.8,
  strength: float = 1.0,
  grey: float = 0.2,
  blur: float | None = None,
  blur_kernel: float = 0.1,
  blur_sigma: tuple[float, float] = (0.1, 2.0),
) -> Views:
  """Views of SimCLR: random resized crop, flip, colour jitter, grey, blur.

  Args:
    mean: per channel, in [0, 1] units, subtracted last.
    std: per channel, divided by last.
    image_size: side of the (square) view in pixels; None keeps the size of the image.
    crop_scale: area of the crop, as fractions of the image.
    crop_ratio: width / height of the crop.
    flip: probability of mirroring left to right.
    jitter: probability of colour jitter.
    strength: s of the paper: brightness, contrast and saturation change by up to 0.8 s, hue by up to 0.2 s of a turn,
      in random order. The paper takes 1 for ImageNet and 0.5 for CIFAR-10.
    grey: probability of dropping the colours.
    blur: probability of a Gaussian blur; None is 0.5 for views of at least 64 pixels and 0 below, as in the paper.
    blur_kernel: width of the blur's kernel, as a fraction of the view.
    blur_sigma: range of the blur's standard deviation in pixels.

  Raises:
    Refusal: an option is outside its range.

  Source: Chen et al., 2020, appendix A, and its official code (bicubic resizing). Two details differ: crops are never
  rejected (see `augment.crop_box`) and their corners are not rounded to whole pixels.
  """
  _check(crop_scale=crop_scale, crop_ratio=crop_ratio, blur_sigma=blur_sigma)
  _check_size(strength=strength)
  _check_fractions(
    crop_scale=crop_scale[1], flip=flip, jitter=jitter, grey=grey, blur=blur or 0.0, blur_kernel=blur_kernel
  )
  spread = np.array([0.8, 0.8, 0.8, 0.2], np.float32) * np.float32(strength)
  least = np.maximum(NEUTRAL - spread, np.array([0, 0, 0, -1], np.float32))  # a factor is never negative

  def augment(key, image):
    image = _unit(image)
    u = jax.random.uniform(key, (17,), jnp.float32)
    box = ops.crop_box(u[:4], _size(image, None), scale=crop_scale, ratio=crop_ratio)
    image = ops.flip(ops.crop_resize(image, box, _size(image, image_size)), u[4] < flip)
    factors = ops.between(least, NEUTRAL + spread, u[5:9])
    image = ops.colour_jitter(image, jnp.where(u[9] < jitter, factors, NEUTRAL), u[10:14])
    image = ops.grey(image, u[14] < grey)
    image = _blur(image, u[15:17], blur, blur_kernel, blur_sigma)
    return _normalise(image, mean, std)

  return Views(augment, _plain(mean, std, image_size))


def weak(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  shift: float = 0.125,
  flip: float = 0.5,
) -> Views:
  """Views that change little: a random shift (by up to `shift` of each side, black beyond the image) and a flip.

  Arguments are those of `simclr`; the defaults are the weak augmentation of FixMatch (Sohn et al., 2020), with shifts
  that are not rounded to whole pixels.
  """
  _check_fractions(shift=shift, flip=flip)

  def augment(key, image):
    image = _unit(image)
    u = jax.random.uniform(key, (3,), jnp.float32)
    moved = dict(shift=ops.between(-shift, shift, u[:2]), mirror=u[2] < flip)
    image = _warp(image, _size(image, image_size), **moved)
    return _normalise(image, mean, std)

  return Views(augment, _plain(mean, std, image_size))


def digits(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  rotate: float = 15.0,
  shear: float = 0.15,
  zoom: tuple[float, float] = (0.85, 1.15),
  shift: float = 0.1,
  contrast: float = 0.3,
  brightness: float = 0.2,
  noise: float = 0.03,
  erase: float = 0.3,
  erase_area: tuple[float, float] = (0.02, 0.1),
) -> Views:
  """Views of tiny handwritten characters (8x8): a small affine warp, contrast, noise, cut-out; never mirrored.

  Args:
    mean: as in `simclr`.
    std: as in `simclr`.
    image_size: as in `simclr`.
    rotate: greatest rotation in degrees.
    shear: greatest horizontal shear, in columns per row.
    zoom: range of the magnification.
    shift: greatest translation, as a fraction of each side.
    contrast: greatest relative change of contrast.
    brightness: greatest relative change of brightness.
    noise: standard deviation of Gaussian noise on [0, 1] pixels.
    erase: probability of blackening a rectangle.
    erase_area: range of the rectangle's area, as fractions of the image.

  Raises:
    Refusal: an option is outside its range.
  """
  _check(zoom=zoom, erase_area=erase_area)
  _check_size(noise=noise)
  _check_fractions(shift=shift, erase=erase, erase_area=erase_area[1])
  tilt = math.radians(rotate)

  def augment(key, image):
    image = _unit(image)
    pixels, scalars = jax.random.split(key)
    u = jax.random.uniform(scalars, (13,), jnp.float32)
    image = _warp(
      image,
      _size(image, image_size),
      tone=(_factor(brightness, u[5]), _factor(contrast, u[6])),
      angle=ops.between(-tilt, tilt, u[0]),
      shear=ops.between(-shear, shear, u[1]),
      zoom=ops.between(*zoom, u[2]),
      shift=ops.between(-shift, shift, u[3:5]),
    )
    if noise:
      image = jnp.clip(image + noise * jax.random.normal(pixels, image.shape, jnp.float32), 0.0, 1.0)
    image = _erase(image, u[7:12], erase, erase_area)
    return _normalise(image, mean, std)

  return Views(augment, _plain(mean, std, image_size))


def garments(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  crop_scale: tuple[float, float] = (0.4, 1.0),
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
  flip: float = 0.5,
  rotate: float = 10.0,
  shear: float = 0.1,
  brightness: float = 0.4,
  contrast: float = 0.4,
  erase: float = 0.5,
  erase_area: tuple[float, float] = (0.02, 0.2),
) -> Views:
  """Views of small grey pictures of things (28x28): crop, flip and affine warp in one resampling, tone, erasing.

  Arguments are those of `simclr` and `digits`. Crops are milder than SimCLR's, because a tenth of 28 pixels squared
  shows nothing, and tone stands in for colour.

  Raises:
    Refusal: an option is outside its range.
  """
  _check(crop_scale=crop_scale, crop_ratio=crop_ratio, erase_area=erase_area)
  _check_fractions(crop_scale=crop_scale[1], flip=flip, erase=erase, erase_area=erase_area[1])
  tilt = math.radians(rotate)

  def augment(key, image):
    image = _unit(image)
    u = jax.random.uniform(key, (14,), jnp.float32)
    # Tone comes before the warp, which then runs once, fused with all that follows it (3 times faster on a CPU).
    image = _warp(
      image,
      _size(image, image_size),
      tone=(_factor(brightness, u[7]), _factor(contrast, u[8])),
      box=ops.crop_box(u[:4], _size(image, None), scale=crop_scale, ratio=crop_ratio),
      mirror=u[4] < flip,
      angle=ops.between(-tilt, tilt, u[5]),
      shear=ops.between(-shear, shear, u[6]),
    )
    image = _erase(image, u[9:14], erase, erase_area)
    return _normalise(image, mean, std)

  return Views(augment, _plain(mean, std, image_size))


def expand(
  batch: Batch,
  views: Views,
  *,
  num_views: int,
  seed: int,
  step: int | Int[Array, ''],
  small: Views | None = None,
  num_small: int = 0,
) -> Batch:
  """Replaces the raw `image` of a batch by random views of it, `view_0`, `view_1`, ... float32 [b, h, w, c].

  Small views of another size may come with them: `small_0`, `small_1`, ... (multi-crop: Caron et al., 2020).

  View v of the example at row `index` has the key fold_in(fold_in(fold_in(key(seed), step), index), v), so it does not
  depend on its place in the batch, on the other examples or on the devices. Runs inside jit; `step` may be traced.

  Args:
    batch: `image` uint8 [b, h, w, c] and `index` int32 [b], besides fields that pass through.
    views: a preset.
    num_views: V >= 1.
    seed: of the run.
    step: of the run.
    small: how small views are made, where there are any.
    num_small: S >= 0.

  Raises:
    Refusal: `num_views` is less than 1.
  """
  if num_views < 1:
    raise Refusal(f'num_views is {num_views}; at least 1 view is needed')
  # Threefry by name: keys of the 'rbg' generator give other numbers when the batch is cut otherwise.
  at_step = jax.random.fold_in(jax.random.key(seed, impl='threefry2x32'), step)

  keys = jax.vmap(jax.random.fold_in, (None, 0))(at_step, batch['index'])

  def view(made: Views, v: int):
    # One program a view: slices of one program for all views ran 4 times slower on a CPU.
    return jax.vmap(lambda key, image: made.augment(jax.random.fold_in(key, v), image))(keys, batch['image'])

  rest = {name: value for name, value in batch.items() if name != 'image'}
  made = {f'{VIEW}{v}': view(views, v) for v in range(num_views)}
  if small is not None:
    made |= {f'{SMALL_VIEW}{s}': view(small, FIRST_SMALL + s) for s in range(num_small)}
  return rest | made


def _unit(image: Pixels) -> Image:
  return image.astype(jnp.float32) / 255


def _normalise(image: Image, mean: Colours, std: Colours) -> Image:
  channels = image.shape[2]
  if len(mean) != channels or len(std) != channels:
    raise Refusal(f'mean has {len(mean)} and std {len(std)} values; the images have {channels} channels')
  return (image - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def _size(image: Image, image_size: int | None) -> tuple[int, int]:
  height, width, _ = image.shape
  return (height, width) if image_size is None else (image_size, image_size)


def _plain(mean: Colours, std: Colours, image_size: int | None) -> Callable[[Pixels], Image]:
  """The image itself, or its largest centred square at the wanted size."""
  if image_size is not None and image_size < 1:
    raise Refusal(f'image_size is {image_size}; at least 1 pixel is needed')

  def plain(image):
    image = _unit(image)
    height, width = image.shape[:2]
    if image_size is not None and (height, width) != (image_size, image_size):
      side = min(height, width)
      top, left = (height - side) // 2, (width - side) // 2
      square = image[top : top + side, left : left + side]
      image = jnp.clip(jax.image.resize(square, (image_size, image_size, image.shape[2]), 'cubic'), 0.0, 1.0)
    return _normalise(image, mean, std)

  return plain


def _warp(image, size, *, box=None, angle=0.0, shear=0.0, zoom=1.0, shift=(0.0, 0.0), mirror=False, tone=None) -> Image:
  """Tone, then one resampling; the black around the image takes part in the tone, so that it stays of one piece."""
  shape = _size(image, None)
  box = (0.0, 0.0, *shape) if box is None else box
  matrix = ops.affine(box=box, shape=shape, angle=angle, shear=shear, zoom=zoom, shift=shift, mirror=mirror)
  framed = ops.frame(image)
  return ops.warp(framed if tone is None else ops.tone(framed, *tone), matrix, size)


def _factor(spread: float, u):
  return ops.between(max(0.0, 1 - spread), 1 + spread, u)


def _blur(image: Image, u: Float[Array, '2'], chance: float | None, kernel: float, sigma: tuple[float, float]) -> Image:
  side = min(image.shape[:2])
  if chance is None:
    chance = 0.5 if side >= SMALLEST_BLURRED else 0.0
  radius = int(side * kernel) // 2
  if not chance or not radius:
    return image
  return ops.blur(image, ops.between(*sigma, u[0]), u[1] < chance, radius=radius)


def _erase(image: Image, u: Float[Array, '5'], chance: float, area: tuple[float, float]) -> Image:
  box = ops.crop_box(u[:4], _size(image, None), scale=area, ratio=(0.5, 2.0))
  return ops.erase(image, box, u[4] < chance)


def _check(**ranges: tuple[float, float]):
  for name, (low, high) in ranges.items():
    if not 0 < low <= high:
      raise Refusal(f'{name} is ({low}, {high}); 0 < least <= greatest is needed')


def _check_size(**sizes: float):
  for name, size in sizes.items():
    if not size >= 0:
      raise Refusal(f'config.data.views.{name} must be at least 0, but it is {size}')


def _check_fractions(**fractions: float):
  for name, value in fractions.items():
    if not 0 <= value <= 1:
      raise Refusal(f'{name} is {value}; a value from 0 to 1 is needed')
