import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from contrastive_jax.data import sources, views
from contrastive_jax.types import Refusal

PHOTOGRAPHS = ('simclr', 'moco_v2', 'byol', 'dino')
PRESETS = (*PHOTOGRAPHS, 'weak', 'digits', 'garments')
SHAPES = dict.fromkeys((*PHOTOGRAPHS, 'weak'), (32, 32, 3)) | {'digits': (8, 8, 1), 'garments': (28, 28, 1)}
ROUNDING = 1e-4  # of normalised pixels: hue is a quotient of differences of channels


@functools.cache
def preset(name, channels=None, **options):
  channels = channels or SHAPES[name][2]
  return getattr(views, name)(mean=(0.4,) * channels, std=(0.25,) * channels, **options)


def raw(shape, b=16, seed=0):
  images = np.random.default_rng(seed).integers(0, 256, (b, *shape), np.uint8)
  return {'image': images, 'index': np.arange(100, 100 + b, dtype=np.int32), 'label': np.zeros(b, np.int32)}


@functools.cache
def expander(made, num_views):
  return jax.jit(lambda batch, seed, step: views.expand(batch, made, num_views=num_views, seed=seed, step=step))


def expand(batch, made, *, num_views=2, seed=3, step=5):
  return expander(made, num_views)(batch, seed, step)


@pytest.mark.turns(7)
@pytest.mark.parametrize('name', PRESETS)
def test_views_are_float32_of_the_same_shape_finite_and_within_the_range_of_pixels(name):
  batch = raw(SHAPES[name])
  batch['image'][0], batch['image'][1] = 0, 255
  out = expand(batch, preset(name))
  assert set(out) == {'index', 'label', 'view_0', 'view_1', 'box_0', 'box_1'}
  for view in (out['view_0'], out['view_1']):
    assert view.dtype == jnp.float32 and view.shape == (16, *SHAPES[name])
    pixels = np.asarray(view) * 0.25 + 0.4
    assert np.isfinite(pixels).all() and pixels.min() >= -1e-5 and pixels.max() <= 1 + 1e-5


@pytest.mark.turns(7)
@pytest.mark.parametrize('name', PRESETS)
def test_a_view_depends_on_seed_step_index_and_view_and_on_nothing_else(name):
  batch, made = raw(SHAPES[name]), preset(name)
  out = expand(batch, made)
  cut = expand({k: v[2:5] for k, v in batch.items()}, made)
  turned = expand({k: v[::-1] for k, v in batch.items()}, made)
  for view in ('view_0', 'view_1'):
    np.testing.assert_allclose(cut[view], out[view][2:5], atol=ROUNDING)
    np.testing.assert_allclose(turned[view][::-1], out[view], atol=ROUNDING)
  shifted = batch | {'index': batch['index'] + 1}
  others = [expand(batch, made, seed=4), expand(batch, made, step=6), expand(shifted, made)]
  for other in [out['view_1'], *(o['view_0'] for o in others)]:
    assert (np.abs(other - out['view_0']).max((1, 2, 3)) > 0.05).all()


@pytest.mark.turns(7)
@pytest.mark.parametrize('name', PRESETS)
def test_views_are_the_same_on_one_device_and_on_eight(name):
  batch, made = raw(SHAPES[name]), preset(name)
  alone = expand(batch, made)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  shared = expand(jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data'))), made)
  for view in ('view_0', 'view_1'):
    assert len(shared[view].sharding.device_set) == 8 and not shared[view].sharding.is_fully_replicated
    np.testing.assert_allclose(shared[view], alone[view], atol=ROUNDING)


@pytest.mark.turns(4)
@pytest.mark.parametrize('name', PRESETS)
def test_views_of_a_batch_on_an_explicit_mesh_keep_its_sharding(name):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Explicit,))
  with jax.set_mesh(mesh):
    batch = jax.device_put(raw(SHAPES[name]), NamedSharding(mesh, PartitionSpec('data')))
    out = jax.eval_shape(expander(preset(name), 2), batch, 0, 0)
  assert out['view_0'].sharding.spec[0] == out['view_1'].sharding.spec[0] == 'data'


@pytest.mark.turns(4)
@pytest.mark.parametrize('num_views', [1, 2, 3, 5])
def test_any_number_of_views_is_made_and_they_differ_and_do_not_depend_on_their_number(num_views):
  out = expand(raw((8, 8, 1)), preset('digits'), num_views=num_views)
  np.testing.assert_allclose(out['view_0'], expand(raw((8, 8, 1)), preset('digits'))['view_0'], atol=ROUNDING)
  made = [out[f'view_{v}'] for v in range(num_views)]
  assert f'view_{num_views}' not in out
  for i in range(num_views):
    for j in range(i):
      assert np.abs(made[i] - made[j]).max() > 0.05


def test_no_views_are_refused():
  with pytest.raises(Refusal, match='num_views is 0'):
    expand(raw((8, 8, 1)), preset('digits'), num_views=0)


def test_another_step_does_not_recompile():
  batch, made = raw((8, 8, 1)), preset('digits')
  sizes = []
  for step in range(3):
    expand(batch, made, step=step)
    sizes.append(expander(made, 2)._cache_size())
  assert len(set(sizes)) == 1


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  'name, neutral',
  [
    ('simclr', dict(crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0)),
    ('simclr', dict(crop_scale=(1.0, 1.0), flip=0.0, strength=0.0, jitter=1.0, grey=0.0)),
    ('moco_v2', dict(crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0)),
    ('byol', dict(crop_scale=(1.0, 1.0), flip=0.0, colour=(0.0,) * 4, grey=0.0, blur=(0.0,), solarise=(0.0,))),
    ('dino', dict(crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=(0.0,), solarise=(0.0,))),
    ('weak', dict(shift=0.0, flip=0.0)),
    (
      'digits',
      dict(rotate=0.0, shear=0.0, zoom=(1.0, 1.0), shift=0.0, contrast=0.0, brightness=0.0, noise=0.0, erase=0.0),
    ),
    ('garments', dict(crop_scale=(1.0, 1.0), flip=0.0, rotate=0.0, shear=0.0, brightness=0.0, contrast=0.0, erase=0.0)),
  ],
)
def test_neutral_options_give_the_plain_image(name, neutral):
  batch, made = raw(SHAPES[name]), preset(name, **neutral)
  plain = jax.vmap(made.plain)(batch['image'])
  np.testing.assert_allclose(plain, (batch['image'] / 255 - 0.4) / 0.25, atol=1e-5)
  np.testing.assert_allclose(expand(batch, made, num_views=1)['view_0'], plain, atol=1e-4)


@pytest.mark.turns(4)
@pytest.mark.parametrize('name', PRESETS)
def test_image_size_sets_the_size_of_views_and_of_the_plain_image(name):
  made = preset(name, image_size=20)
  batch = raw((24, 30, SHAPES[name][2]), b=2)
  assert jax.eval_shape(expander(made, 2), batch, 0, 0)['view_0'].shape == (2, 20, 20, SHAPES[name][2])
  assert jax.vmap(made.plain)(batch['image']).shape == (2, 20, 20, SHAPES[name][2])


def test_the_resized_plain_image_is_the_centre():
  image = np.zeros((24, 40, 1), np.uint8)
  image[:, 8:32] = 255  # the largest centred square
  plain = preset('simclr', channels=1, image_size=12).plain(image)
  np.testing.assert_allclose(plain, (1 - 0.4) / 0.25, atol=1e-4)


def test_the_flip_rate_is_the_probability():
  batch = raw((4, 4, 1), b=400)
  made = preset('weak', channels=1, shift=0.0, flip=0.3)
  flipped = jax.vmap(made.plain)(batch['image'][:, :, ::-1])
  hit = np.abs(expand(batch, made)['view_0'] - flipped).max((1, 2, 3)) < 1e-3
  assert 0.2 < hit.mean() < 0.4


@pytest.mark.slow
def test_simclr_blurs_large_views_and_not_those_of_cifar():
  rest = dict(crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0)
  rates = {}
  for side in (32, 64):
    batch = raw((side, side, 1), b=60)
    made = preset('simclr', channels=1, **rest)
    change = np.abs(expand(batch, made)['view_0'] - jax.vmap(made.plain)(batch['image'])).max((1, 2, 3))
    rates[side] = (change > 1e-2).mean()
  assert rates[32] == 0 and 0.25 < rates[64] < 0.75


def test_views_of_a_digit_stay_nearer_to_its_class_than_to_others():
  rows = np.arange(16, dtype=np.int32)
  batch = sources.digits().read(rows) | {'index': rows}
  made = preset('digits')
  plain = np.asarray(jax.vmap(made.plain)(batch['image'])).reshape(16, -1)
  hits = []
  for step in range(8):
    view = np.asarray(expand(batch, made, step=step)['view_0']).reshape(16, -1)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (view, plain)]
    hits.append(batch['label'][np.argmax(unit[0] @ unit[1].T, axis=1)] == batch['label'])
  assert np.mean(hits) > 0.8


def test_views_are_float32_under_64_bits_too():
  with jax.enable_x64(True):
    for name in PRESETS:
      made = preset(name)
      out = jax.eval_shape(lambda b, made=made: views.expand(b, made, num_views=2, seed=0, step=1), raw(SHAPES[name]))
      assert out['view_0'].dtype == out['view_1'].dtype == jnp.float32


def test_statistics_of_another_number_of_channels_are_refused():
  with pytest.raises(Refusal, match='mean has 1 and std 1 values; there are 3 channels'):
    preset('weak', channels=1).plain(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize(
  'name, option',
  [
    ('simclr', dict(crop_scale=(0.0, 1.0))),
    ('simclr', dict(crop_scale=(0.5, 1.5))),
    ('simclr', dict(crop_ratio=(2.0, 1.0))),
    ('simclr', dict(flip=1.5)),
    ('simclr', dict(image_size=0)),
    ('simclr', dict(blur=-0.1)),
    ('simclr', dict(strength=-1.0)),
    ('moco_v2', dict(colour=(0.4, 0.4, -0.4, 0.1))),
    ('moco_v2', dict(blur=1.1)),
    ('byol', dict(blur=())),
    ('byol', dict(solarise=(0.0, 2.0))),
    ('dino', dict(small_scale=(0.0, 0.4))),
    ('dino', dict(small_blur=-0.5)),
    ('digits', dict(noise=-0.1)),
    ('weak', dict(shift=-1.0)),
    ('digits', dict(zoom=(1.2, 0.8))),
    ('digits', dict(erase=2.0)),
    ('garments', dict(erase_area=(0.1, 2.0))),
  ],
)
def test_options_out_of_range_are_refused_by_name(name, option):
  with pytest.raises(Refusal, match=next(iter(option))):
    preset(name, **option)
