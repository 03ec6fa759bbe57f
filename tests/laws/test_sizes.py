"""The size law: files and functions that fit in a head, and no drawer for leftovers."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = ('contrastive_jax', 'configs', 'tests', 'launch', 'benchmarks', 'experiments', 'docs')
FILE_LINES = 400
FUNCTION_LINES = 60
SHORTER = {  # file -> the most lines it may have
  'contrastive_jax/engine/loop.py': 200,
  'contrastive_jax/train.py': 79,
  'contrastive_jax/evaluate.py': 79,
  'contrastive_jax/embed.py': 79,
  'contrastive_jax/plan.py': 79,
}
DRAWERS = {'utils', 'util', 'helpers', 'helper', 'misc'}


def breaches(name: str, source: str) -> list[str]:
  """One line for each way in which this file is too long or is a drawer."""
  found = []
  lines, most = len(source.splitlines()), SHORTER.get(name, FILE_LINES)
  if lines > most:
    found.append(f'{name} has {lines} lines, at most {most} are allowed')
  if DRAWERS & set(pathlib.PurePosixPath(name).with_suffix('').parts):
    found.append(f'{name}: name it after what it holds')
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      length = node.end_lineno - node.lineno + 1
      if length > FUNCTION_LINES:
        found.append(f'{name}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES} are allowed')
  return found


def files() -> list[pathlib.Path]:
  return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py'))


def test_files_and_functions_are_short_and_no_file_is_a_drawer():
  assert files()
  found = [line for path in files() for line in breaches(path.relative_to(ROOT).as_posix(), path.read_text())]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize(
  ('name', 'source', 'breach'),
  [
    ('contrastive_jax/data/views.py', 'x = 1\n' * 401, 'has 401 lines'),
    ('contrastive_jax/engine/loop.py', 'x = 1\n' * 201, 'has 201 lines'),
    ('contrastive_jax/train.py', 'x = 1\n' * 80, 'has 80 lines'),
    ('tests/data/utils.py', '', 'name it after what it holds'),
    ('tests/helpers/arrays.py', '', 'name it after what it holds'),
    ('contrastive_jax/data/views.py', 'class C:\n  def f():\n' + '    x = 1\n' * 60, 'f has 61 lines'),
  ],
)
def test_a_breach_of_the_law_is_caught(name, source, breach):
  assert any(breach in line for line in breaches(name, source))


def test_what_the_law_allows_is_not_caught():
  assert breaches('contrastive_jax/data/views.py', 'def f():\n' + '  x = 1\n' * 59 + 'x = 1\n' * 340) == []
