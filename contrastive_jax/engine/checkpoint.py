"""Checkpoints that survive a kill at any moment and notice every damaged byte.

Layout of one checkpoint, below the directory of the run::

  00000120.partial/          while it is being written
  00000120/                  after the one rename that commits it
    arrays/                  the leaves, as orbax stores them
    manifest.json            step, score, shape and dtype of every leaf
    checksums.json           sha256 and size of every other file

The state is stored as a flat dictionary of leaf paths (``params/dense/kernel``), so any pytree that has unique
paths can be saved: nested dicts, NamedTuples such as optax states, empty dicts, scalars.
"""

import collections
import concurrent.futures
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from contrastive_jax.engine import processes
from contrastive_jax.types import Refusal

log = logging.getLogger(__name__)

ARRAYS, MANIFEST, CHECKSUMS = 'arrays', 'manifest.json', 'checksums.json'
_SAVING = threading.Lock()
PARTIAL, DELETED = '.partial', '.deleted'


class Checkpoints:
  """The checkpoints of one run: saved in the background, verified before they are read.

  Args:
    directory: where they lie; created at the first save.
    keep_last: how many of the newest are kept (at least 1).
    keep_best: how many of those with the highest score are kept as well.

  Older ones are deleted only after a newer one has been committed; those found damaged go first.
  """

  def __init__(self, directory: str | os.PathLike, *, keep_last: int = 2, keep_best: int = 1):
    if keep_last < 1 or keep_best < 0:
      raise Refusal(f'checkpoints need keep_last >= 1 and keep_best >= 0, got {keep_last} and {keep_best}')
    self._directory = pathlib.Path(directory).absolute()
    self._keep_last, self._keep_best = keep_last, keep_best
    self._trusted: set[int] = set()  # written or verified here
    self._damaged: set[int] = set()
    self._worker = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix='checkpoint')
    self._pending: concurrent.futures.Future | None = None

  def save(self, step: int, state: Any, *, score: float | None = None) -> None:
    """Starts to save `state` and returns as soon as its copy on the host is made (donating it is safe).

    Waits for the save before it; an error of that one is raised here. A step that this object has saved or restored
    is not written twice. Higher scores are better; None and nan are never among the best.

    Raises:
      Refusal: the directory holds checkpoints at or after this step that were not restored from, so that another
        run would be overwritten.
    """
    self.wait()
    if step in self._trusted:
      log.info('checkpoint %d exists already', step)
      return
    foreign = [other for other in self.steps() if other >= step and other not in self._trusted | self._damaged]
    if foreign:
      there = f'{self._directory} already holds checkpoint {foreign[-1]}, so step {step} is not saved over it'
      raise Refusal(f'{there}: restore from it, or use another directory')
    leaves = _named_leaves(state)
    partial = self._path(step, PARTIAL)
    if processes.first():
      _delete(partial)
      partial.mkdir(parents=True)
      described = {name: [list(np.shape(leaf)), str(_dtype(leaf))] for name, leaf in leaves.items()}
      score = None if score is None or math.isnan(score) else float(score)
      _write_json(partial / MANIFEST, {'step': step, 'score': score, 'leaves': described})
    # Orbax refuses arrays without elements; the manifest is all there is to know of them.
    stored = {k: v if isinstance(v, jax.Array) else np.array(v) for k, v in leaves.items() if np.size(v)}
    with _SAVING:
      response = ocp.save_async(partial / ARRAYS, stored)
      if threading.current_thread() is not threading.main_thread():
        response.result()  # Orbax mixes up saves of threads
    self._pending = self._worker.submit(self._commit, step, response)

  def restore(self, like: Any) -> tuple[Any, int] | None:
    """The newest checkpoint whose every file matches its checksum, as (state, step); None if there is none at all.

    Args:
      like: pytree of arrays or `jax.ShapeDtypeStruct` giving structure, shapes, dtypes and shardings of the result
        (the shardings may differ from those it was saved with). Leaves that are numpy arrays or Python numbers come
        back as such.

    A damaged or half-written checkpoint is named in a warning, and the one before it is used.

    Raises:
      Refusal: checkpoints exist and none is usable, or the newest usable one is of another model (the first leaf that
        differs is named).
    """
    self.wait()
    step, damaged = _newest_usable(self._directory)
    self._damaged.update(damaged)
    if step is None:
      return None
    state = _load(self._path(step), like, whole=True)
    self._trusted.add(step)
    return state, step

  def steps(self) -> list[int]:
    """Steps of the committed checkpoints, ascending; they are not verified."""
    return _steps(self._directory, '')

  def newest(self) -> int | None:
    """Step of the newest checkpoint, that under way included; None where there is none."""
    self.wait()
    return max(self.steps(), default=None)

  def wait(self) -> None:
    """Returns when the last save is committed; raises its error if it failed."""
    pending, self._pending = self._pending, None
    if pending is not None:
      try:
        pending.result()
      finally:
        # Process 0 commits for all, so the others must not look at the directory before it has.
        processes.wait('checkpoint committed')

  def close(self) -> None:
    """Waits for the last save, though not for other processes, which may be gone; ends the background thread."""
    try:
      if self._pending is not None:
        self._pending.result()
    finally:
      self._worker.shutdown()

  def _path(self, step: int, suffix: str = '') -> pathlib.Path:
    return self._directory / f'{step:08d}{suffix}'

  def _commit(self, step: int, response: ocp.AsyncResponse) -> None:
    response.result()
    if processes.first():
      partial, final = self._path(step, PARTIAL), self._path(step)
      files = sorted(file for file in partial.rglob('*') if file.is_file())
      sums = {file.relative_to(partial).as_posix(): [_digest(file), file.stat().st_size] for file in files}
      _write_json(partial / CHECKSUMS, sums)
      _delete(final)  # only a damaged one can be there
      partial.rename(final)
      _sync(self._directory)
      self._collect(step)
    self._trusted.add(step)
    self._damaged.discard(step)

  def _collect(self, newest: int) -> None:
    """Deletes what need not be kept, now that `newest` is committed."""
    scores = _scores(self._directory, set(self.steps()) - self._damaged)
    scored = sorted((score, step) for step, score in scores.items() if score is not None)
    best = [step for _, step in scored[max(0, len(scored) - self._keep_best) :]]
    keep = {newest, *sorted(scores)[-self._keep_last :], *best}
    for step in set(self.steps()) - keep:
      _delete(self._path(step))
    for suffix in (PARTIAL, DELETED):
      for step in _steps(self._directory, suffix):
        shutil.rmtree(self._path(step, suffix))


def restore_params(directory: str | os.PathLike, *, like: Any = None, checkpoint: int | str = 'newest') -> Any:
  """Parameters and method state of one checkpoint, for a warm start or for use.

  Args:
    directory: the directory given to `Checkpoints` of the other run, which is only read.
    like: None, or a pytree with the leaf paths of the train state, such as ``{'params': params}`` or
      ``{'params': {'backbone': backbone}}``, that says what to load and into which shapes and shardings.
    checkpoint: 'newest', 'best' (the highest score that was saved with one; the newer of equals), or a step. Of the
      first two, damaged ones are passed over with a warning.

  Returns:
    A tree like `like`; without it the nested dict ``{'params': ..., 'state': ...}`` of numpy arrays, where the fields
    of NamedTuples and the positions in tuples have become keys.

  Raises:
    Refusal: there is no usable checkpoint; none has a score; no such step (those there are are named), or it is
      damaged; the checkpoint lacks a leaf of `like` or has it with another shape.
  """
  directory = pathlib.Path(directory).absolute()
  path = directory / f'{_chosen(directory, checkpoint):08d}'
  if like is not None:
    return _load(path, like, whole=False)
  like = {'params': {}, 'state': {}}
  for name, (shape, dtype) in _read_json(path / MANIFEST)['leaves'].items():
    *folders, last = name.split('/')
    if folders and folders[0] in like:
      node = like
      for folder in folders:
        node = node.setdefault(folder, {})
      node[last] = np.empty(shape, np.dtype(dtype))
  return _load(path, like, whole=False)


def _chosen(directory: pathlib.Path, checkpoint: int | str) -> int:
  """The step that `checkpoint` of `restore_params` means."""
  if checkpoint == 'newest':
    step, _ = _newest_usable(directory)
    if step is None:
      raise Refusal(f'no checkpoint to start from in {directory}')
    return step
  steps = _steps(directory, '')
  there = f'the checkpoints in {directory} are {", ".join(map(str, steps)) or "none"}'
  if checkpoint == 'best':
    # An unreadable one comes first: it may have been the best, so it is to be named.
    scores: dict = dict.fromkeys(steps, math.inf) | _scores(directory, steps)
    ranked = sorted((score, step) for step, score in scores.items() if score is not None)
    step, _ = _first_usable(directory, [step for _, step in reversed(ranked)])
    if step is None:
      raise Refusal(f"no usable checkpoint has a score, so none is 'best': {there}")
    return step
  if not str(checkpoint).isdecimal():
    raise Refusal(f"a checkpoint is 'newest', 'best' or a step, not '{checkpoint}': {there}")
  step = int(checkpoint)
  if step not in steps:
    raise Refusal(f'no checkpoint of step {step}: {there}')
  problem = _damage(directory / f'{step:08d}')
  if problem is not None:
    raise Refusal(f'checkpoint {step} in {directory} is damaged: {problem}')
  return step


def _scores(directory: pathlib.Path, steps: Iterable[int]) -> dict[int, float | None]:
  """The scores that checkpoints were saved with; without those whose manifest cannot be read."""
  found = {}
  for step in steps:
    try:
      score = _read_json(directory / f'{step:08d}' / MANIFEST)['score']
      found[step] = None if score is None else float(score)
    except (OSError, ValueError, KeyError, TypeError):
      continue  # damaged
  return found


def _first_usable(directory: pathlib.Path, steps: Iterable[int]) -> tuple[int | None, dict[int, str]]:
  """The first checkpoint that verifies, and what is wrong with those before it: each is named in a warning."""
  damage: dict[int, str] = {}
  for step in steps:
    problem = _damage(directory / f'{step:08d}')
    if problem is None:
      return step, damage
    damage[step] = problem
    log.warning('checkpoint %d in %s is damaged and passed over: %s', step, directory, problem)
  return None, damage


def _newest_usable(directory: pathlib.Path) -> tuple[int | None, list[int]]:
  """The newest checkpoint that verifies, and the newer ones that do not; half-written ones are warned of too."""
  usable, damage = _first_usable(directory, reversed(_steps(directory, '')))
  for step in _steps(directory, PARTIAL):
    if usable is None or step > usable:
      name = f'{step:08d}{PARTIAL}'
      log.warning('checkpoint %d in %s is half-written and passed over: %s was never committed', step, directory, name)
  if usable is None and damage:
    reasons = '; '.join(f'{step}: {problem}' for step, problem in damage.items())
    raise Refusal(
      f'{directory} holds checkpoints, but none is usable ({reasons}): repair it, or move it away to start again'
    )
  return usable, list(damage)


def _damage(path: pathlib.Path) -> str | None:
  """What is wrong with a committed checkpoint, or None: every file is read and compared with its checksum."""
  try:
    sums = _read_json(path / CHECKSUMS)
    expected = {str(name): (str(digest), int(size)) for name, (digest, size) in sums.items()}
  except FileNotFoundError:
    return f'half-written, {CHECKSUMS} is missing'
  except (OSError, ValueError, TypeError, AttributeError):
    return f'{CHECKSUMS} cannot be read'
  if MANIFEST not in expected:
    return f'{CHECKSUMS} is incomplete'
  for name, (digest, size) in expected.items():
    try:
      found = (path / name).stat().st_size
      if found != size:
        return f'{name} has {found} bytes instead of {size}'
      if _digest(path / name) != digest:
        return f'{name} does not match its checksum'
    except FileNotFoundError:
      return f'{name} is missing'
    except (OSError, ValueError) as error:
      return f'{name} cannot be read: {error}'
  return None


def _load(path: pathlib.Path, like: Any, *, whole: bool) -> Any:
  """Reads the leaves of `like`; `whole` refuses a checkpoint that has others besides."""
  saved = {name: (tuple(shape), dtype) for name, (shape, dtype) in _read_json(path / MANIFEST)['leaves'].items()}
  wanted = _named_leaves(like)
  for name in [*wanted, *(saved if whole else ())]:
    here = (np.shape(wanted[name]), str(_dtype(wanted[name]))) if name in wanted else None
    if saved.get(name) != here:
      raise Refusal(
        f"checkpoint {path} is of another model: '{name}' is {_describe(saved.get(name))} there "
        f'and {_describe(here)} here'
      )
  targets = {name: _target(leaf) for name, leaf in wanted.items()}
  context = ocp.Context()
  context.pytree.loading.partial_load = not whole
  with context:
    filled = {name: target for name, target in targets.items() if math.prod(target.shape)}
    loaded = ocp.load(path / ARRAYS, filled) if filled else {}
  leaves = []
  for name, leaf in wanted.items():
    target = targets[name]
    value = loaded.get(name)
    if value is None:
      empty = np.zeros(target.shape, target.dtype)
      value = empty if isinstance(target, np.ndarray) else processes.put(empty, target.sharding)
    leaves.append(value.item() if isinstance(leaf, (bool, int, float)) else value)
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _named_leaves(tree: Any) -> dict[str, Any]:
  """Leaves by their path, such as ``opt_state/0/mu/dense/kernel``."""
  named = [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  ]
  repeated = [name for name, count in collections.Counter(name for name, _ in named).items() if count > 1]
  if repeated:
    raise ValueError(f"two leaves of the state have the path '{repeated[0]}'")
  return dict(named)


def _target(leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
  if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  return np.empty(np.shape(leaf), _dtype(leaf))


def _dtype(leaf: Any) -> np.dtype:
  return leaf.dtype if hasattr(leaf, 'dtype') else np.asarray(leaf).dtype


def _describe(leaf: tuple[tuple[int, ...], str] | None) -> str:
  return 'absent' if leaf is None else f'{leaf[1]}{list(leaf[0])}'


def _steps(directory: pathlib.Path, suffix: str) -> list[int]:
  pattern = re.compile(r'(\d{8,})' + re.escape(suffix))
  names = (pattern.fullmatch(entry.name) for entry in directory.iterdir()) if directory.is_dir() else ()
  return sorted(int(name.group(1)) for name in names if name)


def _delete(path: pathlib.Path) -> None:
  """Renames before it removes: a kill half-way leaves rubbish, not something that looks like a checkpoint."""
  if path.exists():
    doomed = path.with_suffix(DELETED)
    if doomed.exists():
      shutil.rmtree(doomed)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _digest(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _read_json(path: pathlib.Path) -> Any:
  return json.loads(path.read_text(encoding='utf-8'))


def _write_json(path: pathlib.Path, value: Any) -> None:
  """Atomic: temporary file, flushed to the disk, renamed."""
  temporary = path.with_suffix('.tmp')
  with temporary.open('w', encoding='utf-8') as file:
    json.dump(value, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  temporary.rename(path)
  _sync(path.parent)


def _sync(directory: pathlib.Path) -> None:
  """Flushes the entries of a directory, so that a rename survives a power cut."""
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
