"""The package as it is published: the wheel, metadata, dependencies, nothing of the machine it was made on."""

import ast
import configparser
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import contrastive_jax

ROOT = pathlib.Path(__file__).parents[2]
NAME = 'contrastive_jax'
BUILD_INPUTS = ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE', NAME, 'configs', 'tests')
# Distributions that another one imports without declaring it.
UNDECLARED_ELSEWHERE = {'importlib-resources'}
# Absolute paths of somebody's machine, and addresses or options that name a package registry.
MACHINE = re.compile(
  r'(?<![\w./~-])/(?:tmp|work|root|home|opt|Users)(?=/|\b(?![\w-]))|https?://[^\s\'"]+/simple\b|--(?:extra-)?index-url'
)


def setup() -> configparser.ConfigParser:
  parser = configparser.ConfigParser()
  parser.read(ROOT / 'setup.cfg')
  return parser


def requirements(text: str) -> set[str]:
  """Normalised distribution names of a list of requirements."""
  lines = [line for line in text.split('\n') if line and not line.startswith('#')]
  return {normal(re.match(r'[\w.-]+', line)[0]) for line in lines}


def normal(name: str) -> str:
  return re.sub(r'[-_.]+', '-', name).lower()


def imported() -> set[str]:
  """Top-level names outside the standard library that the package imports."""
  names = set()
  for path in (ROOT / NAME).rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name.split('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and not node.level:
        names.add(node.module.split('.')[0])
  return names - set(sys.stdlib_module_names) - {NAME}


def tracked() -> list[pathlib.Path]:
  """The files of the repository, or of the unpacked sources where there is no git."""
  git = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
  if git.returncode == 0:
    paths = [ROOT / name for name in git.stdout.split('\0') if name]
  else:
    paths = [path for path in ROOT.rglob('*') if not any(part.startswith('.') for part in path.relative_to(ROOT).parts)]
  return [path for path in paths if path.is_file()]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> zipfile.ZipFile:
  """A wheel built from a copy of the sources by the installed setuptools: no network, nothing left in the tree."""
  source = tmp_path_factory.mktemp('source')
  for name in BUILD_INPUTS:
    path = ROOT / name
    if path.is_dir():
      shutil.copytree(path, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    elif path.exists():
      shutil.copy(path, source / name)
  build = 'from setuptools import build_meta; print(build_meta.build_wheel("dist"))'
  subprocess.run([sys.executable, '-c', build], cwd=source, check=True, capture_output=True)
  return zipfile.ZipFile(next((source / 'dist').glob('*.whl')))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
  info = f'{NAME}-{contrastive_jax.__version__}.dist-info'
  held = {name for name in wheel.namelist() if not name.startswith(f'{info}/')}
  package = {path.relative_to(ROOT).as_posix() for path in (ROOT / NAME).rglob('*') if path.suffix in ('.py', '.typed')}
  assert held == package
  assert f'{NAME}/py.typed' in held
  assert f'{info}/licenses/LICENSE' in wheel.namelist()


def test_the_wheel_says_its_version_and_its_licence(wheel):
  metadata = wheel.read(f'{NAME}-{contrastive_jax.__version__}.dist-info/METADATA').decode()
  assert f'\nVersion: {contrastive_jax.__version__}\n' in metadata
  assert '\nLicense-Expression: Apache-2.0\n' in metadata


def test_version_is_the_same_everywhere():
  version = re.escape(contrastive_jax.__version__)
  assert re.search(rf'^version: {version}$', (ROOT / 'CITATION.cff').read_text(), re.MULTILINE)
  assert re.search(rf'^## {version}\b', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)


def test_every_console_script_names_a_function_of_an_entry_point():
  scripts = setup()['options.entry_points']['console_scripts'].split('\n')
  for script in filter(None, scripts):
    module, function = script.split(' = ')[1].split(':')
    tree = ast.parse((ROOT / (module.replace('.', '/') + '.py')).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, script


def test_the_package_imports_only_what_it_declares():
  optional = setup()['options.extras_require']['wandb']  # imported where config.train.wandb asks for it
  declared = requirements(setup()['options']['install_requires']) | requirements(optional)
  owners = importlib.metadata.packages_distributions()
  missing = {name for name in imported() if not declared & {normal(owner) for owner in owners.get(name, [name])}}
  assert missing == set()


def test_every_dependency_is_imported_by_the_package():
  owners = importlib.metadata.packages_distributions()
  used = {normal(owner) for name in imported() for owner in owners.get(name, [name])}
  assert requirements(setup()['options']['install_requires']) - used == UNDECLARED_ELSEWHERE


def test_the_checks_of_a_clean_clone_run_the_commands_of_the_readme():
  readme, checks = (ROOT / 'README.md').read_text(), (ROOT / '.ci' / 'run').read_text()
  for command in ("python -m pip install -e '.[test]'", 'python -m pytest'):
    assert command in readme, f'README.md does not say: {command}'
    assert command in checks, f'.ci/run does not say: {command}'


def test_no_file_names_the_machine_it_was_written_on():
  found = []
  for path in tracked():
    try:
      lines = path.read_text().splitlines()
    except UnicodeDecodeError:
      continue
    found += [f'{path.relative_to(ROOT)}:{i}: {line}' for i, line in enumerate(lines, 1) if MACHINE.search(line)]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize('start', ['tmp', 'work', 'root', 'home', 'opt', 'Users'])
def test_a_path_of_a_machine_is_caught(start):
  for text in (f'open("/{start}/x")', f'cd /{start}', f'--workdir=/{start}/x', f'`/{start}`'):
    assert MACHINE.search(text), text


@pytest.mark.parametrize('text', ['tests/work/x', 'runs/tmp', '~/work', './home', '/workers', '/usr/share', '/work-x'])
def test_other_paths_are_not_caught(text):
  assert not MACHINE.search(text)


def test_a_registry_is_caught():
  assert MACHINE.search('pip install --' + 'index-url=x')
  assert MACHINE.search('https' + '://packages.example.org/simple')
