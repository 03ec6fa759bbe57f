"""What a result depends on: the machine, the versions, the load."""

import datetime
import importlib.metadata
import os
import pathlib
import platform

LIBRARIES = ('contrastive_jax', 'jax', 'jaxlib', 'optax', 'numpy', 'Pillow')
PEERS = ('torch', 'pytorch-metric-learning', 'sentence-transformers')


def cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _cpu() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  if not info.is_file():
    return platform.processor() or platform.machine()
  lines = dict(line.split(':', 1) for line in info.read_text().splitlines() if ':' in line)
  found = {key.strip(): value.strip() for key, value in lines.items()}
  flags = set(found.get('flags', '').split())
  fast = [name for name in ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if name in flags]
  return f'{found.get("model name", platform.machine())} ({", ".join(fast)})'


def version(library: str) -> str:
  """Its version, or 'not installed'."""
  try:
    return importlib.metadata.version(library)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'


def load() -> float:
  """Runnable threads of the whole machine, mean of the last minute: near 0 on a quiet machine before a run."""
  return os.getloadavg()[0]


def available() -> float:
  """Bytes of memory that can be had without swapping; infinite where the system does not say."""
  info = pathlib.Path('/proc/meminfo')
  if not info.is_file():
    return float('inf')
  line = next(line for line in info.read_text().splitlines() if line.startswith('MemAvailable'))
  return int(line.split()[1]) * 1024.0


def describe(*, load_before: float, peers: bool = False) -> list[str]:
  """Markdown list of the circumstances of a run that ends now."""
  import jax

  device = jax.devices()[0]
  accelerator = '' if device.platform == 'cpu' else f', {device.device_kind}'
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
  libraries = LIBRARIES + (PEERS if peers else ())
  return [
    f'- date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}',
    f'- machine: {cores()} cores, {_cpu()}, {memory:.0f} GB{accelerator}',
    f'- load before the run {load_before:.1f} (a quiet machine has less than 0.5)',
    f'- Python {platform.python_version()}, ' + ', '.join(f'{name} {version(name)}' for name in libraries),
  ]
