"""SimCLR's views with PIL on the host, as data loaders make them: what views on the device are compared with.

Imports nothing of JAX, so that worker processes start at once.
"""

import math
import multiprocessing
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

STRENGTH = 1.0
BLURRED = 64  # pixels: smaller views are not blurred


def _crop(image: Image.Image, size: int, rng: random.Random) -> Image.Image:
  """A random resized crop: area 0.08 to 1, aspect ratio 3/4 to 4/3, bicubic."""
  width, height = image.size
  for _ in range(10):
    area = rng.uniform(0.08, 1.0) * width * height
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < w <= width and 0 < h <= height:
      left, top = rng.randint(0, width - w), rng.randint(0, height - h)
      return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
  return image.resize((size, size), Image.Resampling.BICUBIC)


def _hue(image: Image.Image, shift: float) -> Image.Image:
  h, s, v = image.convert('HSV').split()
  h = h.point(lambda value: int(value + 255 * shift) % 256)
  return Image.merge('HSV', (h, s, v)).convert('RGB')


def _jitter(image: Image.Image, rng: random.Random) -> Image.Image:
  """Brightness, contrast, saturation and hue in random order."""
  spread = 0.8 * STRENGTH

  def enhance(kind):
    factor = rng.uniform(max(0.0, 1 - spread), 1 + spread)
    return lambda picture: kind(picture).enhance(factor)

  shift = rng.uniform(-0.2, 0.2) * STRENGTH
  steps: list[Callable] = [enhance(k) for k in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)]
  steps.append(lambda picture: _hue(picture, shift))
  rng.shuffle(steps)
  for step in steps:
    image = step(image)
  return image


def view(image: Image.Image, size: int, rng: random.Random) -> np.ndarray:
  """One random view, normalised, float32 [size, size, 3]."""
  image = _crop(image, size, rng)
  if rng.random() < 0.5:
    image = ImageOps.mirror(image)
  if rng.random() < 0.8:
    image = _jitter(image, rng)
  if rng.random() < 0.2:
    image = image.convert('L').convert('RGB')
  if size >= BLURRED and rng.random() < 0.5:
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
  return (np.asarray(image, np.float32) / 255 - 0.5) / 0.25


def _work(task: tuple[np.ndarray, int, int, int]) -> float:
  """Views of some images. They stay here: what it costs to send them is not counted, in the host's favour."""
  images, size, num_views, seed = task
  rng = random.Random(seed)
  return float(sum(view(Image.fromarray(x), size, rng)[0, 0, 0] for x in images for _ in range(num_views)))


def pipeline(images: np.ndarray, size: int, num_views: int, workers: int):
  """(call that makes all views of uint8 images [n, h, w, 3] in worker processes, call that ends them)."""
  pool = multiprocessing.get_context('spawn').Pool(workers)
  parts = np.array_split(images, workers * 4)
  tasks = [(part, size, num_views, seed) for seed, part in enumerate(parts) if len(part)]
  return lambda: pool.map(_work, tasks, chunksize=1), pool.terminate
