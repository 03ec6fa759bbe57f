"""What this machine can do: the rate of its products, measured in a moment, and the memory of a device."""

import os
import pathlib
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.engine.counting import Counts

SECONDS = 0.2  # of repeats, for each kind of product
EDGE = {'cpu': 2048}  # of the square matrices; smaller ones do not reach the rate
LARGE_EDGE = 8192
KINDS = ('default', 'float32', 'bfloat16')  # of products, as `Counts` tells them apart


def matmul(kind: str, edge: int):
  """A compiled product of two square matrices, accumulated in float32, that is waited for."""
  block = np.random.default_rng(0).standard_normal(2**16, np.float32)
  a = jnp.asarray(np.resize(block, (edge, edge)), jnp.bfloat16 if kind == 'bfloat16' else jnp.float32)
  precision = jax.lax.Precision.HIGHEST if kind == 'float32' else None

  def product(a, b):
    return jnp.matmul(a, b, precision=precision, preferred_element_type=jnp.float32)

  compiled = jax.jit(product).lower(a, a).compile()
  return lambda: compiled(a, a).block_until_ready()


def rate(kind: str) -> float:
  """FLOP/s of a large product on one device, the best of as many as fit into `SECONDS`, but of two at least."""
  edge = EDGE.get(jax.default_backend(), LARGE_EDGE)
  run = matmul(kind, edge)
  run()
  taken: list[float] = []
  began = time.perf_counter()
  while len(taken) < 2 or time.perf_counter() - began < SECONDS:
    start = time.perf_counter()
    run()
    taken.append(time.perf_counter() - start)
  return 2 * edge**3 / min(taken)


def rates(counts: Counts, mesh) -> dict[str, float]:
  """FLOP/s of each device of the mesh, of the kinds of products that a function makes.

  Devices that are threads of one CPU share its rate.
  """
  kinds = [kind for kind in KINDS if getattr(counts, kind)]
  on_cpu = jax.default_backend() == 'cpu'
  share = len(mesh.local_devices) if on_cpu else 1
  # A CPU has one way to multiply float32.
  measured = {'float32' if on_cpu and kind == 'default' else kind for kind in kinds}
  found = {kind: rate(kind) / share for kind in sorted(measured)}
  return {kind: found[kind if kind in found else 'float32'] for kind in kinds}


def seconds(counts: Counts, rates: Mapping[str, float]) -> float:
  """The time of the products at the measured rates: no call can take less, and whatever else it does adds to it."""
  return sum(getattr(counts, kind) / rate for kind, rate in rates.items())


def memory(mesh) -> int:
  """Bytes that a device may use: what it says, else its share of what the host has free."""
  stats = mesh.local_devices[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit']
  return _available() // len(mesh.local_devices)


def _available() -> int:
  """Bytes of the host that are free or can be freed; all that it has where it does not say."""
  told = pathlib.Path('/proc/meminfo')
  lines = told.read_text().splitlines() if told.exists() else []
  for line in lines:
    if line.startswith('MemAvailable:'):
      return int(line.split()[1]) * 1024
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
