"""Eight simulated devices, a compiler in haste and its persistent cache for every test; tests that take turns."""

import collections
import gc
import itertools
import os
import pathlib
import zlib

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_platforms', 'cpu')
# What is compiled here runs once, on small arrays. The memory that it needs does not depend on this.
jax.config.update('jax_disable_most_optimizations', True)
cache = os.environ.get('CONTRASTIVE_JAX_TEST_CACHE', str(pathlib.Path(__file__).parent.parent / '.cache' / 'jax'))
jax.config.update('jax_compilation_cache_dir', cache)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
# Eight devices share a few cores: one that waits 40 seconds for the others on a busy machine is not stuck. It is read
# once, so that programs which tests start have their own.
given = os.environ.get('XLA_FLAGS')
os.environ['XLA_FLAGS'] = f'{given or ""} --xla_cpu_collective_call_terminate_timeout_seconds=600'.strip()
jax.devices()
if given is None:
  del os.environ['XLA_FLAGS']
else:
  os.environ['XLA_FLAGS'] = given


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Of the parameters of a test marked `turns(k)`, one in k is met by default and the others with `-m slow`.

  Where the counting starts depends on the test's name, so that laws over the same losses meet different ones.
  """
  seen: collections.Counter[str] = collections.Counter()
  for item in items:
    turns = item.get_closest_marker('turns')
    if turns and not item.get_closest_marker('slow'):
      test = item.nodeid.partition('[')[0]
      if (seen[test] + zlib.crc32(item.originalname.encode())) % turns.args[0]:
        item.add_marker('slow')
      seen[test] += 1


MAPS, MOST_MAPS = pathlib.Path('/proc/self/maps'), 32_000
finished = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
  """Forgets compiled programs before there are too many.

  Each takes some ten of the 65,530 memory maps that Linux gives a process; without one more the compiler crashes.
  What is needed again comes from the persistent cache.
  """
  if next(finished) % 50 == 0 and MAPS.exists() and MAPS.read_bytes().count(b'\n') > MOST_MAPS:
    jax.clear_caches()
    gc.collect()
