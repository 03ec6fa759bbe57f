"""What lies in a run's directory besides checkpoints and metrics; written atomically, never silently overwritten."""

import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import contrastive_jax
from contrastive_jax.data import identity
from contrastive_jax.data.sources import Source
from contrastive_jax.engine import processes
from contrastive_jax.types import Embedded, Refusal

CONFIG, DATA, EVALUATIONS, VERSIONS = 'config.json', 'data.json', 'evaluations.json', 'versions.json'
EMBEDDINGS = 'embeddings.npz'
PART = '.part'  # ends the name of a file that is being written


def write_json(path: pathlib.Path, value):
  """Writes a JSON file whole or not at all; of several processes only the first does."""
  if not processes.first():
    return
  text = json.dumps(value, indent=1, sort_keys=True)
  part = path.with_suffix(PART)
  with open(part, 'w') as file:
    file.write(text + '\n')
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)


def _flat(config: Mapping, prefix: str = '') -> dict:
  found: dict = {}
  for key, value in config.items():
    found |= _flat(value, f'{prefix}{key}.') if isinstance(value, Mapping) else {prefix + key: value}
  return found


def _plain(config) -> dict:
  """The config as JSON reads it back: tuples are lists."""
  return json.loads(json.dumps(config.to_dict()))


def enter(workdir: str, config: ml_collections.ConfigDict, sources: Mapping[str, Source]) -> pathlib.Path:
  """Makes the directory of a run, or finds the same run there to continue it; the first process makes, others find.

  Args:
    workdir: the directory.
    config: completed.
    sources: the splits of the run's data set.

  Raises:
    Refusal: the directory holds another run (the first differing key is named), or the same on other data (what
      differs is named), or other files.
  """
  data = identity.describe(sources)
  if processes.first():
    path = _enter(workdir, config, data)
    processes.wait('workdir')
    return path
  processes.wait('workdir')
  return _enter(workdir, config, data)


def _enter(workdir: str, config: ml_collections.ConfigDict, data: identity.Record) -> pathlib.Path:
  path = pathlib.Path(workdir)
  given = _plain(config)
  if (path / CONFIG).exists():
    there, here = _flat(read_config(path).to_dict()), _flat(given)
    differing = sorted(k for k in there.keys() | here.keys() if _listed(there.get(k)) != here.get(k))
    if differing:
      key = differing[0]
      more = f' and {len(differing) - 1} more keys differ' if len(differing) > 1 else ''
      raise Refusal(
        f"workdir '{workdir}' holds a run with config.{key}={there.get(key)!r}, not {here.get(key)!r}{more}: "
        'give another --workdir, or that config to continue it'
      )
    changed = identity.differences(read_data(path), data)
    if changed:
      raise Refusal(
        f"workdir '{workdir}' holds a run on other data: {'; '.join(changed)}: give another --workdir, or those data "
        'to continue it'
      )
    _write_missing(path, data)
    return path
  # A kill before the config was there leaves at most an unfinished file.
  if path.exists() and (not path.is_dir() or any(p.suffix != PART for p in path.iterdir())):
    raise Refusal(f"workdir '{workdir}' is not empty and holds no run: give a new or empty directory")
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise Refusal(f"workdir '{workdir}' cannot be made: {error}") from None
  write_json(path / CONFIG, given)
  _write_missing(path, data)
  return path


def _write_missing(path: pathlib.Path, data: identity.Record):
  """What a kill right after the config was written has left out."""
  if not (path / DATA).exists():
    write_json(path / DATA, data)
  if not (path / VERSIONS).exists():
    write_json(path / VERSIONS, versions())


def _listed(value):
  return json.loads(json.dumps(value))


def read_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
  """The resolved config of a run.

  Raises:
    Refusal: there is none, or it is damaged.
  """
  path = pathlib.Path(workdir) / CONFIG
  if not path.exists():
    raise Refusal(f"'{workdir}' holds no run: {CONFIG} is missing")
  try:
    return ml_collections.ConfigDict(json.loads(path.read_text()))
  except (ValueError, TypeError) as error:
    raise Refusal(f'{path} is damaged: {error}') from None


def read_data(workdir: str | pathlib.Path) -> identity.Record:
  """The record of a run's data, by split; empty where there is none.

  Raises:
    Refusal: it is damaged.
  """
  path = pathlib.Path(workdir) / DATA
  try:
    return json.loads(path.read_text()) if path.exists() else {}
  except ValueError as error:
    raise Refusal(f'{path} is damaged: {error}') from None


def versions() -> dict[str, str]:
  """The versions and the machine that a run's numbers belong to."""
  names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'scikit-learn')
  found = {name: importlib.metadata.version(name) for name in names}
  device = jax.devices()[0]
  return found | {
    'contrastive_jax': contrastive_jax.__version__,
    'python': platform.python_version(),
    'system': f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores',
    'devices': f'{jax.device_count()} x {device.device_kind} ({device.platform})',
  }


def read_evaluations(workdir: pathlib.Path) -> dict:
  """`floors`: scores by name of the floor; `evaluations`: a list of {step, scores}."""
  path = workdir / EVALUATIONS
  return json.loads(path.read_text()) if path.exists() else {'floors': {}, 'evaluators': [], 'evaluations': []}


def add_evaluation(workdir: pathlib.Path, step: int, scores: Mapping[str, float]):
  """Records the scores of a step, in place of earlier ones of the same step or beyond it."""
  record = read_evaluations(workdir)
  kept = [e for e in record['evaluations'] if e['step'] < step]
  record['evaluations'] = [*kept, {'step': step, 'scores': dict(scores)}]
  write_json(workdir / EVALUATIONS, record)


def drop_evaluations(workdir: pathlib.Path, step: int):
  """Forgets the scores of steps beyond one that a run continues from."""
  record = read_evaluations(workdir)
  kept = [e for e in record['evaluations'] if e['step'] <= step]
  if len(kept) < len(record['evaluations']):
    write_json(workdir / EVALUATIONS, record | {'evaluations': kept})


def write_floors(workdir: pathlib.Path, floors: Mapping[str, Mapping[str, float]], evaluators: list[str]):
  """Records the scores that training should pass, and which evaluators the data allows."""
  record = read_evaluations(workdir)
  write_json(
    workdir / EVALUATIONS, record | {'floors': {k: dict(v) for k, v in floors.items()}, 'evaluators': evaluators}
  )


def arrays_of(embedded: Embedded) -> dict[str, np.ndarray]:
  """What there is of an embedded split, under the names of its fields; of captions `texts`, `text_mask` and `slots`."""
  texts = embedded.texts
  found = {k: np.asarray(v) for k, v in embedded._replace(texts=None)._asdict().items() if v is not None}
  if texts is not None:
    found |= {'texts': np.asarray(texts.projection), 'text_mask': texts.mask, 'slots': np.array(texts.slots)}
  return found


def write_embeddings(workdir: pathlib.Path, embedded: Embedded, images: np.ndarray | None, label_names: Sequence[str]):
  """Saves an embedded split, with its pictures and the names of its classes (where there are any), for the report.

  Captions are left out: there may be a hundred times as many as pictures.
  """
  if not processes.first():
    return
  part = workdir / 'embeddings.part.npz'
  arrays: dict[str, Any] = arrays_of(embedded._replace(texts=None))
  if images is not None:
    arrays['image'] = images
  if label_names:
    arrays['label_names'] = np.array(label_names)
  np.savez_compressed(part, **arrays)
  os.replace(part, workdir / EMBEDDINGS)
