"""Composites: images of one set with those of another pasted on them, so that an image has two independent labels."""

import numpy as np
from jaxtyping import Float

from contrastive_jax.data.source import Source, check_split, measure, permutation, sample
from contrastive_jax.types import Refusal, nearest

LABELS = ('base', 'pasted')
# Numbers of the random orders that are drawn from a seed, one further set of them for each split.
_SUBSET, _SHARE, _WHICH, _TOP, _LEFT = range(5)
_OF_SPLIT = {'train': 0, 'test': 5}


def composite(
  *,
  split: str = 'train',
  base: str = 'fashion_mnist',
  pasted: str = 'digits',
  label: str = 'base',
  pasted_share: float = 1.0,
  pasted_size: int | None = 14,
  fade: float = 0.5,
  train_size: int | None = None,
  test_size: int | None = None,
  seed: int = 0,
) -> Source:
  r"""Images of `base`, on a share of which an image of `pasted` lies at a random place, made when they are read.

  .. math:: I = \max(f \, I_\text{base}, I_\text{pasted})

  inside the place of the pasted image, and :math:`f \, I_\text{base}` outside. Every image has two labels, which are
  independent: fields `label_base` and `label_pasted` int32 [b], the latter -1 where nothing is pasted. `label` is one
  of them, and `label_names` are of it. Images, places and labels are functions of the seed alone, and the same whatever
  `label` is; splits are made of the splits of both sets.

  Args:
    split: 'train' or 'test'.
    base: source of the images, one of `sources.KNOWN` that needs no options.
    pasted: source of what is pasted on them, likewise; with as many channels or one.
    label: which label is `label`: 'base' or 'pasted'.
    pasted_share: share of images on which something is pasted, from 0 to 1; rounded to whole images.
    pasted_size: height and width of what is pasted, in pixels; None is its own size.
    fade: f, brightness of the base images, from 0 to 1, so that what is pasted on them is seen.
    train_size: images of the training split, a random subset of the base; None is all.
    test_size: likewise of the test split.
    seed: of subset, pairs and places.

  Mean and standard deviation are those of 1,024 training images.

  Raises:
    Refusal: an unknown split, source or label; a set that is missing; a share or a brightness outside [0, 1]; channels
      that do not fit; what is pasted larger than the image; more images wanted than the base has; a negative seed.
  """
  check_split(split)
  if label not in LABELS:
    raise Refusal(f"unknown label '{label}'{nearest(str(label), LABELS)}")
  for name, value in {'pasted_share': pasted_share, 'fade': fade}.items():
    if not 0 <= value <= 1:
      raise Refusal(f'{name} is {value}; a value from 0 to 1 is needed')
  if seed < 0:
    raise Refusal(f'seed must be at least 0, but it is {seed}')
  sizes = {'train': train_size, 'test': test_size}

  def of_split(part: str) -> Source:
    below, above = _open('base', base, part), _open('pasted', pasted, part)
    side = _check_fit(below, above, pasted_size)
    return _composed(below, above, label, pasted_share, side, fade, sizes[part], seed)

  found = of_split(split)
  train = found if split == 'train' else of_split('train')
  mean, std = measure(train.read(sample(train.num_examples))['image'])
  return found._replace(mean=mean, std=std)


def _open(role: str, name: str, split: str) -> Source:
  from contrastive_jax.data import sources  # which offers this module's source, too

  if name not in sources.KNOWN:
    raise Refusal(f"unknown source '{name}' as {role}{nearest(str(name), sources.KNOWN)}")
  try:
    return getattr(sources, name)(split=split)
  except TypeError:
    raise Refusal(f"source '{name}' needs options of its own and cannot be {role} of a composite") from None


def _check_fit(below: Source, above: Source, pasted_size: int | None) -> tuple[int, int]:
  """Height and width of what is pasted."""
  height, width, channels = below.input_shape
  side = (above.input_shape[0], above.input_shape[1]) if pasted_size is None else (pasted_size, pasted_size)
  if above.input_shape[2] not in (1, channels):
    raise Refusal(
      f"'{above.name}' has {above.input_shape[2]} channels and cannot be pasted on '{below.name}' of {channels}"
    )
  if min(side) < 1 or side[0] > height or side[1] > width:
    raise Refusal(f"what is pasted is {list(side)} pixels, but images of '{below.name}' are {[height, width]}")
  return side


def _composed(below: Source, above: Source, label, share, side, fade, size: int | None, seed: int) -> Source:
  number = below.num_examples if size is None else size
  if not 1 <= number <= below.num_examples:
    raise Refusal(
      f"{size} images are wanted of the {below.split} split of '{below.name}', which has {below.num_examples}"
    )
  first = _OF_SPLIT[below.split]
  rows = np.sort(permutation(seed, first + _SUBSET, below.num_examples)[:number])
  marked = np.zeros(number, bool)
  marked[permutation(seed, first + _SHARE, number)[: round(share * number)]] = True
  which = _drawn(seed, first + _WHICH, number, above.num_examples)
  free = (below.input_shape[0] - side[0] + 1, below.input_shape[1] - side[1] + 1)
  top, left = (_drawn(seed, first + k, number, n) for k, n in zip((_TOP, _LEFT), free, strict=True))
  resample = [_interpolation(old, new) for old, new in zip(above.input_shape[:2], side, strict=True)]

  def read(indices: np.ndarray) -> dict[str, np.ndarray]:
    indices = np.asarray(indices)
    of_base, of_pasted = below.read(rows[indices]), above.read(which[indices])
    patches = np.einsum('th,nhwc,sw->ntsc', resample[0], of_pasted['image'].astype(np.float32), resample[1])
    image = fade * of_base['image'].astype(np.float32)
    for i, row in enumerate(indices):
      if marked[row]:
        place = image[i, top[row] : top[row] + side[0], left[row] : left[row] + side[1]]
        np.maximum(place, patches[i], out=place)
    labels = {
      'label_base': of_base['label'].astype(np.int32),
      'label_pasted': np.where(marked[indices], of_pasted['label'], -1).astype(np.int32),
    }
    return {'image': np.round(image).astype(np.uint8), 'label': labels[f'label_{label}'], **labels}

  names = {'base': below, 'pasted': above}[label].label_names
  name = f'{above.name}_on_{below.name}'
  return Source(name, below.split, number, read, below.input_shape, names, (), ())


def _drawn(seed: int, number: int, count: int, end: int) -> np.ndarray:
  """Independent numbers from 0 to end - 1, [count]: the same on any machine, for ever."""
  bits = np.random.Philox(key=np.array([seed % 2**64, number], np.uint64)).random_raw(count)
  return (bits % np.uint64(end)).astype(np.int64)


def _interpolation(old: int, new: int) -> Float[np.ndarray, 'new old']:
  """The matrix that samples a line of pixels anew, linearly; beyond the centre of an outer pixel its value holds."""
  places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
  return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old))).astype(np.float32)
