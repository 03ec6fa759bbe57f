"""Starting from the parameters of another run."""

import pathlib
import re

import jax

from contrastive_jax.engine import processes
from contrastive_jax.engine.checkpoint import restore_params
from contrastive_jax.engine.state import TrainState, path_name
from contrastive_jax.models.load import load_safetensors, merge
from contrastive_jax.types import Refusal


def warm_start(state: TrainState, init_from: str | None, skip: str | None) -> TrainState:
  """The state with the parameters (and batch statistics) of another run; optimiser and step stay fresh.

  Args:
    state: fresh.
    init_from: a workdir, a .safetensors file of parameters, or None.
    skip: regular expression over whole parameter paths that stay fresh ('head/.*').

  Raises:
    Refusal: nothing to start from there, or parameters that are missing or of another shape.
  """
  if init_from is None:
    return state
  if init_from.endswith('.safetensors'):
    found = {'params': load_safetensors(init_from)}
  elif pathlib.Path(init_from, 'checkpoints').is_dir():
    found = restore_params(pathlib.Path(init_from, 'checkpoints'))
  else:
    raise Refusal(f"config.train.init_from='{init_from}' is neither a run's workdir nor a .safetensors file")
  state = state._replace(params=_placed(merge(state.params, found['params'], skip=skip), state.params))
  stats = found.get('state', {}).get('stats')
  if stats:
    # `merge` takes a pattern that matches nothing for a mistake, but one of parameters need not match statistics.
    own = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.state['stats'])]
    matches = skip is not None and any(re.fullmatch(skip, name) for name in own)
    merged = merge(state.state['stats'], stats, skip=skip if matches else None)
    state = state._replace(state=state.state | {'stats': _placed(merged, state.state['stats'])})
  return state


def _placed(tree, like):
  return jax.tree.map(lambda x, there: processes.put(x, there.sharding), tree, like)
