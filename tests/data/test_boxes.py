"""Where views were cut: the boxes that come with them, and that they change nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from contrastive_jax.data import preset, views

STILL = {
  'simclr': dict(jitter=0.0, grey=0.0, blur=0.0, crop_scale=(0.2, 0.8)),
  'moco_v2': dict(jitter=0.0, grey=0.0, blur=0.0),
  'byol': dict(jitter=0.0, grey=0.0, blur=(0.0,), solarise=(0.0,), crop_scale=(0.2, 0.8)),
  'dino': dict(jitter=0.0, grey=0.0, blur=(0.0,), solarise=(0.0,)),
  'weak': dict(shift=0.2),
  'digits': dict(rotate=0.0, shear=0.0, contrast=0.0, brightness=0.0, noise=0.0, erase=0.0, zoom=(0.8, 1.5)),
  'garments': dict(rotate=0.0, shear=0.0, contrast=0.0, brightness=0.0, erase=0.0, crop_scale=(0.2, 0.8)),
}
HEIGHT, WIDTH = 24, 40


def made(name, **options):
  return getattr(views, name)(mean=(0.0,) * 3, std=(1.0,) * 3, **options)


def ramps(count=12):
  """Images whose first channel is the place from left to right and whose second that from top to bottom."""
  y, x = np.meshgrid((np.arange(HEIGHT) + 0.5) / HEIGHT, (np.arange(WIDTH) + 0.5) / WIDTH, indexing='ij')
  pixels = np.round(255 * np.stack([x, y, x], -1)).astype(np.uint8)
  return {'image': np.tile(pixels, (count, 1, 1, 1)), 'index': np.arange(count, dtype=np.int32)}


def expand(views_, num_views=2):
  return jit(lambda batch: views.expand(batch, views_, num_views=num_views, seed=1, step=2))(ramps())


def seen(box, height, width):
  """Where the pixels of a view lie in its image, `[h, w, 2]`, of its box."""
  x1, y1, x2, y2 = np.asarray(box, np.float64)
  x = x1 + (np.arange(width) + 0.5) / width * (x2 - x1)
  y = y1 + (np.arange(height) + 0.5) / height * (y2 - y1)
  return np.stack(np.meshgrid(x, y), -1)


@pytest.mark.turns(7)
@pytest.mark.parametrize('size', [None, 32])
@pytest.mark.parametrize('name', STILL)
def test_the_pixels_of_a_view_are_those_of_its_box(name, size):
  out = expand(made(name, image_size=size, **STILL[name]))
  mirrored = 0
  for v in range(2):
    boxes = np.asarray(out[f'box_{v}'])
    assert boxes.dtype == np.float32 and boxes.shape == (12, 4)
    assert (boxes[:, 1] < boxes[:, 3]).all()
    mirrored += (boxes[:, 0] > boxes[:, 2]).sum()
    for view, box in zip(np.asarray(out[f'view_{v}']), boxes, strict=True):
      where = seen(box, *view.shape[:2])
      # At the borders of an image resampling has only one side to look at.
      inside = ((where > 0.1) & (where < 0.9)).all(-1)
      assert inside.any()
      np.testing.assert_allclose(view[..., :2][inside], where[inside], atol=0.01)
  assert mirrored == 0 if name == 'digits' else 4 < mirrored < 20


@pytest.mark.turns(4)
@pytest.mark.parametrize('name', STILL)
def test_views_are_the_same_bits_whether_they_are_located_or_not(name):
  views_ = made(name)
  assert jnp.array_equal(expand(views_)['view_1'], expand(views_._replace(located=None))['view_1'])


def test_the_whole_image_is_the_unit_square_and_a_mirrored_one_begins_at_its_right():
  whole = (0.0, 0.0, HEIGHT, WIDTH)
  np.testing.assert_array_equal(preset.place(whole, (HEIGHT, WIDTH), False), [0, 0, 1, 1])
  np.testing.assert_array_equal(preset.place(whole, (HEIGHT, WIDTH), True), [1, 0, 0, 1])
  quarter = preset.place((12.0, 0.0, 12.0, 20.0), (HEIGHT, WIDTH), True)
  np.testing.assert_array_equal(quarter, [0.5, 0.5, 0, 1])


def test_boxes_come_with_the_views_and_not_with_small_ones_nor_from_a_preset_that_cannot_tell():
  located = expand(made('garments'), num_views=3)
  assert {k for k in located if k.startswith('box_')} == {'box_0', 'box_1', 'box_2'}
  alone = expand(made('garments')._replace(located=None))
  assert not any(k.startswith('box_') for k in alone)
  small = dict(small=made('weak'), num_small=2)
  out = jax.eval_shape(lambda batch: views.expand(batch, made('weak'), num_views=1, seed=1, step=2, **small), ramps())
  assert set(out) == {'index', 'view_0', 'box_0', 'small_0', 'small_1'}


def test_a_step_that_reads_no_boxes_is_compiled_as_if_there_were_none():
  def program(views_):
    of = jax.jit(lambda batch: views.expand(batch, views_, num_views=1, seed=1, step=2)['view_0'].sum())
    text = of.lower(ramps(2)).compile().as_text()
    return sum(' = ' in line for line in text.splitlines())

  views_ = made('weak')
  assert program(views_) == program(views_._replace(located=None))
