"""Encoders of the published sizes on images of 224 pixels: their configs can take a first step. Nothing is run."""

import math

import jax
import numpy as np
import pytest
import tiny

from contrastive_jax.engine import resolve, setup, state

DEVICES = 8
ENCODERS = {
  'ResNet-50': dict(name='resnet', depth='50', norm='batch'),
  'ResNet-50, group norm, microbatches': dict(name='resnet', depth='50', norm='group'),
  'ViT-S/16': dict(name='vit', variant='s', patch='16'),
  'ViT-B/16': dict(name='vit', variant='b', patch='16'),
}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """An archive of a few images of 224 pixels."""
  path = tmp_path_factory.mktemp('images') / 'few.npz'
  image = np.random.default_rng(0).integers(0, 256, (40, 224, 224, 3), np.uint8)
  np.savez(path, image=image, label=np.arange(40) % 2)
  return path


def built(images, encoder: dict[str, str], **overrides: str) -> setup.Run:
  given = {
    'data.source.name': 'arrays',
    'data.source.path': str(images),
    'data.views.name': 'simclr',
    'data.batch_size': '16',
    'train.devices': str(DEVICES),
    'train.sharding': "(('(params|opt_state)/.*', 'largest'),)",
    'encoder.dtype': 'bfloat16',
    'encoder.remat': 'true',
  }
  given |= {f'encoder.{key}': value for key, value in encoder.items()}
  return setup.build(resolve.load(str(tiny.ROOT / 'configs/ssl/simclr.py'), given | overrides))


@pytest.mark.parametrize('name', ['ViT-B/16', *(pytest.param(n, marks=pytest.mark.slow) for n in [*ENCODERS][:3])])
def test_a_config_of_a_large_encoder_on_224_pixels_can_take_its_first_step(name, images):
  more = {'train.microbatch': '8'} if 'microbatches' in name else {}
  of = built(images, ENCODERS[name], **more)
  assert of.sources['train'].input_shape == (224, 224, 3)
  of.check()


def test_each_of_eight_devices_holds_an_eighth_of_the_state_of_a_large_encoder(images):
  of = built(images, ENCODERS['ViT-B/16'])
  fresh = jax.eval_shape(of.fresh)
  where = state.shardings(fresh, of.mesh, of.options.sharding)
  of_all, of_one = 0, 0
  for leaf, sharding in zip(jax.tree.leaves(fresh), jax.tree.leaves(where), strict=True):
    of_all += leaf.size * leaf.dtype.itemsize
    of_one += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
  assert of_all > 1e9  # parameters and two moments of 86 million
  assert of_one < of_all / (DEVICES - 0.01)
