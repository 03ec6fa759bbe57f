"""From flags and a sweep file to runs, each of them checked before any is started."""

import collections
import json
import pathlib
import runpy
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from contrastive_jax.engine import plan, resolve, setup
from contrastive_jax.types import Refusal
from launch import space
from launch.folder import Run, name_of
from launch.space import CONFIG, SEED, Setting


def settings(file: str | None, sweeps: Sequence[str], seeds: int | None) -> list[Setting]:
  """The product of what the file's `get_sweep` yields, the `--sweep` flags and the seeds.

  Raises:
    Refusal: the file or a flag cannot be used, or two of them set one key.
  """
  spaces = []
  if file is not None:
    listed = called(file, 'get_sweep', lambda returned: list(returned))
    if listed is None:
      raise Refusal(f"'{file}' has no function get_sweep")
    spaces.append([_setting(file, setting) for setting in listed])
  spaces += [space.parsed(text) for text in sweeps]
  spaces += [] if seeds is None else [space.seeds(seeds)]
  return space.chain(space.product(*spaces))


def common(file: str | None, overrides: Mapping[str, str]) -> dict[str, str]:
  """The overrides of all runs, by key without `config.`: those of the file's `get_common`, if it has one, and flags.

  Raises:
    Refusal: both set one key.
  """
  of_flags: Setting = {f'config.{key}': value for key, value in overrides.items()}
  of_file = (called(file, 'get_common') if file is not None else None) or {}
  both = space.product([_setting(str(file), of_file)], [of_flags])[0]
  return {key.removeprefix('config.'): value for key, value in both.items()}


def called(file: str, function: str, then: Callable[[Any], Any] = lambda returned: returned) -> Any:
  """What a function of a Python file returns; None where the file has no such function.

  Raises:
    Refusal: there is no such file, or something goes wrong in it: with its line.
  """
  if not pathlib.Path(file).is_file():
    raise Refusal(f"there is no sweep file '{file}'")
  try:
    names = runpy.run_path(file)
    return then(names[function]()) if function in names else None
  except Refusal:
    raise
  except Exception as error:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f' in line {lines[-1]}' if lines else ''
    raise Refusal(f"sweep file '{file}' fails{where}: {type(error).__name__}: {error}") from error


def _setting(file: str, given: Any) -> Setting:
  if not isinstance(given, Mapping):
    raise Refusal(f"'{file}' must give settings, as the functions of launch.space return them, not {given!r}")
  return space.product(*(space.values(key, value) for key, value in given.items()))[0]


def runs(found: Iterable[Setting], config: str | None, overrides: Mapping[str, str]) -> list[Run]:
  """Named runs, not checked yet; `overrides` are those of all.

  Raises:
    Refusal: no config, a key that is set for all and swept, or two runs of one name.
  """
  made = []
  for setting in found:
    chosen = setting.get(CONFIG, config)
    if chosen is None:
      raise Refusal('--config is needed: a config file, such as configs/ssl/simclr.py; or sweep over some')
    own = {key.removeprefix('config.'): value for key, value in setting.items() if key != CONFIG}
    twice = sorted(own.keys() & overrides.keys())
    if twice or (CONFIG in setting and config is not None):
      key = f'config.{twice[0]}' if twice else 'config'
      raise Refusal(f'--{key} is given for all runs, but the sweep sets it too')
    made.append(Run(name_of(setting), chosen, {**overrides, **own}, setting, 0))
  if not made:
    raise Refusal('the sweep has no settings')
  name, times = collections.Counter(run.name for run in made).most_common(1)[0]
  if times > 1:
    raise Refusal(f"{times} runs would be called '{name}': give their config files different names")
  return made


def checked(found: Sequence[Run], *, trace: bool = True) -> list[Run]:
  """The runs with their number of steps.

  Names and types are checked for every run. The first step, which alone knows whether a temperature of 0 is allowed,
  is traced for so many runs that every value of every key has been met.

  Raises:
    Refusal: of the first run that cannot be, with its name.
  """
  sources: dict = {}
  met: set[tuple[str, str]] = set()
  steps = []
  for run in found:
    try:
      built = _built(run, sources)
      new = {item for item in run.setting.items() if item[0] != SEED} - met
      if trace and (new or not steps):
        built.check()
        met |= new
    except Refusal as refusal:
      raise Refusal(f"run '{run.name}': {refusal}") from None
    steps.append(built.info.total_steps)
  return [run._replace(steps=number) for run, number in zip(found, steps, strict=True)]


def _built(run: Run, sources: dict) -> setup.Run:
  """The functions of a run on this machine's devices; data sets are opened once."""
  config = resolve.load(run.config, run.overrides)
  config.train.devices = None  # the machine that trains may have more
  data = json.dumps(config.data.source.to_dict(), sort_keys=True)
  if data not in sources:
    sources[data] = setup.sources(config)
  return setup.build(config, sources[data])


def alike(found: Sequence[Run]) -> list[list[Run]]:
  """Groups of runs that differ in the seed and in numbers that a compiled step takes as inputs alone."""
  groups: dict[str, list[Run]] = {}
  for run in found:
    groups.setdefault(setup.program(resolve.load(run.config, run.overrides)), []).append(run)
  return list(groups.values())


def on_cpu():
  """Keeps this process, which only checks, from the accelerators that its runs are to have."""
  jax.config.update('jax_platforms', 'cpu')


# --- what it will cost ---


def estimates(found: Sequence[Run]) -> list[tuple[list[Run], plan.Plan]]:
  """The planner's figures for each group of runs that cost the same: seeds and other fractions change no product."""
  groups: dict[tuple, list[Run]] = {}
  for run in found:
    shape = tuple((key, value) for key, value in sorted(run.setting.items()) if key != SEED and not _fraction(value))
    groups.setdefault(shape, []).append(run)
  sources: dict = {}
  return [(group, plan.sketch(_built(group[0], sources))) for group in groups.values()]


def _fraction(text: str) -> bool:
  return '.' in text and text.replace('.', '').replace('e-', '').isdigit()
