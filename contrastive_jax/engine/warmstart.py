"""Starting from the parameters of another run."""

import pathlib
import re

import jax
import jax.numpy as jnp

from contrastive_jax.engine import processes
from contrastive_jax.engine.checkpoint import restore_params
from contrastive_jax.engine.state import TrainState, path_name
from contrastive_jax.models.load import STATS, load_safetensors, merge
from contrastive_jax.types import Refusal


def warm_start(state: TrainState, init_from: str | None, skip: str | None) -> TrainState:
  """The state with the parameters (and batch statistics) of another run; optimiser and step stay fresh.

  A model with batch statistics starts from these too: trained weights on fresh statistics would embed wrongly until
  they have settled, so a source without them is refused. A model without leaves aside those it finds.

  Args:
    state: fresh.
    init_from: a workdir, of which the newest checkpoint is used, a .safetensors file of parameters, or None.
    skip: regular expression over whole paths of parameters, and of batch statistics, that stay fresh ('head/.*').

  Raises:
    Refusal: nothing to start from there, or parameters or batch statistics that are missing or of another shape.
  """
  if init_from is None:
    return state
  if init_from.endswith('.safetensors'):
    params = load_safetensors(init_from)
    stats = params.pop(STATS, {})
  elif pathlib.Path(init_from, 'checkpoints').is_dir():
    found = restore_params(pathlib.Path(init_from, 'checkpoints'))
    params, stats = found['params'], found['state'].get('stats', {})
  else:
    raise Refusal(f"config.train.init_from='{init_from}' is neither a run's workdir nor a .safetensors file")
  state = state._replace(params=_placed(merge(state.params, params, skip=skip), state.params))
  return _taught(_with_stats(state, stats, init_from, skip))


def _with_stats(state: TrainState, stats, init_from: str, skip: str | None) -> TrainState:
  own = state.state.get('stats', {})
  names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(own)]
  fresh = [name for name in names if skip is not None and re.fullmatch(skip, name)]
  if len(fresh) == len(names):
    return state
  if not stats:
    raise Refusal(
      f"config.train.init_from='{init_from}' holds no batch statistics, but this model has some ({names[0]}, ...): "
      'start from a workdir or a file written with them'
    )
  # `merge` takes a pattern that matches nothing for a mistake, but one of parameters need not match statistics.
  merged = merge(own, stats, skip=skip if fresh else None)
  return state._replace(state=state.state | {'stats': _placed(merged, own)})


def _taught(state: TrainState) -> TrainState:
  """A teacher starts as its student; as a copy, because a step gives up the buffers of both."""
  if 'teacher' not in state.state:
    return state
  teacher, student = state.state['teacher'], {'params': state.params, 'stats': state.state['stats']}

  def copy(of_student, there):
    return jax.device_put(jnp.copy(of_student), there.sharding)

  copies = {
    kind: {name: jax.tree.map(copy, student[kind][name], own[name]) for name in own} for kind, own in teacher.items()
  }
  return state._replace(state=state.state | {'teacher': copies})


def _placed(tree, like):
  # What stays fresh is there already, and where it is split among processes none of them could put it.
  return jax.tree.map(lambda x, there: there if x is there else processes.put(x, there.sharding), tree, like)
