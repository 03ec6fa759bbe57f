"""Presets of views of photographs: random resized crop, flip, colour jitter, grey, blur, solarisation.

The recipes differ in numbers, and in whether the views of an image differ in kind. `contrastive_jax.data.views` says
what a preset is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.data import augment as ops
from contrastive_jax.data import preset
from contrastive_jax.data.preset import FIRST_SMALL, Colours, Views

NEUTRAL = np.array([1, 1, 1, 0], np.float32)  # brightness, contrast, saturation, hue that change nothing
SMALLEST_BLURRED = 64  # pixels: SimCLR blurs ImageNet (224) but not CIFAR-10 (32)

Range = tuple[float, float]
Shares = tuple[float, ...]  # one value a view; views beyond them begin again with the first


class _Kind(NamedTuple):
  """What views of one image may differ in."""

  crop_scale: Range
  blur: float | None
  solarise: float = 0.0


class _Common(NamedTuple):
  """What they have in common; the options of the presets."""

  mean: Colours
  std: Colours
  image_size: int | None
  crop_ratio: Range
  flip: float
  jitter: float
  colour: tuple[float, float, float, float]
  grey: float
  blur_sigma: Range
  blur_kernel: float = 0.1


def simclr(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  crop_scale: Range = (0.08, 1.0),
  crop_ratio: Range = (3 / 4, 4 / 3),
  flip: float = 0.5,
  jitter: float = 0.8,
  strength: float = 1.0,
  grey: float = 0.2,
  blur: float | None = None,
  blur_kernel: float = 0.1,
  blur_sigma: Range = (0.1, 2.0),
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
  preset.check_sizes(strength=strength)
  colour = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
  common = _Common(mean, std, image_size, crop_ratio, flip, jitter, colour, grey, blur_sigma, blur_kernel)
  return _views(common, [_Kind(crop_scale, blur)])


def moco_v2(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  crop_scale: Range = (0.2, 1.0),
  crop_ratio: Range = (3 / 4, 4 / 3),
  flip: float = 0.5,
  jitter: float = 0.8,
  colour: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
  grey: float = 0.2,
  blur: float = 0.5,
  blur_sigma: Range = (0.1, 2.0),
) -> Views:
  """Views of MoCo v2, and of SimSiam: larger crops and weaker colours than SimCLR's.

  Args:
    mean: as in `simclr`.
    std: as in `simclr`.
    image_size: as in `simclr`.
    crop_scale: as in `simclr`.
    crop_ratio: as in `simclr`.
    flip: as in `simclr`.
    jitter: as in `simclr`.
    colour: greatest relative change of brightness, contrast and saturation, and of hue in turns; in random order.
    grey: as in `simclr`.
    blur: probability of a Gaussian blur, of which a tenth of the view is the kernel's width.
    blur_sigma: as in `simclr`.

  Raises:
    Refusal: an option is outside its range.

  Source: Chen et al., 2020 ("Improved Baselines with Momentum Contrastive Learning"), the numbers of the official code
  (`--aug-plus`). Details differ as in `simclr`.
  """
  common = _Common(mean, std, image_size, crop_ratio, flip, jitter, colour, grey, blur_sigma)
  return _views(common, [_Kind(crop_scale, blur)])


def byol(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  crop_scale: Range = (0.08, 1.0),
  crop_ratio: Range = (3 / 4, 4 / 3),
  flip: float = 0.5,
  jitter: float = 0.8,
  colour: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
  grey: float = 0.2,
  blur: Shares = (1.0, 0.1),
  blur_sigma: Range = (0.1, 2.0),
  solarise: Shares = (0.0, 0.2),
) -> Views:
  """Views of BYOL, in two kinds by turns: one is always blurred, the other seldom, and sometimes solarised.

  Barlow Twins, VICReg and MMCR use them too, and MoCo v3 with crop_scale=(0.2, 1).

  Args:
    mean: as in `simclr`.
    std: as in `simclr`.
    image_size: as in `simclr`.
    crop_scale: as in `simclr`.
    crop_ratio: as in `simclr`.
    flip: as in `simclr`.
    jitter: as in `simclr`.
    colour: as in `moco_v2`.
    grey: as in `simclr`.
    blur: probability of a Gaussian blur, of each view; views beyond them begin again with the first.
    blur_sigma: as in `simclr`.
    solarise: probability of solarisation, of each view: values from 1/2 on become 1 less themselves.

  Raises:
    Refusal: an option is outside its range.

  Source: Grill et al., 2020, appendix B, the numbers of the official code. Details differ as in `simclr`; brightness
  is multiplied, as in later codes, and not added.
  """
  preset.check_fractions(blur=blur, solarise=solarise)
  common = _Common(mean, std, image_size, crop_ratio, flip, jitter, colour, grey, blur_sigma)
  return _views(common, _by_turns(crop_scale, blur, solarise))


def dino(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  crop_scale: Range = (0.4, 1.0),
  small_scale: Range = (0.05, 0.4),
  crop_ratio: Range = (3 / 4, 4 / 3),
  flip: float = 0.5,
  jitter: float = 0.8,
  colour: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
  grey: float = 0.2,
  blur: Shares = (1.0, 0.1),
  small_blur: float = 0.5,
  blur_sigma: Range = (0.1, 2.0),
  solarise: Shares = (0.0, 0.2),
) -> Views:
  """Views of DINO: BYOL's two kinds for large crops, and a third for the small ones.

  Args:
    mean: as in `simclr`.
    std: as in `simclr`.
    image_size: as in `simclr`.
    crop_scale: area of the large crops; (0.14, 1) for a ResNet-50.
    small_scale: area of the small crops, which come with `config.data.num_small_views`; (0.05, 0.14) for a ResNet-50.
    crop_ratio: as in `simclr`.
    flip: as in `simclr`.
    jitter: as in `simclr`.
    colour: as in `moco_v2`.
    grey: as in `simclr`.
    blur: as in `byol`, of the large crops.
    small_blur: probability of a Gaussian blur, of the small crops, which are never solarised.
    blur_sigma: as in `simclr`.
    solarise: as in `byol`, of the large crops.

  Raises:
    Refusal: an option is outside its range.

  Source: Caron et al., 2021, the numbers of the official code. Details differ as in `simclr`.
  """
  preset.check_ranges(small_scale=small_scale)
  preset.check_fractions(blur=blur, solarise=solarise, small_scale=small_scale[1], small_blur=small_blur)
  common = _Common(mean, std, image_size, crop_ratio, flip, jitter, colour, grey, blur_sigma)
  return _views(common, _by_turns(crop_scale, blur, solarise), _Kind(small_scale, small_blur))


def _by_turns(crop_scale: Range, blur: Shares, solarise: Shares) -> list[_Kind]:
  """The kinds of the views, as many as the longer of the options."""
  count = max(len(blur), len(solarise))
  return [_Kind(crop_scale, blur[v % len(blur)], solarise[v % len(solarise)]) for v in range(count)]


def _views(common: _Common, kinds: list[_Kind], small: _Kind | None = None) -> Views:
  """View v is of the kind v, by turns; small views are of their own kind, where there is one."""
  mean, std, image_size, crop_ratio, flip, jitter, colour, grey, blur_sigma, blur_kernel = common
  for kind in [*kinds, *([] if small is None else [small])]:
    preset.check_ranges(crop_scale=kind.crop_scale)
    preset.check_fractions(crop_scale=kind.crop_scale[1], blur=kind.blur or 0.0, solarise=kind.solarise)
  preset.check_ranges(crop_ratio=crop_ratio, blur_sigma=blur_sigma)
  preset.check_fractions(flip=flip, jitter=jitter, grey=grey, blur_kernel=blur_kernel)
  preset.check_sizes(colour=min(colour))
  spread = np.array(colour, np.float32)
  least = np.maximum(NEUTRAL - spread, np.array([0, 0, 0, -1], np.float32))  # a factor is never negative

  def located(key, image, view=0):
    kind = small if small is not None and view >= FIRST_SMALL else kinds[view % FIRST_SMALL % len(kinds)]
    image = preset.unit(image)
    u = jax.random.uniform(key, (18 if kind.solarise else 17,), jnp.float32)
    box = ops.crop_box(u[:4], preset.size(image, None), scale=kind.crop_scale, ratio=crop_ratio)
    cut = preset.place(box, preset.size(image, None), u[4] < flip)
    image = ops.flip(ops.crop_resize(image, box, preset.size(image, image_size)), u[4] < flip)
    factors = ops.between(least, NEUTRAL + spread, u[5:9])
    image = ops.colour_jitter(image, jnp.where(u[9] < jitter, factors, NEUTRAL), u[10:14])
    image = ops.grey(image, u[14] < grey)
    image = _blur(image, u[15:17], kind.blur, blur_kernel, blur_sigma)
    if kind.solarise:
      image = ops.solarise(image, u[17] < kind.solarise)
    return preset.normalise(image, mean, std), cut

  return preset.tell(located, preset.plain(mean, std, image_size), len(kinds))


def _blur(image: preset.Image, u, chance: float | None, kernel: float, sigma: Range) -> preset.Image:
  side = min(image.shape[:2])
  if chance is None:
    chance = 0.5 if side >= SMALLEST_BLURRED else 0.0
  radius = int(side * kernel) // 2
  if not chance or not radius:
    return image
  return ops.blur(image, ops.between(*sigma, u[0]), u[1] < chance, radius=radius)
