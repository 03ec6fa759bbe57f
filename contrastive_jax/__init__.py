"""Large-batch contrastive representation learning in JAX: exact and memory-bounded on any mesh."""

import importlib

__version__ = '0.1.0'

_PUBLIC = ('losses', 'load')


def __getattr__(name: str):
  # Lazy, so that importing the package (for its version, say) imports nothing heavy.
  if name == 'load':
    return importlib.import_module('contrastive_jax.engine.serve').load
  if name in _PUBLIC:
    return importlib.import_module(f'contrastive_jax.{name}')
  raise AttributeError(f"module 'contrastive_jax' has no attribute '{name}'")


def __dir__():
  return sorted([*globals(), *_PUBLIC])
