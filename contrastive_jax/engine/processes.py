"""One run on several processes: how they start, who writes, what each reads, and how they stop together.

Every process runs the same program on the devices it has; the mesh spans all of them. What is decided from data that
all processes hold needs no talk: order of the data, schedules, evaluations. The first process alone writes.
"""

import contextlib
import os
import signal
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, Sharding

from contrastive_jax.types import Refusal

# Seconds without a sign of life after which a process counts as lost and the others end.
SILENCE = 30
VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')


def start():
  """Joins the processes of a run; to be called before JAX looks for devices.

  Where the environment says (`JAX_COORDINATOR_ADDRESS` host:port of the first process, `JAX_NUM_PROCESSES`,
  `JAX_PROCESS_ID`), as it says; otherwise as JAX finds out by itself under SLURM, Open MPI, Kubernetes and on TPUs.

  Raises:
    Refusal: some of these variables are missing or no numbers, or no cluster is found.
  """
  given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
  missing = [name for name in VARIABLES if name not in given]
  keywords: dict[str, Any] = {}
  if given:
    if missing:
      raise Refusal(f'--distributed: {", ".join(given)} is set, but {", ".join(missing)} is not')
    for name in VARIABLES[1:]:
      if not given[name].isdecimal():
        raise Refusal(f"--distributed: {name} must be an integer, but it is '{given[name]}'")
    address, count, number = (given[name] for name in VARIABLES)
    keywords = dict(coordinator_address=address, num_processes=int(count), process_id=int(number))
  try:
    jax.distributed.initialize(heartbeat_timeout_seconds=SILENCE, **keywords)
  except (ValueError, RuntimeError) as error:
    raise Refusal(f'--distributed: {error}; without a scheduler that JAX knows set {", ".join(VARIABLES)}') from None


def first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def wait(what: str):
  """Returns when all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def part(sharding: NamedSharding, size: int) -> slice:
  """The rows of a batch of `size` that the devices of this process hold."""
  rows = [index[0].indices(size) for index in sharding.addressable_devices_indices_map((size,)).values() if index]
  begin, end = min(r[0] for r in rows), max(r[1] for r in rows)
  if sum(r[1] - r[0] for r in rows) != end - begin:
    raise Refusal('the devices of a process must lie side by side in the mesh')
  return slice(begin, end)


def put(tree, sharding: Sharding):
  """Device arrays from host arrays that every process holds whole."""
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  # Asked for here, which no guard against silent transfers can know: JAX counts only `device_put` as asked for.
  with jax.transfer_guard_host_to_device('allow'):
    return jax.tree.map(
      lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda at: np.asarray(x)[at]), tree
    )


def put_part(tree, sharding: Sharding):
  """Device arrays from host arrays of which every process holds its part."""
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def fetch(tree):
  """Host arrays, whole on every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


@contextlib.contextmanager
def stop_signals():
  """Yields a function that names, after a step, the signal that asks to stop ('' while none does).

  SIGTERM, of which all processes hear after the same step; on one process Ctrl-C too, the first time.
  """
  if jax.process_count() > 1:
    yield lambda step: 'SIGTERM' if multihost_utils.reached_preemption_sync_point(step) else ''
    return
  came: list[str] = []

  def note(number, _):
    came.append(signal.Signals(number).name)
    if number == signal.SIGINT:  # who asks again does not want to wait; schedulers send SIGTERM more than once
      signal.signal(number, before[number])

  before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield lambda step: came[0] if came else ''
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
