"""Recipes of views: what their numbers are, and which views of an image differ in kind."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.data import augment as ops
from contrastive_jax.data import photographs, views

MEAN, STD = (0.0,) * 3, (1.0,) * 3
STILL = dict(crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0)  # views that only blur and solarise


def defaults(name):
  return {k: p.default for k, p in inspect.signature(getattr(photographs, name)).parameters.items()}


def noise(count=48, side=24):
  """Images in which blurring shows, and of which no pixel is near the threshold of solarisation."""
  pixels = np.random.default_rng(0).choice(np.array([20, 60, 100, 160, 200, 240], np.uint8), (count, side, side, 3))
  return {'image': pixels, 'index': np.arange(count, dtype=np.int32)}


def made(name, num_views=2, num_small=0, **options):
  preset = getattr(views, name)(mean=MEAN, std=STD, **options)
  extra = dict(small=preset, num_small=num_small) if num_small else {}
  return views.expand(noise(), preset, num_views=num_views, seed=0, step=0, **extra)


def share(changed):
  return float(np.mean(np.asarray(changed).max(axis=(1, 2, 3)) > 0.05))


def test_the_numbers_are_those_of_the_official_repositories():
  """moco/main_moco.py, deepmind-research/byol/utils/augmentations.py and dino/main_dino.py."""
  moco, byol, dino = defaults('moco_v2'), defaults('byol'), defaults('dino')
  assert moco['crop_scale'] == (0.2, 1.0) and moco['colour'] == (0.4, 0.4, 0.4, 0.1) and moco['blur'] == 0.5
  assert byol['crop_scale'] == (0.08, 1.0) and byol['colour'] == (0.4, 0.4, 0.2, 0.1)
  assert byol['blur'] == (1.0, 0.1) and byol['solarise'] == (0.0, 0.2)
  assert {k: v for k, v in dino.items() if k not in ('crop_scale', 'small_scale', 'small_blur')} == {
    k: v for k, v in byol.items() if k != 'crop_scale'
  }
  assert (dino['crop_scale'], dino['small_scale'], dino['small_blur']) == ((0.4, 1.0), (0.05, 0.4), 0.5)
  for each in (moco, byol, dino):
    assert (each['flip'], each['jitter'], each['grey'], each['blur_sigma']) == (0.5, 0.8, 0.2, (0.1, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['byol', 'dino'])
def test_the_first_view_is_always_blurred_and_the_second_seldom(name):
  out = made(name, **STILL, blur_sigma=(1.0, 2.0), solarise=(0.0,))
  plain = noise()['image'] / 255
  assert share(np.abs(out['view_0'] - plain)) == 1.0
  assert 0 < share(np.abs(out['view_1'] - plain)) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize('name', ['byol', 'dino'])
def test_only_the_second_view_is_solarised_and_only_sometimes(name):
  out = made(name, **STILL, blur=(0.0,))
  plain = noise()['image'] / 255
  np.testing.assert_allclose(out['view_0'], plain, atol=1e-5)
  turned = np.asarray(ops.solarise(jnp.asarray(plain), True))
  is_plain, is_turned = (np.abs(out['view_1'] - other).max((1, 2, 3)) < 1e-5 for other in (plain, turned))
  assert (is_plain ^ is_turned).all()
  assert 0 < is_turned.mean() < 0.5


def test_views_beyond_the_kinds_begin_again_with_the_first():
  out = made('byol', num_views=4, **STILL, blur_sigma=(1.0, 2.0), blur=(1.0, 0.0), solarise=(0.0,))
  shares = [share(np.abs(out[f'view_{v}'] - noise()['image'] / 255)) for v in range(4)]
  assert shares == [1.0, 0.0, 1.0, 0.0]
  assert not np.allclose(out['view_0'], out['view_2'])


def test_small_views_of_dino_are_of_a_kind_of_their_own():
  """Of small areas, never solarised, blurred half the time; the kinds of large views are no matter to them."""
  out = made('dino', num_small=4, **STILL, small_blur=0.0, solarise=(1.0,), blur=(0.0,))
  plain, large, small = noise()['image'] / 255, np.asarray(out['view_0']), np.asarray(out['small_1'])
  np.testing.assert_allclose(large, np.asarray(ops.solarise(jnp.asarray(plain), True)), atol=1e-5)
  # A crop of less than half of noise is magnified, so neighbouring pixels are nearer to each other.
  steps = [np.abs(np.diff(each, axis=1)).mean() for each in (plain, small)]
  assert steps[1] < 0.6 * steps[0]
  assert small.max() > 0.9  # solarised values stay below a half


def test_the_small_views_of_a_preset_without_a_small_kind_are_made_by_turns_too():
  out = made('byol', num_small=2, **STILL, blur_sigma=(1.0, 2.0), blur=(1.0, 0.0), solarise=(0.0,))
  assert [share(np.abs(out[f'small_{s}'] - noise()['image'] / 255)) for s in range(2)] == [1.0, 0.0]


def test_a_preset_says_how_many_kinds_its_views_are_of():
  kinds = {name: getattr(views, name)(mean=MEAN, std=STD).kinds for name in views.KNOWN}
  assert {name for name, count in kinds.items() if count == 2} == {'byol', 'dino'}
  assert {count for name, count in kinds.items() if name not in ('byol', 'dino')} == {1}


def test_solarising_inverts_values_from_one_half_on_as_pillow_does():
  from PIL import Image, ImageOps

  pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
  expected = np.asarray(ImageOps.solarize(Image.fromarray(pixels)))
  ours = ops.solarise(jnp.asarray(pixels / 255)[..., None], True)[..., 0]
  np.testing.assert_array_equal(np.round(np.asarray(ours) * 255), expected)
  assert (ops.solarise(jnp.ones((2, 2, 1)), False) == 1).all()


def test_a_view_is_compiled_whatever_its_number():
  preset = views.dino(mean=MEAN, std=STD)
  shape = jax.ShapeDtypeStruct((24, 24, 3), jnp.uint8)
  for view in (0, 1, 7, views.FIRST_SMALL + 3):
    made_of = jax.eval_shape(lambda key, image, view=view: preset.augment(key, image, view), jax.random.key(0), shape)
    assert made_of.shape == (24, 24, 3)
