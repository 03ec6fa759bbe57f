"""Running a user's config file: where its imports are found, and its mistakes in one line."""

import contextlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Iterator

import ml_collections

from contrastive_jax.types import Refusal

_PACKAGE = pathlib.Path(__file__).parents[1]


def run(file: str, variant: str = '') -> ml_collections.ConfigDict:
  """`get_config()` of a Python file, or `get_config(variant)`.

  Imports such as `configs.common` are found in the nearest directory above the file that holds `configs`, and in the
  current one.

  Raises:
    Refusal: the file has no `get_config`, or none with variants, or it returns something else; whatever goes wrong in
      it, with file and line.
  """
  above = pathlib.Path(file).resolve().parents
  roots = [folder for folder in above if (folder / 'configs').is_dir()][:1]
  with _importable(*map(str, roots), str(pathlib.Path.cwd())):
    try:
      config = _called(file, variant)
    except Refusal:
      raise
    except Exception as error:
      text = ' '.join(f'{type(error).__name__}: {error}'.split())
      raise Refusal(
        f"config file '{file}' fails{_place(error, file, [above[0], *roots])}: {text}{_hint(error)}"
      ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise Refusal(f"get_config of '{file}' must return an ml_collections.ConfigDict, not a {type(config).__name__}")
  return config


@contextlib.contextmanager
def _importable(*folders: str) -> Iterator[None]:
  sys.path[:0] = folders
  try:
    yield
  finally:
    for folder in folders:
      sys.path.remove(folder)


def _called(file: str, variant: str):
  spec = importlib.util.spec_from_file_location('config_' + pathlib.Path(file).stem, file)
  if spec is None or spec.loader is None:
    raise Refusal(f"'{file}' is not a Python file with a config, nor the directory of a run")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise Refusal(f"'{file}' has no function get_config")
  if variant and not inspect.signature(module.get_config).parameters:
    raise Refusal(f"'{file}' has no variants, but ':{variant}' was asked for")
  return module.get_config(variant) if variant else module.get_config()


def _place(error: Exception, file: str, roots: list[pathlib.Path]) -> str:
  """Where a user's own code went wrong: the last line of theirs, not that of a library which they called."""
  frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
  if isinstance(error, SyntaxError) and error.filename:
    frames.append((error.filename, error.lineno))
  theirs = [(pathlib.Path(name).resolve(), line) for name, line in frames if not name.startswith('<')]
  theirs = [(path, line) for path, line in theirs if any(map(path.is_relative_to, roots)) and not _installed(path)]
  if not theirs:
    return ''
  path, line = theirs[-1]
  return f' in line {line}' + ('' if path == pathlib.Path(file).resolve() else f' of {path}')


def _installed(path: pathlib.Path) -> bool:
  return path.is_relative_to(_PACKAGE) or 'site-packages' in path.parts


def _hint(error: Exception) -> str:
  if isinstance(error, ModuleNotFoundError) and error.name == 'configs':
    return "; a directory 'configs' is looked for here and above the config file"
  return ''
