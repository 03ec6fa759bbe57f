"""Views of images, made on the device: presets of augmentations, and the views of a batch.

A preset is a factory ``name(*, mean, std, image_size=None, ...) -> Views``; its keyword options are its configuration.
Those of photographs (`simclr`, `moco_v2`, `byol`, `dino`) lie in `contrastive_jax.data.photographs`, that of series in
`contrastive_jax.data.series`.
Everything random comes from the key, so a view is a pure function of (seed, step, index, view): the same on any number
of devices, however the batch is cut, and after a restart.

All options called `scale`, `ratio`, `zoom` or `erase_area` are (least, greatest) pairs; probabilities are in [0, 1];
angles are in degrees and drawn from [-x, x], as are shears and shifts; brightness and contrast x draw a factor from
[max(0, 1 - x), 1 + x]. With everything neutral, a view is the plain image.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from contrastive_jax.data import augment as ops
from contrastive_jax.data import preset
from contrastive_jax.data.photographs import byol, dino, moco_v2, simclr
from contrastive_jax.data.preset import CAPTIONS, FIRST_SMALL, Colours, Image, Views
from contrastive_jax.data.series import series
from contrastive_jax.types import BOX, SMALL_VIEW, VIEW, Batch, Refusal, input_of

__all__ = ['byol', 'digits', 'dino', 'garments', 'moco_v2', 'series', 'simclr', 'unaltered', 'weak']
KNOWN = tuple(__all__)  # presets
__all__ += ['FIRST_SMALL', 'KNOWN', 'Views', 'draw_captions', 'expand']


def unaltered(*, mean: Colours, std: Colours, image_size: int | None = None) -> Views:
  """The input itself, normalised, for methods that make their own views or none; of images and of any other input.

  Arguments are those of `simclr`.
  """
  plain = preset.plain(mean, std, image_size)
  return Views(lambda key, image, view=0: plain(image), plain)


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
  preset.check_fractions(shift=shift, flip=flip)

  def located(key, image, view=0):
    image = preset.unit(image)
    u = jax.random.uniform(key, (3,), jnp.float32)
    moved = dict(shift=ops.between(-shift, shift, u[:2]), mirror=u[2] < flip)
    cut = _place(image, **moved)
    image = _warp(image, preset.size(image, image_size), **moved)
    return preset.normalise(image, mean, std), cut

  return preset.tell(located, preset.plain(mean, std, image_size))


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
  preset.check_ranges(zoom=zoom, erase_area=erase_area)
  preset.check_sizes(noise=noise)
  preset.check_fractions(shift=shift, erase=erase, erase_area=erase_area[1])
  tilt = math.radians(rotate)

  def located(key, image, view=0):
    image = preset.unit(image)
    pixels, scalars = jax.random.split(key)
    u = jax.random.uniform(scalars, (13,), jnp.float32)
    moved = dict(zoom=ops.between(*zoom, u[2]), shift=ops.between(-shift, shift, u[3:5]))
    cut = _place(image, **moved)
    image = _warp(
      image,
      preset.size(image, image_size),
      tone=(_factor(brightness, u[5]), _factor(contrast, u[6])),
      angle=ops.between(-tilt, tilt, u[0]),
      shear=ops.between(-shear, shear, u[1]),
      **moved,
    )
    if noise:
      image = jnp.clip(image + noise * jax.random.normal(pixels, image.shape, jnp.float32), 0.0, 1.0)
    image = _erase(image, u[7:12], erase, erase_area)
    return preset.normalise(image, mean, std), cut

  return preset.tell(located, preset.plain(mean, std, image_size))


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
  preset.check_ranges(crop_scale=crop_scale, crop_ratio=crop_ratio, erase_area=erase_area)
  preset.check_fractions(crop_scale=crop_scale[1], flip=flip, erase=erase, erase_area=erase_area[1])
  tilt = math.radians(rotate)

  def located(key, image, view=0):
    image = preset.unit(image)
    u = jax.random.uniform(key, (14,), jnp.float32)
    box = ops.crop_box(u[:4], preset.size(image, None), scale=crop_scale, ratio=crop_ratio)
    cut = _place(image, box=box, mirror=u[4] < flip)
    # Tone comes before the warp, which then runs once, fused with all that follows it (3 times faster on a CPU).
    image = _warp(
      image,
      preset.size(image, image_size),
      tone=(_factor(brightness, u[7]), _factor(contrast, u[8])),
      box=box,
      mirror=u[4] < flip,
      angle=ops.between(-tilt, tilt, u[5]),
      shear=ops.between(-shear, shear, u[6]),
    )
    image = _erase(image, u[9:14], erase, erase_area)
    return preset.normalise(image, mean, std), cut

  return preset.tell(located, preset.plain(mean, std, image_size))


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

  A preset may make views of several kinds, by their numbers. Small views of another size may come with them:
  `small_0`, `small_1`, ... (multi-crop: Caron et al., 2020). Where the preset tells, `box_0`, `box_1`, ... float32
  [b, 4] say where the views lie in the image (see `preset.place`), but for rotation and shear, which turn around a
  view's centre. A step that does not read them does not make them.

  View v of the example at row `index` has the key fold_in(fold_in(fold_in(key(seed), step), index), v), so it does not
  depend on its place in the batch, on the other examples or on the devices. Runs inside jit; `step` may be traced.

  Args:
    batch: `image` uint8 [b, h, w, c], or another input, and `index` int32 [b], besides fields that pass through.
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

  raw = input_of(batch)

  def view(made: Views, v: int):
    # One program a view: slices of one program for all views ran 4 times slower on a CPU.
    one = made.located or made.augment
    out = jax.vmap(lambda key, image: one(jax.random.fold_in(key, v), image, v))(keys, batch[raw])
    return out if made.located else (out,)

  rest = {name: value for name, value in batch.items() if name != raw}
  made: dict[str, Array] = {}
  for v in range(num_views):
    made |= dict(zip((f'{VIEW}{v}', f'{BOX}{v}'), view(views, v), strict=False))
  if small is not None:
    made |= {f'{SMALL_VIEW}{s}': view(small, FIRST_SMALL + s)[0] for s in range(num_small)}
  return rest | made


def draw_captions(batch: Batch, *, number: int, seed, step) -> Batch:
  """Leaves each example `number` of its captions, those that are there first, each as likely: drawn at every step.

  `caption` int32 [b, K, L] and `caption_mask` bool [b, K] become [b, number, L] and [b, number]; all captions in their
  order where K is `number`. Like a view, a draw is a function of (seed, step, row).

  Raises:
    Refusal: `number` is not from 1 to K.
  """
  there = batch['caption_mask'].shape[1]
  if not 1 <= number <= there:
    raise Refusal(f'config.data.num_captions must be from 1 to {there}, the captions of the source, but it is {number}')
  if number == there:
    return batch
  at_step = jax.random.fold_in(jax.random.key(seed, impl='threefry2x32'), step)

  def one(index, tokens, mask):
    key = jax.random.fold_in(jax.random.fold_in(at_step, index), CAPTIONS)
    chosen = jax.lax.top_k(jax.random.uniform(key, mask.shape) + mask, number)[1]
    return tokens[chosen], mask[chosen]

  caption, mask = jax.vmap(one)(batch['index'], batch['caption'], batch['caption_mask'])
  return {**batch, 'caption': caption, 'caption_mask': mask}


def _warp(image, size, *, box=None, angle=0.0, shear=0.0, zoom=1.0, shift=(0.0, 0.0), mirror=False, tone=None) -> Image:
  """Tone, then one resampling; the black around the image takes part in the tone, so that it stays of one piece."""
  shape = preset.size(image, None)
  box = (0.0, 0.0, *shape) if box is None else box
  matrix = ops.affine(box=box, shape=shape, angle=angle, shear=shear, zoom=zoom, shift=shift, mirror=mirror)
  framed = ops.frame(image)
  return ops.warp(framed if tone is None else ops.tone(framed, *tone), matrix, size)


def _place(image: Image, *, box=None, zoom=1.0, shift=(0.0, 0.0), mirror=False) -> preset.Box:
  """Where a view of `_warp` lies in its image."""
  height, width = preset.size(image, None)
  top, left, rows, columns = (0.0, 0.0, height, width) if box is None else box
  down, right = shift
  # The content moves by the shift, in shares of the box, after it was magnified.
  top, left = (top + rows * (0.5 - (0.5 + down) / zoom), left + columns * (0.5 - (0.5 + right) / zoom))
  return preset.place((top, left, rows / zoom, columns / zoom), (height, width), mirror)


def _factor(spread: float, u):
  return ops.between(max(0.0, 1 - spread), 1 + spread, u)


def _erase(image: Image, u: Float[Array, '5'], chance: float, area: tuple[float, float]) -> Image:
  box = ops.crop_box(u[:4], preset.size(image, None), scale=area, ratio=(0.5, 2.0))
  return ops.erase(image, box, u[4] < chance)
