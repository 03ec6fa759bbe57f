"""What this machine has, and its shares: one slot for each run at a time, with cores, a device and memory."""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from contrastive_jax.types import Refusal

GB = 10**9
# What a run takes that does not say: the default number of runs at a time leaves so much memory to each.
USUAL_MEMORY = 2 * GB
GPU_SHARE = 0.9  # of a GPU's memory, over the runs that share it


class Slot(NamedTuple):
  """What one run at a time may use."""

  cores: tuple[int, ...]
  environment: dict[str, str]
  memory: int | None = None  # bytes that it may ask for; None: no limit


def slots(at_once: int | None = None, memory: float | None = None) -> list[Slot]:
  """One slot for each run at a time.

  Args:
    at_once: how many; None: one for each GPU, without any as many as there are cores, and memory for.
    memory: GB that each may use at most.

  Raises:
    Refusal: fewer than one run at a time, or more than memory allows.
  """
  cores, gpus, free = _cores(), _gpus(), _free_memory()
  limit = None if memory is None else int(memory * GB)
  room = max(1, free // (limit or USUAL_MEMORY))
  number = at_once if at_once is not None else len(gpus) or min(len(cores), room)
  if number < 1:
    raise Refusal(f'--at_once must be at least 1, but it is {number}')
  if limit is not None and (limit <= 0 or number * limit > free):
    raise Refusal(f'--memory={memory:g} GB for each of {number} runs at a time: {free / GB:.1f} GB are free')
  return [Slot(_share(cores, i, number), _gpu(gpus, i, number), limit) for i in range(number)]


def _share(cores: Sequence[int], index: int, number: int) -> tuple[int, ...]:
  """Cores of their own where there are enough: threads of two runs on one core wait for each other."""
  if number > len(cores):
    return (cores[index % len(cores)],)
  return tuple(cores[index * len(cores) // number : (index + 1) * len(cores) // number])


def _gpu(gpus: Sequence[str], index: int, number: int) -> dict[str, str]:
  """One GPU, and the share of its memory where several runs are on it."""
  if not gpus:
    return {}
  device = {'CUDA_VISIBLE_DEVICES': gpus[index % len(gpus)]}
  together = -(-number // len(gpus))
  share = {'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{GPU_SHARE / together:.3f}'} if together > 1 else {}
  return device | share


def _cores() -> list[int]:
  return sorted(os.sched_getaffinity(0)) if sys.platform == 'linux' else list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
  """NVIDIA GPUs that a run may see; none where JAX is told to use something else."""
  if os.environ.get('JAX_PLATFORMS', 'cuda').split(',')[0] not in ('cuda', 'gpu'):
    return []
  if 'CUDA_VISIBLE_DEVICES' in os.environ:
    return [name for name in os.environ['CUDA_VISIBLE_DEVICES'].split(',') if name]
  there = pathlib.Path('/proc/driver/nvidia/gpus')
  return [str(i) for i, _ in enumerate(there.iterdir())] if there.is_dir() else []


def _free_memory() -> int:
  """Bytes that are free or can be freed; all that there are where the system does not say."""
  available = _counters('/proc/meminfo').get('MemAvailable:')  # in KiB
  return available * 1024 if available else os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def killed_for_memory() -> int:
  """How many processes Linux has ended for memory since it was started; 0 where it does not say."""
  return _counters('/proc/vmstat').get('oom_kill', 0)


def _counters(path: str) -> dict[str, int]:
  """Names and numbers of a file of the kernel's; empty where there is none."""
  there = pathlib.Path(path)
  lines = [line.split() for line in there.read_text().splitlines()] if there.exists() else []
  return {line[0]: int(line[1]) for line in lines}
