"""Parameters in safetensors files, and warm starts from them."""

import hashlib
import os
import pathlib
import secrets
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from contrastive_jax.models import options
from contrastive_jax.types import Params, Refusal, State

SHOWN = 3  # parameters named in a refusal
STATS = 'stats'  # begins the names of batch statistics in a file


def save_safetensors(path: str | os.PathLike, params: Params, *, stats: State | None = None) -> None:
  """Writes a nested dict of arrays as one file, names joined by '/' ('stem_conv/kernel').

  The file appears under its name only when it is complete, and carries a checksum of its contents. Empty dicts are
  not kept.

  Args:
    path: of the file; folders are made.
    params: nested dict of arrays.
    stats: nested dict of batch statistics, written beside the parameters as 'stats/...'.

  Raises:
    Refusal: a name that contains '/', parameters named 'stats' beside statistics, or nothing to write.
  """
  path = pathlib.Path(path)
  if stats and STATS in params:
    raise Refusal(f"parameters named '{STATS}' cannot be written beside batch statistics, which have that name")
  names = flatten_dict({**params, STATS: stats} if stats else params)
  for name in names:
    if any('/' in part for part in name):
      raise Refusal(f"parameter {name} cannot be written: '/' separates the parts of a name")
  if not names:
    raise Refusal(f'{path} would be empty: there are no parameters')
  # The library writes the buffer as it lies in memory: anything not in row-major order would be written scrambled.
  tensors = {'/'.join(name): np.asarray(leaf, order='C') for name, leaf in names.items()}
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
  try:
    save_file(tensors, unfinished, metadata={'sha256': _digest(tensors)})
    with open(unfinished, 'rb') as file:
      os.fsync(file.fileno())
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)


def load_safetensors(path: str | os.PathLike) -> dict:
  """Reads a nested dict of numpy arrays, with batch statistics under 'stats' where they were written.

  Files from elsewhere, without our checksum, are read unchecked.

  Raises:
    Refusal: no such file, not a safetensors file, truncated, or contents that do not match the checksum.
  """
  try:
    with safe_open(path, framework='numpy') as file:
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict: it cannot be iterated)
      checksum = (file.metadata() or {}).get('sha256')
  except FileNotFoundError:
    raise Refusal(f'no parameters at {path}: there is no such file') from None
  except (SafetensorError, OSError) as error:
    raise Refusal(f'{path} is damaged or not a safetensors file: {error}') from error
  if checksum not in (None, _digest(tensors)):
    raise Refusal(f'{path} is damaged: its contents do not match the checksum written with them')
  return unflatten_dict(tensors, sep='/')


def merge(params: Params, loaded: Params, *, skip: str | None = None) -> dict:
  """params with each array replaced by the one of the same name in `loaded`, in the dtype of the former.

  What `loaded` has beyond params (a classifier, say) is left out.

  Args:
    params: nested dict, as `Encoder.init` returns it.
    loaded: nested dict, as `load_safetensors` returns it.
    skip: regular expression; parameters whose whole '/'-joined name matches keep their value ('head/.*').

  Raises:
    Refusal: parameters that `loaded` lacks or has in another shape (the first are named); a `skip` that is not a
      regular expression or matches no parameter.
  """
  leaves = flatten_dict(params, sep='/', keep_empty_nodes=True)
  found = flatten_dict(loaded, sep='/')
  kept = set() if skip is None else {name for name in leaves if options.pattern('skip', skip).fullmatch(name)}
  if skip is not None and not kept:
    raise Refusal(f"skip '{skip}' matches no parameter; the first are {_first(leaves)}")
  taken = {name: leaf for name, leaf in leaves.items() if name not in kept and hasattr(leaf, 'shape')}
  missing = [name for name in taken if name not in found]
  if missing:
    raise Refusal(f'parameters not among those loaded: {_first(missing)}; loaded were {_first(found)}')
  shapes = {name: (tuple(leaf.shape), tuple(found[name].shape)) for name, leaf in taken.items()}
  wrong = [f'{name} is {list(here)}, loaded {list(there)}' for name, (here, there) in shapes.items() if here != there]
  if wrong:
    raise Refusal(f'parameters of another shape: {_first(wrong)}')
  return unflatten_dict(leaves | {name: jnp.asarray(found[name], leaf.dtype) for name, leaf in taken.items()}, sep='/')


def _first(names: Iterable[str]) -> str:
  names = list(names)
  rest = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
  return ', '.join(names[:SHOWN]) + rest


def _digest(tensors: dict[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name, value in sorted(tensors.items()):
    digest.update(f'{name} {value.dtype} {value.shape}'.encode())
    digest.update(value.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()
