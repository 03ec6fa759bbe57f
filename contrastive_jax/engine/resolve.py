"""From a config to functions: every section names a function and holds its keywords, defaults read from signatures.

A section `dict(name='simclr', strength=0.5)` stands for a call of the function of that name. Keys that a config leaves
out are filled with the function's defaults, so a default is written once, in a signature, and every key can be
overridden from the command line. Below this module nobody sees a config.
"""

import ast
import copy
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import sys
from collections.abc import Callable, Mapping

import ml_collections

from contrastive_jax.engine.options import Options
from contrastive_jax.engine.workdir import CONFIG, read_config
from contrastive_jax.types import Refusal, nearest

# Section -> where the function of its `name` lives: a package of modules with `make`, or a module of functions.
_PACKAGES = {'encoder': 'models', 'method': 'methods', 'evals': 'evals'}
_MODULES = {
  'head': 'models.heads',
  'data.source': 'data.sources',
  'data.views': 'data.views',
  'schedule': 'engine.optimiser',
  'optimiser': 'engine.optimiser',
}
_KINDS = {
  'schedule': ('cosine', 'constant'),
  'optimiser': ('adamw', 'lars', 'sgd'),
  'head': ('identity', 'predictor', 'projector'),
  'data.views': ('digits', 'garments', 'simclr', 'weak'),
}


# What the engine passes itself, though it has a default: every run reads both splits.
_PASSED = ('split',)
_DATA = {'num_views': 2, 'batch_size': 256}


def _known(section: str) -> tuple[str, ...]:
  if section in _KINDS:
    return _KINDS[section]
  if section == 'data.source':
    return importlib.import_module('contrastive_jax.data.sources').KNOWN
  package = importlib.import_module(f'contrastive_jax.{_PACKAGES[section]}')
  names = [m.name for m in pkgutil.iter_modules(package.__path__)]
  return tuple(n for n in names if hasattr(importlib.import_module(f'{package.__name__}.{n}'), 'make'))


def factory(section: str, name: str) -> Callable:
  """The function that a section's `name` stands for.

  Raises:
    Refusal: there is none; the nearest known name is given.
  """
  known = _known(section)
  if name not in known:
    raise Refusal(f"unknown name '{name}' in config.{section}{nearest(str(name), known)}")
  if section in _PACKAGES:
    return importlib.import_module(f'contrastive_jax.{_PACKAGES[section]}.{name}').make
  return getattr(importlib.import_module(f'contrastive_jax.{_MODULES[section]}'), name)


def _defaults(function: Callable, given: Mapping) -> dict:
  """The keyword-only parameters that have defaults: what a config may set. Others are passed by the engine."""
  if hasattr(function, '_field_defaults'):
    return dict(function._field_defaults)
  parameters = inspect.signature(function).parameters.values()
  found = {
    p.name: p.default
    for p in parameters
    if p.kind == p.KEYWORD_ONLY and p.default is not p.empty and p.name not in _PASSED
  }
  if any(p.kind == p.VAR_KEYWORD for p in parameters):
    # A function whose keywords depend on a choice (the loss of `pair`) says which they are.
    found |= importlib.import_module(function.__module__).options(**{k: v for k, v in given.items() if k != 'name'})
  return found


def _sections(config) -> list[tuple[str, str, ml_collections.ConfigDict]]:
  """(path, kind, section) of everything in a config that stands for a function."""
  paths = ['data.source', 'data.views', 'encoder', 'head', 'method', 'schedule', 'optimiser']
  found = []
  for path in paths:
    section = config
    for key in path.split('.'):
      if key not in section:
        raise Refusal(f"the config has no section '{path}'")
      section = section[key]
    found.append((path, path, section))
  return found + [(f'evals.{name}', 'evals', section) for name, section in config.evals.items()]


def _fill(path: str, section, function: Callable):
  known = _defaults(function, section)
  for key in section:
    if key != 'name' and key not in known:
      name = f'{function.__module__}.{function.__name__}'
      raise Refusal(f"unknown key 'config.{path}.{key}' ({name} has no such option){nearest(key, known)}")
  for key, default in known.items():
    if key not in section:
      section[key] = default


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A copy with every key that its functions know, filled from their signatures.

  Raises:
    Refusal: an unknown name, or a key that the named function does not have (with the nearest it has).
  """
  config = ml_collections.ConfigDict(copy.deepcopy(config.to_dict() if hasattr(config, 'to_dict') else dict(config)))
  known = {'seed', 'data', 'encoder', 'head', 'method', 'schedule', 'optimiser', 'evals', 'train'}
  for key in config:
    if key not in known:
      raise Refusal(f"unknown key 'config.{key}'{nearest(key, known)}")
  config.seed = config.get('seed', 0)
  config.evals = config.get('evals', {})
  for path, kind, section in _sections(config):
    name = path.split('.')[-1] if kind == 'evals' else section.get('name')
    if name is None:
      raise Refusal(f"config.{path} needs a 'name' (known: {', '.join(_known(kind))})")
    _fill(path, section, factory(kind, name))
  config.train = config.get('train', {})
  _fill('train', config.train, Options)
  for key in config.data:
    if key not in (*_DATA, 'source', 'views'):
      raise Refusal(f"unknown key 'config.data.{key}'{nearest(key, [*_DATA, 'source', 'views'])}")
  for key, default in _DATA.items():
    config.data[key] = config.data.get(key, default)
  return config


def build(section, kind: str, *arguments, name: str | None = None, **keywords):
  """Calls the function that a (completed) section stands for, with what the engine adds."""
  options = {k: v for k, v in section.items() if k != 'name'}
  return factory(kind, name or section['name'])(*arguments, **keywords, **options)


def glossary(evals) -> dict[str, str]:
  """One-line meanings of all scores of the config's evaluators."""
  found: dict[str, str] = {}
  for name in evals:
    found |= importlib.import_module(factory('evals', name).__module__).GLOSSARY
  return found


# --- files and overrides ---


def read(path: str) -> ml_collections.ConfigDict:
  """Runs `get_config()` of a config file; `file.py:variant` calls `get_config('variant')`; a workdir has its config.

  Raises:
    Refusal: no such file, or one without `get_config`.
  """
  if pathlib.Path(path, CONFIG).is_file():
    return read_config(path)
  file, _, variant = path.partition(':')
  if not pathlib.Path(file).is_file():
    raise Refusal(f"no config file '{file}' (from {pathlib.Path.cwd()})")
  here = str(pathlib.Path.cwd())
  if here not in sys.path:  # the console scripts, unlike `python -m`, do not look for `configs.common` here
    sys.path.insert(0, here)
  spec = importlib.util.spec_from_file_location('config_' + pathlib.Path(file).stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise Refusal(f"'{file}' has no function get_config")
  return module.get_config(variant) if variant else module.get_config()


def _parse(text: str):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return {'true': True, 'false': False}.get(text.lower(), text)  # 'none' is a word: norm='none'; None is None


def _walk(config, path: str):
  """The section and last key of a dotted path."""
  *parents, last = path.split('.')
  section = config
  for i, key in enumerate(parents):
    if not isinstance(section, ml_collections.ConfigDict) or key not in section:
      known = list(section) if isinstance(section, ml_collections.ConfigDict) else []
      raise Refusal(f"unknown key 'config.{'.'.join(parents[: i + 1])}'{nearest(key, known)}")
    section = section[key]
  if not isinstance(section, ml_collections.ConfigDict):
    raise Refusal(f"'config.{'.'.join(parents)}' is a value, not a section: it has no key '{last}'")
  return section, last


def _set(config, path: str, text: str):
  section, key = _walk(config, path)
  if key not in section:
    raise Refusal(f"unknown key 'config.{path}'{nearest(key, section)}")
  old, new = section[key], _parse(text)
  if isinstance(old, ml_collections.ConfigDict):
    raise Refusal(f"'config.{path}' is a section: set one of its keys ({', '.join(old)})")
  if isinstance(old, str) and not isinstance(new, str):
    new = text if new is not None else None
  fits = old is None or new is None or isinstance(new, type(old)) or (isinstance(old, float) and isinstance(new, int))
  if not fits or (isinstance(new, bool) and not isinstance(old, bool | None)):
    raise Refusal(f"'config.{path}={text}': a value of type {type(old).__name__} is needed, like {old!r}")
  with section.ignore_type():
    section[key] = float(new) if isinstance(old, float) and isinstance(new, int) else new


def _is_choice(path: str) -> bool:
  return path.endswith('.name') or path == 'method.loss'


def load(path: str, overrides: Mapping[str, str] | None = None) -> ml_collections.ConfigDict:
  """A completed config: the file's, with overrides ('method.temperature': '0.2') applied.

  Choices of functions are applied before defaults are filled in, so that the options of the chosen function are there
  to be overridden.
  """
  config, overrides = read(path), dict(overrides or {})
  for key in [k for k in overrides if _is_choice(k)]:
    _choose(config, key, overrides.pop(key))
  config = complete(config)
  for key, text in overrides.items():
    _set(config, key, text)
  return complete(config)


def _choose(config, path: str, name: str):
  section, key = _walk(config, path)
  if section.get(key) == name:
    return
  if key == 'name':
    # The options of the function that is no longer chosen go with it.
    for other in list(section):
      del section[other]
    section[key] = name
  else:
    kept = set(_defaults(factory('method', section['name']), dict(section.items()) | {key: name}))
    for other in [k for k in section if k not in kept and k != 'name']:
      del section[other]
    section[key] = name
