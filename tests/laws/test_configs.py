"""Every file of configs/: it resolves, it builds, it says how it is run. What the settings resolve to is on record.

After a change that is meant, write the records anew and read the difference:

    PYTHONPATH=tests python tests/laws/test_configs.py
"""

import ast
import json
import pathlib
import re

import pytest
import tiny

from contrastive_jax.engine import resolve, setup
from contrastive_jax.types import Refusal

GOLDEN = pathlib.Path(__file__).parent / 'golden'
SETTINGS = ('fashion_mnist', 'cifar10', 'tiny')  # besides the one that a config has by itself
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


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', tiny.NAMES)
def test_a_config_can_take_its_first_step(name):
  config = resolve.load(str(tiny.ROOT / 'configs' / f'{name}.py'))
  setup.build(config).check()


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
