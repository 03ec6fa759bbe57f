"""Every file of configs/: it resolves, it builds, it says how it is run. What the settings resolve to is on record.

After a change that is meant, write the records anew and read the difference:

    PYTHONPATH=tests python tests/laws/test_configs.py
"""

import ast
import json
import pathlib
import re
import runpy

import numpy as np
import pytest
import tiny

from contrastive_jax.data.sources import Source
from contrastive_jax.engine import resolve, setup, state
from contrastive_jax.types import Refusal

GOLDEN = pathlib.Path(__file__).parent / 'golden'
SETTINGS = ('fashion_mnist', 'cifar10', 'imagenet', 'tiny')  # besides the one that a config has by itself
COMMON = tiny.ROOT / 'configs' / 'common.py'
TRACED = ('ssl/simclr',)  # on ImageNet by default, the others with -m slow
CASES = ['ssl/simclr', *(f'ssl/simclr:{setting}' for setting in SETTINGS)]


def resolved(case: str) -> str:
  """The completed config as text."""
  name, _, variant = case.partition(':')
  path = tiny.ROOT / 'configs' / f'{name}.py'
  config = resolve.load(f'{path}:{variant}' if variant else str(path))
  return json.dumps(config.to_dict(), indent=1, sort_keys=True) + '\n'


def record(case: str) -> pathlib.Path:
  return GOLDEN / (re.sub(r'[/:]', '.', case) + '.json')


@pytest.mark.parametrize('case', CASES)
def test_a_setting_resolves_to_what_is_on_record(case):
  assert resolved(case) == record(case).read_text()


def test_no_record_is_left_of_a_config_that_is_gone():
  assert set(GOLDEN.iterdir()) == {record(case) for case in CASES}


@pytest.mark.parametrize('name', tiny.OF_IMAGES)
def test_a_config_resolves_in_every_setting(name):
  of_all = {setting: of_setting(name, setting) for setting in runpy.run_path(str(COMMON))['SETTINGS']}
  assert {*of_all} == {'small', 'digits', *SETTINGS}
  assert of_all['small'] == of_all['digits'] == resolve.load(str(tiny.ROOT / 'configs' / f'{name}.py'))
  assert of_all['small'].data.source.name == of_all['tiny'].data.source.name == 'digits'
  for config in of_all.values():
    assert config.method.get('loss') == of_all['small'].method.get('loss')


@pytest.mark.parametrize('name', tiny.NAMES)
def test_completing_a_completed_config_changes_nothing(name):
  config = tiny.config(name)
  assert resolve.complete(config) == config
  # A workdir keeps it as JSON, where tuples are lists.
  read = resolve.ml_collections.ConfigDict(json.loads(json.dumps(config.to_dict())))
  assert resolve.complete(read) == config


@pytest.mark.parametrize('name', tiny.NAMES)
def test_a_tiny_config_builds_and_takes_two_steps(name):
  run = tiny.run(name)
  assert run.info.total_steps == 2
  assert run.batch_size <= 64


@pytest.mark.turns(14)
@pytest.mark.parametrize('name', tiny.NAMES)
def test_a_config_can_take_its_first_step(name):
  tiny.run(name)  # skips where the data are missing
  config = resolve.load(str(tiny.ROOT / 'configs' / f'{name}.py'))
  setup.build(config).check()


@pytest.mark.parametrize('name', tiny.OF_CAPTIONS)
def test_a_config_of_captions_resolves_in_every_setting(name):
  settings = runpy.run_path(str(COMMON.parent / 'multimodal' / 'common.py'))['SETTINGS']
  of_all = {setting: of_setting(name, setting) for setting in settings}
  assert of_all['emoji'] == resolve.load(str(tiny.ROOT / 'configs' / f'{name}.py'))
  assert {of.data.source.name for of in of_all.values()} == {'emoji', 'image_text'}
  assert {of.method.get('loss') for of in of_all.values()} == {of_all['emoji'].method.get('loss')}


# --- ImageNet ---


def of_setting(name: str, setting: str):
  return resolve.load(f'{tiny.ROOT}/configs/{name}.py:{setting}')


def photographs(split: str, count: int) -> Source:
  """As many images as ImageNet has, all black, of as many classes."""

  def read(rows):
    return {'image': np.zeros((len(rows), 256, 256, 3), np.uint8), 'label': np.asarray(rows, np.int32) % 1000}

  names = tuple(map(str, range(1000)))
  return Source('imagenet2012', split, count, read, (256, 256, 3), names, (0.5,) * 3, (0.25,) * 3)


IMAGENET = {'train': photographs('train', 1_281_167), 'test': photographs('test', 50_000)}


@pytest.mark.parametrize('name', tiny.OF_IMAGES)
def test_a_config_builds_on_imagenet(name):
  run = setup.build(of_setting(name, 'imagenet'), IMAGENET)
  assert run.zeros()['view_0'].shape[1:] == (224, 224, 3)


def test_pixels_are_a_floor_where_a_copy_of_them_all_fits_in_memory():
  photos = setup.build(of_setting('ssl/simclr', 'imagenet'), IMAGENET)
  fresh = state.TrainState(None, {}, None, {}, {})
  assert set(photos.floors(fresh)) == {'random encoder'}  # 800 GB
  assert set(tiny.run('ssl/simclr').floors(fresh)) == {'raw pixels', 'random encoder'}


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=() if n in TRACED else pytest.mark.slow) for n in tiny.OF_IMAGES]
)
def test_a_config_can_take_its_first_step_on_imagenet(name):
  setup.build(of_setting(name, 'imagenet'), IMAGENET).check()


# Batch, epochs, peak of the learning rate and epochs of warm-up, as the repositories named in the configs have them.
PUBLISHED = {
  'simclr': (4096, 100, 4.8, 10),
  'byol': (4096, 1000, 3.2, 10),
  'barlow_twins': (2048, 1000, 1.6, 10),
  'vicreg': (2048, 1000, 1.6, 10),
  'mmcr': (2048, 100, 4.8, 10),
  'moco_v2': (256, 200, 0.03, 0),
  'moco_v3': (4096, 1000, 4.8, 10),
  'sbcl_moco': (256, 400, 0.1, 0),
  'simsiam': (512, 100, 0.1, 0),
  'swav': (4096, 800, 4.8, 10),
  'dino': (512, 100, 0.06, 10),
  'sog_clr': (256, 800, 0.075 * 256**0.5, 10),
  'isog_clr': (128, 400, 0.8, 10),
  'mv_dhel': (256, 200, 0.3, 20),
  'sup_con': (6144, 350, 0.4 * 24, 12),
  'sep_clr': (512, 250, 3e-4, 0),
  'amcl': (512, 1000, 0.06, 0),
  'hydra': (4096, 100, 5e-4 * 16, 5),
  'align_uniform': (768, 200, 0.36, 0),
  'cacr': (128, 200, 0.06, 0),
  'hardness_nce': (256, 400, 1e-3, 0),
  'w_mse': (512, 1000, 2e-3, 500 / 2502),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_schedule_on_imagenet_is_the_published_one(name):
  config = of_setting(f'ssl/{name}', 'imagenet')
  batch, epochs, peak, warmup = PUBLISHED[name]
  assert (config.data.batch_size, config.train.epochs) == (batch, epochs)
  per_epoch = 1_281_167 // batch
  rate = resolve.build(config.schedule, 'schedule', epochs * per_epoch, batch)
  assert float(rate(warmup * per_epoch)) == pytest.approx(peak, rel=1e-4)
  if warmup:
    assert float(rate(warmup * per_epoch // 2)) == pytest.approx(peak / 2, rel=1e-2)


def test_what_a_paper_sets_holds_on_imagenet_alone():
  on_digits, on_imagenet = (of_setting('ssl/moco_v2', setting) for setting in ('small', 'imagenet'))
  assert (on_digits.method.queue_size, on_imagenet.method.queue_size) == (1024, 65536)
  assert (on_digits.optimiser.name, on_imagenet.optimiser.name) == ('adamw', 'sgd')
  assert 'trust' not in on_imagenet.optimiser  # of the setting's LARS
  assert on_imagenet.data.views.name == 'moco_v2' and 'strength' not in on_imagenet.data.views  # of its SimCLR
  assert on_imagenet.data.source.name == 'imagenet2012' and on_imagenet.encoder.depth == 50  # what the paper leaves


# Options of the method on digits and, where the paper has others, on ImageNet.
CONSTANTS = {
  'metric/arcface': dict(scale=(16.0, 64.0), margin=(0.2, 0.5)),
  'metric/cosface': dict(scale=(16.0, 64.0), margin=(0.2, 0.35)),
  'metric/circle': dict(gamma=(32.0, 80.0), margin=(0.4, 0.4)),
  'metric/multi_similarity': dict(alpha=(2.0, 2.0), beta=(50.0, 50.0), mining_margin=(None, 0.1)),
  'metric/proxy_anchor': dict(alpha=(32.0, 32.0), delta=(0.1, 0.1)),
  'metric/proxy_nca': dict(include_positive=(True, False)),
  'metric/triplet': dict(margin=(0.2, 0.2), mining=('hard', 'semi_hard'), distance=('euclidean', 'squared_euclidean')),
  'ssl/align_uniform': dict(align_weight=(1, 1), uniform_weight=(1, 1), exponent=(2, 2), t=(2, 2)),
  'ssl/cacr': dict(t_pos=(1.0, 1.0), t_neg=(2.0, 2.0), alpha=(1.0, 1.0), beta=(1.0, 1.0)),
  'ssl/dhel': dict(temperature=(0.3, 0.3)),
  'ssl/hard_nce': dict(alpha=(0.3, 0.034)),
  'ssl/hardness_nce': dict(temperature=(0.5, 0.5), tau_plus=(0.1, 0.1), beta=(1.0, 1.0)),
  'ssl/isog_clr': dict(temperature=(0.2, 0.1), rho=(0.4, 0.4), gamma=(0.8, 0.8), tau_rate=(0.03, 0.03)),
  'ssl/kcl': dict(parameter=(2.0, 2.0), energy_weight=(16.0, 16.0)),
}


@pytest.mark.parametrize('name', CONSTANTS)
def test_the_constants_of_a_method_on_imagenet_are_the_published_ones(name):
  on_digits, on_imagenet = (of_setting(name, setting).method for setting in ('small', 'imagenet'))
  assert {key: (on_digits[key], on_imagenet[key]) for key in CONSTANTS[name]} == CONSTANTS[name]


def test_cacr_has_the_views_of_its_paper_on_imagenet():
  on_digits, on_imagenet = (of_setting('ssl/cacr', setting).data for setting in ('small', 'imagenet'))
  assert (on_digits.num_views, on_imagenet.num_views) == (4, 5)
  views = on_imagenet.views
  assert (views.jitter, views.colour, views.blur, views.crop_scale) == (1.0, (0.4,) * 4, 0.0, (0.08, 1.0))


# Widths of the layers, whether hidden ones and the last are normalised.
HEADS = {
  'simclr': ((None, 128), True, True),
  'byol': ((4096, 256), True, False),
  'barlow_twins': ((8192, 8192, 8192), True, False),
  'vicreg': ((8192, 8192, 8192), True, False),
  'mmcr': ((8192, 8192, 512), True, False),
  'moco_v2': ((None, 128), False, False),
  'moco_v3': ((4096, 256), True, True),
  'sbcl_moco': ((None, 128), False, False),
  'nnclr': ((2048, 2048, 256), True, True),
  'simsiam': ((2048, 2048, 2048), True, True),
  'sup_con': ((128,), False, False),
  'swav': ((2048, 128), True, False),
  'dino': ((2048, 2048, 256), False, False),
  'amcl': ((512, 128), False, False),
  'hydra': ((2048, 256), True, False),
  'isog_clr': ((8192, 8192, 8192), True, False),
  'hardness_nce': ((512, 128), True, False),
  'w_mse': ((1024, 128), True, False),
}


@pytest.mark.parametrize('name', HEADS)
def test_the_head_on_imagenet_is_the_published_one(name):
  head = of_setting(f'ssl/{name}', 'imagenet').head
  widths = (head.hidden,) * (head.layers - 1) + (head.features,)
  assert (widths, head.norm == 'batch', head.norm_last) == HEADS[name]


def test_small_views_on_imagenet_are_those_of_the_paper():
  swav, dino = (of_setting(f'ssl/{name}', 'imagenet').data for name in ('swav', 'dino'))
  assert (swav.num_small_views, dino.num_small_views) == (6, 8)
  assert (swav.small_views.name, dino.small_views.name) == ('simclr', 'dino')
  for data in (swav, dino):
    assert (data.views.image_size, data.small_views.image_size) == (224, 96)
  assert swav.small_views.crop_scale == dino.small_views.small_scale == (0.05, 0.14)
  assert swav.views.crop_scale == dino.views.crop_scale == (0.14, 1.0)


@pytest.mark.parametrize('path', tiny.FILES, ids=tiny.NAMES)
def test_a_config_says_in_its_docstring_how_it_is_run(path):
  relative = path.relative_to(tiny.ROOT).as_posix()
  said = ast.get_docstring(ast.parse(path.read_text())) or ''
  assert f'python -m contrastive_jax.train --config={relative} --workdir=runs/{path.stem}' in said
  assert re.search(r'\(.+, (19|20)\d\d\)', said.split('\n')[0]), 'the first line names the source, (Author, year)'


def test_a_variant_that_no_config_has_is_refused_with_the_nearest():
  with pytest.raises(Refusal, match=r"unknown variant 'tinny' of the config; did you mean 'tiny'\?"):
    resolve.load(f'{tiny.FILES[0]}:tinny')


if __name__ == '__main__':
  for old in GOLDEN.glob('*.json'):
    old.unlink()
  for each in CASES:
    record(each).write_text(resolved(each))
