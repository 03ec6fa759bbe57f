"""Small views in a config: said once, absent where there are none, made as the others unless the config says how."""

import pathlib

import jax
import pytest

from contrastive_jax.engine import resolve, setup
from contrastive_jax.types import Refusal

ROOT = pathlib.Path(__file__).parents[2]
SIMCLR, SWAV = (f'{ROOT}/configs/ssl/{name}.py' for name in ('simclr', 'swav'))


def load(path, **overrides):
  return resolve.load(path, {key.replace('__', '.'): value for key, value in overrides.items()})


def shapes(config):
  """The shapes of the views of a batch."""
  run = setup.build(config)
  batch = jax.eval_shape(run.expand, run.abstract()[1], 0, 0)
  return {name: x.shape[1:] for name, x in batch.items() if name.startswith(('view_', 'small_'))}


def test_a_config_without_small_views_says_nothing_of_them():
  assert set(load(SIMCLR).data) == {'source', 'views', 'num_views', 'batch_size'}
  assert load(SIMCLR) == load(SIMCLR, data__num_small_views='0')
  assert set(load(SWAV, data__num_small_views='0').data) == set(load(SIMCLR).data)


def test_the_settings_say_how_their_small_views_are_made():
  sizes = {'digits': (8, 6), 'fashion_mnist': (28, 12), 'cifar10': (32, 16)}
  assert {name: load(f'{SWAV}:{name}').data.small_views.image_size for name in sizes} == {
    name: small for name, (_, small) in sizes.items()
  }
  assert shapes(load(SWAV, data__num_small_views='1')) == {
    'view_0': (8, 8, 1), 'view_1': (8, 8, 1), 'small_0': (6, 6, 1)
  }  # fmt: skip


def test_small_views_are_made_as_the_others_at_three_sevenths_of_their_size_unless_the_config_says_how():
  tiny = f'{SIMCLR}:tiny'
  options = dict(data__num_small_views='1', data__views__zoom='(0.5, 2)')
  config = load(tiny, **options)
  made = config.data.small_views
  assert made.to_dict() == config.data.views.to_dict() and made.zoom == (0.5, 2.0)
  assert shapes(config)['small_0'] == (3, 3, 1)
  assert shapes(load(tiny, data__views__image_size='21', **options)) == {
    'view_0': (21, 21, 1), 'view_1': (21, 21, 1), 'small_0': (9, 9, 1)
  }  # fmt: skip
  other = load(tiny, data__num_small_views='1', data__small_views__name='weak', data__small_views__image_size='5')
  assert other.data.small_views.to_dict() == dict(name='weak', image_size=5, shift=0.125, flip=0.5)
  assert other.data.views.name == 'digits'
  assert shapes(other)['small_0'] == (5, 5, 1)
  assert load(tiny, data__num_small_views='1', data__small_views__zoom='(1, 3)').data.small_views.zoom == (1.0, 3.0)


def test_completing_a_completed_config_of_small_views_changes_nothing():
  for path in (SWAV, f'{SWAV}:tiny'):
    assert resolve.complete(load(path)) == load(path)


@pytest.mark.parametrize(
  ('path', 'overrides', 'message'),
  [
    (SIMCLR, dict(data__num_small_views='-1'), r'config\.data\.num_small_views must be at least 0, but it is -1'),
    (
      SIMCLR,
      dict(data__small_views__zoom='(1, 2)'),
      r'small_views\.zoom is set, but config\.data\.num_small_views is 0',
    ),
    (SIMCLR, dict(data__small_views__name='weak'), r'small_views\.name is set, but config\.data\.num_small_views is 0'),
    (
      SWAV,
      dict(data__small_views__zoon='(1, 2)'),
      r"unknown key 'config\.data\.small_views\.zoon'.* did you mean 'zoom'",
    ),
    (
      SWAV,
      dict(data__small_views__name='weka'),
      r"unknown name 'weka' in config\.data\.small_views; did you mean 'weak'",
    ),
    (SWAV, dict(data__small_views='weak'), r"'config\.data\.small_views' is a section"),
    (SWAV, dict(data__small_views__image_size='0'), 'image_size is 0; at least 1 pixel is needed'),
    (SWAV, dict(data__small_views__image_size='1'), 'images of 1x1 pixels are too small: a stem of stride 2 needs'),
  ],
)
def test_small_views_that_cannot_be_meant_are_refused(path, overrides, message):
  with pytest.raises(Refusal, match=message):
    setup.build(load(path, **overrides)).check()
