"""What lies in the folder of a sweep: its manifest, and of each run a workdir, a log and a state.

=======================  ============================================================================================
path                     what it is
=======================  ============================================================================================
``manifest.json``        the runs: name, config, overrides, what of them was swept, number of steps
``runs/NAME/``           the workdir of a run, as `contrastive_jax.train` makes it
``logs/NAME.log``        all that a run has said, of every attempt
``states/NAME.json``     how it stands: running, finished, failed, stopped, queued; why, and since when
``cache/``               compiled code, shared by the runs
=======================  ============================================================================================

Whatever is here is written whole or not at all, so a sweep can be killed, read and continued at any moment.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from contrastive_jax.types import Refusal
from launch.space import CONFIG, SEED, Setting

MANIFEST = 'manifest.json'
STATES = ('finished', 'running', 'queued', 'waiting', 'stopped', 'failed')
# Of a name as long as this the rest becomes a checksum: files may not be called anything longer than 255 bytes.
LONGEST = 180


class Run(NamedTuple):
  """One run of a sweep."""

  name: str
  config: str  # FILE.py or FILE.py:VARIANT
  overrides: dict[str, str]  # all of them, 'method.temperature': '0.1'
  setting: Setting  # those that were swept, 'config.method.temperature': '0.1'; the file, if it was
  steps: int  # of training


class State(NamedTuple):
  """How a run stands."""

  state: str = 'waiting'
  reason: str = ''  # why it failed
  began: float = 0.0  # seconds since 1970 of the last attempt
  seconds: float = 0.0  # that it took
  attempts: int = 0
  job: str = ''  # SLURM's name for it


def name_of(setting: Setting) -> str:
  """The name of a run: what was swept, in alphabetical order, the config first and the seed last."""
  keys = sorted(setting, key=lambda key: (key != CONFIG, key == SEED, key))
  parts = [stem(setting[key]) if key == CONFIG else f'{key.removeprefix("config.")}={setting[key]}' for key in keys]
  exact = ','.join(parts) or 'run'
  safe = re.sub(r'[^A-Za-z0-9._=,+-]+', '-', exact)[:LONGEST]
  return safe if safe == exact else f'{safe}~{zlib.crc32(exact.encode()):08x}'


def stem(config: str) -> str:
  """The name of a config file, with its variant: 'mv_dhel', 'mv_dhel-tiny'."""
  return re.sub(r'\.py(:|$)', r'\1', config.rpartition('/')[2]).replace(':', '-')


def workdir(root: pathlib.Path, run: Run) -> pathlib.Path:
  """Where the run is trained."""
  return root / 'runs' / run.name


def log(root: pathlib.Path, run: Run) -> pathlib.Path:
  """What it says."""
  return root / 'logs' / f'{run.name}.log'


def _state(root: pathlib.Path, run: Run) -> pathlib.Path:
  return root / 'states' / f'{run.name}.json'


def write(path: pathlib.Path, text: str):
  """Writes a file whole or not at all, with the folders above it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  try:
    with part.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    part.replace(path)
  except OSError:
    part.unlink(missing_ok=True)
    raise


def read(path: pathlib.Path) -> Any:
  """What a JSON file holds; an empty dictionary where there is none, or none that is whole."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}


def state(root: pathlib.Path, run: Run) -> State:
  """How the run stands."""
  return State(**read(_state(root, run)))


def write_state(root: pathlib.Path, run: Run, now: State):
  """Keeps how the run stands."""
  write(_state(root, run), json.dumps(now._asdict(), indent=1))


def finished(root: pathlib.Path, run: Run) -> bool:
  """Whether the run has been trained to its last step and evaluated there."""
  evaluations = read(workdir(root, run) / 'evaluations.json').get('evaluations', [])
  return bool(evaluations) and evaluations[-1].get('step') == run.steps


# --- the manifest ---


def runs(root: pathlib.Path) -> list[Run]:
  """The runs of the sweep in a folder.

  Raises:
    Refusal: there is none.
  """
  found = read(root / MANIFEST).get('runs')
  if not found:
    raise Refusal(f"'{root}' holds no sweep: {MANIFEST} is missing or damaged")
  return [Run(**run) for run in found]


def merged(root: pathlib.Path, wanted: list[Run]) -> list[Run]:
  """The runs of the sweep that is in the folder, if one is, and those of `wanted` that are new there.

  Raises:
    Refusal: the folder holds other files; a run of one name has other settings there.
  """
  there = runs(root) if (root / MANIFEST).exists() else []
  if not there and root.exists() and (not root.is_dir() or any(not p.name.startswith('.') for p in root.iterdir())):
    raise Refusal(f"workdir '{root}' is not empty and holds no sweep: give a new or empty directory")
  known = {run.name: run for run in there}
  for run in wanted:
    _compare(root, known.get(run.name, run), run)
  return list((known | {run.name: run for run in wanted}).values())


def write_manifest(root: pathlib.Path, found: list[Run]):
  """Keeps which runs there are."""
  write(root / MANIFEST, json.dumps({'runs': [run._asdict() for run in found]}, indent=1) + '\n')


def _compare(root: pathlib.Path, there: Run, here: Run):
  """Refuses a run that has begun with other settings under the same name."""
  if there == here:
    return
  old, new = ({**run.overrides, 'config': run.config, 'number of steps': str(run.steps)} for run in (there, here))
  key = next(key for key in sorted(old | new) if old.get(key) != new.get(key))
  raise Refusal(
    f"workdir '{root}' holds run '{here.name}' with {key}={old.get(key)}, not {new.get(key)}: give another --workdir"
  )


# --- who is at work ---


@contextlib.contextmanager
def launching(root: pathlib.Path) -> Iterator[int]:
  """Holds the folder for one launcher; yields a file that its runs inherit and so hold as long as they live.

  Runs of a launcher that was killed get SIGTERM with it and save; this waits for them.

  Raises:
    Refusal: another launcher is at work here.
  """
  root.mkdir(parents=True, exist_ok=True)
  with (root / '.launcher').open('w') as own, (root / '.runs').open('w') as inherited:
    if not _locked(own.fileno()):
      raise Refusal(f"another launcher is at work in '{root}'")
    if not _locked(inherited.fileno()):
      print('runs of a launcher that was killed are still there: waiting until they have saved', flush=True)
      while not _locked(inherited.fileno()):
        time.sleep(0.5)
    yield inherited.fileno()


def launched(root: pathlib.Path) -> bool:
  """Whether a launcher is at work in the folder."""
  if not (root / '.launcher').exists():
    return False
  with (root / '.launcher').open('r') as own:
    return not _locked(own.fileno())


def _locked(file: int) -> bool:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return False
  return True


def counts(states: Mapping[str, State]) -> str:
  """'5 finished, 1 failed'."""
  found = {kind: sum(each.state == kind for each in states.values()) for kind in STATES}
  return ', '.join(f'{number} {kind}' for kind, number in found.items() if number)
