"""From a config to functions: every section names a function and holds its keywords, defaults read from signatures.

A section `dict(name='simclr', strength=0.5)` stands for a call of the function of that name. Keys that a config leaves
out are filled with the function's defaults, so a default is written once, in a signature, and every key can be
overridden from the command line. Below this module nobody sees a config.
"""

import copy
import importlib
import inspect
import os
import pathlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping

import ml_collections

from contrastive_jax.engine import config_file, options, values
from contrastive_jax.engine.workdir import CONFIG, read_config
from contrastive_jax.types import Refusal, nearest

# Section -> where the function of its `name` lives: a package of modules with `make`, or a module of functions.
_PACKAGES = {'encoder': 'models', 'text_encoder': 'models', 'method': 'methods', 'evals': 'evals'}
_MODULES = {
  'head': 'models.heads',
  'predictor': 'models.heads',
  'text_head': 'models.heads',
  'data.source': 'data.sources',
  'data.views': 'data.views',
  'data.small_views': 'data.views',
  'schedule': 'engine.optimiser',
  'optimiser': 'engine.optimiser',
}
_KINDS = {
  'schedule': ('cosine', 'constant'),
  'optimiser': ('adamw', 'lars', 'lion', 'sgd'),
  'head': ('identity', 'predictor', 'projector'),
  'predictor': ('identity', 'predictor', 'projector'),
  'text_head': ('identity', 'predictor', 'projector'),
}
_NAMED = (
  'data.source', 'data.views', 'data.small_views', 'encoder', 'head', 'predictor', 'text_encoder', 'text_head',
  'method', 'schedule', 'optimiser',
)  # fmt: skip

# Sections that a method's factory is given as networks. Those that it does not name have no place in its config.
NETWORKS = ('encoder', 'head', 'predictor', 'text_encoder', 'text_head')
# Of these a config need not have a section: there is one default.
_DEFAULTS = {'predictor': 'predictor', 'text_encoder': 'text', 'text_head': 'projector'}

# Keywords that the engine passes itself: every run reads both splits, views normalise by the source's statistics, and
# captions are of the source's tokens.
_PASSED = ('split', 'mean', 'std', 'vocab_size')

Parameters = Mapping[str, inspect.Parameter]


def _known(section: str) -> tuple[str, ...]:
  if section in _KINDS:
    return _KINDS[section]
  if section in _MODULES:
    return importlib.import_module(f'contrastive_jax.{_MODULES[section]}').KNOWN
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


def _parameters(function: Callable, given: Mapping) -> Parameters:
  """The keywords of a function that a config may set."""
  parameters = inspect.signature(function).parameters
  found = {k: p for k, p in parameters.items() if p.kind == p.KEYWORD_ONLY and k not in _PASSED}
  if any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
    # A function whose keywords depend on a choice (the loss of `pair`) says which they are.
    found |= importlib.import_module(function.__module__).options(**{k: v for k, v in given.items() if k != 'name'})
  return found


def _section(config, path: str) -> ml_collections.ConfigDict:
  section = config
  for key in path.split('.'):
    section = section.get(key)
    if not isinstance(section, ml_collections.ConfigDict):
      raise Refusal(f"the config has no section '{path}'")
  return section


def _fill(path: str, section, parameters: Parameters, texts: Mapping[str, str], *, besides=(), whose: str = ''):
  """Checks the keys and values of a section, sets those that are overridden, fills in those that are left out."""
  dotted = f'config.{path}.' if path else 'config.'
  for key in [*section, *texts]:
    if key not in parameters and key not in besides:
      raise Refusal(f"unknown key '{dotted}{key}'{whose}{nearest(key, [*parameters, *besides])}")
    if key in texts and key in besides:
      raise Refusal(f"'{dotted}{key}' is a section: set one of its keys, {dotted}{key}.KEY=VALUE")
  for key, parameter in parameters.items():
    if key in texts:
      value = values.read(texts[key], parameter)
    elif key in section:
      value = section[key]
    elif parameter.default is parameter.empty:
      raise Refusal(f"config.{path} needs '{key}': --config.{path}.{key}=VALUE")
    else:
      value = parameter.default
    value = values.checked(dotted + key, value, parameter)
    if key in section:  # assigning would cast the value to the type of the old one
      del section[key]
    section[key] = value


def _taken(overrides: dict[str, str], path: str) -> dict[str, str]:
  """Removes the overrides of a section's own keys and returns them by key."""
  own = [k for k in overrides if k.rpartition('.')[0] == path]
  return {k.rpartition('.')[2]: overrides.pop(k) for k in own}


def complete(
  config: ml_collections.ConfigDict, overrides: Mapping[str, str] | None = None
) -> ml_collections.ConfigDict:
  """A copy with every key that its functions know: as overridden, as the config says, or the signature's default.

  Args:
    config: sections of names and keywords.
    overrides: texts by dotted key ('method.temperature': '0.2').

  Raises:
    Refusal: an unknown name; a key that the named function does not have (with the nearest it has); a value of
      another type than the function's signature says; a keyword without default that is left out.
  """
  config = ml_collections.ConfigDict(copy.deepcopy(config.to_dict()))
  left = dict(overrides or {})
  for key in ('evals', 'train'):
    config[key] = config.get(key, {})
  of_data = _taken(left, 'data')
  _fill('data', _section(config, 'data'), inspect.signature(options.Data).parameters, of_data,
        besides=('source', 'views', 'small_views'))  # fmt: skip
  _without_small_views(config.data)
  for key, usual in (('num_captions', 1), ('per_class', 0)):
    if config.data[key] == usual:
      del config.data[key]
  _without_imbalance(config.data, of_data)
  named = _used(config)
  tops = {*(path.partition('.')[0] for path in named), 'evals', 'train'}
  _fill('', config, inspect.signature(options.Seed).parameters, _taken(left, ''), besides=tops)
  _fill('train', _section(config, 'train'), inspect.signature(options.Options).parameters, _taken(left, 'train'))
  _choose_evaluators(config.evals, _taken(left, 'evals'))
  for path in (*named, *(f'evals.{name}' for name in _section(config, 'evals'))):
    if path == 'data.small_views' and 'small_views' not in config.data:  # made as the others, but for their size
      config.data.small_views = {k: v for k, v in config.data.views.items() if k != 'image_size'}
    section, kind = _section(config, path), path if path in named else 'evals'
    name = section.get('name') if kind == path else path.removeprefix('evals.')
    if name is None:
      raise Refusal(f"config.{path} needs a 'name' (known: {', '.join(_known(kind))})")
    function = factory(kind, name)
    whose = f' ({function.__module__}.{function.__name__} has no such option)'
    besides = ('name',) if kind == path else ()
    _fill(path, section, _parameters(function, section), _taken(left, path), besides=besides, whose=whose)
  for key in left:
    raise _stray(config, key)
  return config


def _without_small_views(data):
  """A config of no small views says nothing of them: it is the same as before there were any."""
  if not data.num_small_views:
    for key in [k for k in ('num_small_views', 'small_views') if k in data]:
      del data[key]


def _without_imbalance(data, texts: Mapping[str, str]):
  """A config that takes all examples says nothing of imbalance: it is the same as before there was any."""
  if data.imbalance == 1 and data.imbalance_largest is None:
    if 'imbalance_seed' in texts:
      raise Refusal(
        'config.data.imbalance_seed is set, but nothing is left out: imbalance=1 and imbalance_largest=None'
      )
    for key in [k for k in data if k.startswith('imbalance')]:
      del data[key]


def _choose_evaluators(section, texts: Mapping[str, str]):
  """Adds (`--config.evals.health=True`) and leaves out (`--config.evals.linear=False`) whole evaluators."""
  for name, text in texts.items():
    wanted = {'true': True, 'false': False, 'none': False}.get(text.lower())
    if wanted is None:
      raise Refusal(f"config.evals.{name} must be True or False, or one of its keys be set, but it is '{text}'")
    factory('evals', name)
    if wanted and name not in section:
      section[name] = {}
    elif not wanted and name in section:
      del section[name]


def needs(method: str) -> list[str]:
  """What a method's factory is given: networks by the name of their section, and `info`."""
  parameters = inspect.signature(factory('method', method)).parameters.values()
  return [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]


def _used(config) -> tuple[str, ...]:
  """The sections with a name that the config has a use for; of predictors and small views there is always a default."""
  named = [path for path in _NAMED if path != 'data.small_views' or 'num_small_views' in config.data]
  method = _section(config, 'method').get('name')
  if method is None:  # refused with the rest of its section
    return tuple(path for path in named if path not in _DEFAULTS)
  wanted = needs(method)
  for network, name in _DEFAULTS.items():
    if network in wanted and network not in config:
      config[network] = {'name': name}
  for network in NETWORKS:
    if network in config and network not in wanted:
      raise Refusal(f"config.{network} is set, but method '{method}' has none")
  return tuple(path for path in named if path not in NETWORKS or path in wanted)


def _stray(config, path: str) -> Refusal:
  """What is wrong with an override that belongs to no section."""
  section, parents = config, path.split('.')[:-1]
  for i, key in enumerate(parents):
    if key not in section:
      return Refusal(f"unknown key 'config.{'.'.join(parents[: i + 1])}'{nearest(key, section)}")
    section = section[key]
    if not isinstance(section, ml_collections.ConfigDict):
      break
  name = '.'.join(parents)
  return Refusal(f"'config.{name}' is no section whose keys can be set one by one, as in --config.{path}")


def build(section, kind: str, *arguments, name: str | None = None, **keywords):
  """Calls the function that a (completed) section stands for, with what the engine adds."""
  given = {k: v for k, v in section.items() if k != 'name'}
  return factory(kind, name or section['name'])(*arguments, **keywords, **given)


def _module(kind: str, name: str):
  return importlib.import_module(factory(kind, name).__module__)


def glossary(config) -> dict[str, str]:
  """One-line meanings of the metrics of the config's method and of the scores of its evaluators."""
  found = _module('method', config.method.name).GLOSSARY
  for name in config.evals:
    found = found | _module('evals', name).GLOSSARY
  return found


def best_scores(evaluators: Iterable[str] | None = None) -> list[str]:
  """The scores that can say which checkpoint is the best, of these evaluators; None: of all that there are."""
  names = _known('evals') if evaluators is None else evaluators
  return [score for name in names for score in _module('evals', name).MORE_IS_BETTER]


# --- files and overrides ---


def read(path: str) -> ml_collections.ConfigDict:
  """The config of a file (`file.py:variant` calls `get_config('variant')`), or that of the run in a workdir.

  Raises:
    Refusal: neither is there, or the file cannot be used (see `config_file.run`).
  """
  # os.path, unlike pathlib, answers for names that no file can have, too.
  if os.path.isdir(path):
    return read_config(path)
  stem, variants, variant = path.partition('.py:')
  file = stem + '.py' if variants else path
  if os.path.isfile(file):
    return config_file.run(file, variant)
  if file.endswith('.py'):
    raise Refusal(f"no config file '{file}' (from {pathlib.Path.cwd()})")
  raise Refusal(
    f"there is no '{path}' (from {pathlib.Path.cwd()}): the directory of a run, with its {CONFIG}, or a config file, "
    'FILE.py or FILE.py:VARIANT, is needed'
  )


def load(path: str, overrides: Mapping[str, str] | None = None) -> ml_collections.ConfigDict:
  """A completed config: the file's, with overrides ('method.temperature': '0.2') applied.

  Choices of functions come first, so that the options of the chosen function are there to be overridden.
  """
  config, overrides = read(path), dict(overrides or {})
  _check_small_views(config, overrides)
  _check_length(config, overrides)
  for section in [s for s in _NAMED if f'{s}.name' in overrides]:
    if section in _DEFAULTS and section not in config:
      config[section] = {}
    if section == 'data.small_views' and 'small_views' not in config.data:
      config.data.small_views = {}
    _choose(_section(config, section), overrides.pop(f'{section}.name'))
    if section == 'method':
      _drop_networks(config)
  if 'method.loss' in overrides:
    _choose_loss(_section(config, 'method'), overrides.pop('method.loss'))
  return complete(config, overrides)


def _check_length(config, overrides: Mapping[str, str]):
  """Refuses a number of epochs where the config's number of steps would decide."""
  steps = _section(config, 'train').get('steps')
  if steps is not None and 'train.epochs' in overrides and 'train.steps' not in overrides:
    raise Refusal(
      f'config.train.epochs={overrides["train.epochs"]} would count for nothing, as the config has '
      f'config.train.steps={steps}: set that, or to none'
    )


def _check_small_views(config, overrides: Mapping[str, str]):
  """Refuses to say how small views are made where none are."""
  there = _section(config, 'data').get('num_small_views', 0)
  number = overrides.get('data.num_small_views', str(there))
  of_small = [key for key in overrides if key.startswith('data.small_views.')]
  if of_small and number == '0':
    raise Refusal(f'config.{of_small[0]} is set, but config.data.num_small_views is 0')


def _choose(section, name: str):
  """Another function: the options of the one that is no longer chosen go with it."""
  if section.get('name') != name:
    for key in list(section):
      del section[key]
    section.name = name


def _drop_networks(config):
  """Those of a method that is no longer chosen go with it."""
  wanted = needs(config.method.name)
  for network in [n for n in NETWORKS if n in config and n not in wanted]:
    del config[network]


def _choose_loss(section, loss: str):
  """Another loss: only options that it has too are kept."""
  if section.get('loss') != loss:
    kept = _parameters(factory('method', section.get('name')), section.to_dict() | {'loss': loss})
    for key in [k for k in section if k not in kept and k != 'name']:
      del section[key]
    with section.ignore_type():
      section.loss = loss
