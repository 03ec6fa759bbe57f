"""`jit` that compiles fast and runs slowly: the tests run small arrays once, so compiling is most of their time."""

import functools

import jax

QUICK = dict(
  xla_backend_optimization_level=0, xla_cpu_use_fusion_emitters=False, xla_cpu_parallel_codegen_split_count=1
)

COMPILE = jax.jit  # tests put `jit` in its place


@functools.cache
def options() -> dict:
  """Those of the options that this version of the compiler knows."""
  known = {}
  for key, value in QUICK.items():
    try:
      COMPILE(lambda x: x, compiler_options={key: value})(0.0)
    except jax.errors.JaxRuntimeError:
      continue
    known[key] = value
  return known


def jit(function, **keywords):
  return COMPILE(function, compiler_options=options(), **keywords)
