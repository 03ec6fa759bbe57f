"""Starting from the parameters of another run."""

import pathlib

import jax

from contrastive_jax.engine.checkpoint import restore_params
from contrastive_jax.engine.state import TrainState
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
    merged = merge(state.state['stats'], stats, skip=skip)
    state = state._replace(state=state.state | {'stats': _placed(merged, state.state['stats'])})
  return state


def _placed(tree, like):
  return jax.tree.map(lambda x, there: jax.device_put(x, there.sharding), tree, like)
