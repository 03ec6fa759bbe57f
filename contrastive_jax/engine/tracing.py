"""What `--profile` traces: a few steps, for TensorBoard or Perfetto."""

import contextlib
import pathlib

import jax

# So many steps, after so many in which everything is compiled.
STEPS, AFTER = 5, 10


@contextlib.contextmanager
def traced(path: pathlib.Path, start: int, total: int):
  """Yields a function to call before each step, which traces a few of them to `path`/profile."""
  first = min(start + AFTER, max(start, total - STEPS))
  tracing = False

  def before_step(step: int):
    nonlocal tracing
    if step == first:
      jax.profiler.start_trace(str(path / 'profile'))
      tracing = True
    elif tracing and step == first + STEPS:
      jax.profiler.stop_trace()
      tracing = False

  try:
    yield before_step
  finally:
    if tracing:
      jax.profiler.stop_trace()
