"""Eight simulated devices and a persistent compilation cache for every test."""

import os
import pathlib

import jax

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_platforms', 'cpu')
cache = os.environ.get('CONTRASTIVE_JAX_TEST_CACHE', str(pathlib.Path(__file__).parent.parent / '.cache' / 'jax'))
jax.config.update('jax_compilation_cache_dir', cache)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
