"""The losses that are compared: ours, and the materialised formulation in JAX; `peers` has the others.

A contender computes the mean of a loss and its gradient with respect to both sides, at a fixed temperature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import peak_growth

TEMPERATURE = 0.07
BIAS = -10.0


class Case(NamedTuple):
  """Two sides [b, d] of unit rows; row i of one belongs to row i of the other."""

  x: np.ndarray
  y: np.ndarray


class Count(NamedTuple):
  """Products that a formulation makes: `times` rows^2 d FLOP, where rows is B, or N = 2 B."""

  times: int
  letter: str = 'B'

  def flop(self, b: int, d: int) -> float:
    """FLOP of value and gradient."""
    rows = b if self.letter == 'B' else 2 * b
    return float(self.times) * rows**2 * d

  def __str__(self):
    return f'{self.times} {self.letter}²D'


class Program(NamedTuple):
  """A contender on one case, compiled."""

  run: Callable[[], Any]  # (value, (gradient of x, gradient of y)); waits for them
  temporaries: int | None = None  # bytes, as the compiler planned; None where nothing plans
  growth: Callable = peak_growth  # of a run: (its result, bytes by which memory grew meanwhile, None if unknown)
  read: Callable[[Any], Any] = np.asarray  # one of these results as a NumPy array


class Contender(NamedTuple):
  """One formulation in one library."""

  name: str
  make: Callable[[Case], Program]  # raises ImportError where the library is not there
  count: Count
  room: Callable[[int], float] = lambda b: 0.0  # bytes it will need at least, where it is known before it is made
  products: str = 'float32'


def case(b: int, d: int, seed: int = 0) -> Case:
  """Random unit rows, with partners that are alike (cosine about 0.3): the loss is neither solved nor hopeless."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((b, d), np.float32)
  y = x + 3 * rng.standard_normal((b, d), np.float32)
  return Case(*(z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y)))


def program(loss: Callable, given: Case) -> Program:
  """Compiles value and gradient of a scalar JAX function of (x, y)."""
  import jax
  import jax.numpy as jnp

  x, y = jnp.asarray(given.x), jnp.asarray(given.y)
  compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, y).compile()
  temporaries = getattr(compiled.memory_analysis(), 'temp_size_in_bytes', None)
  growth = peak_growth if jax.default_backend() == 'cpu' else (lambda run: (run(), None))
  return Program(lambda: jax.block_until_ready(compiled(x, y)), temporaries, growth)


def _ours(name: str, *, two_sided: bool, **options):
  """A public loss of this package in tiles of the default size."""

  def make(given: Case) -> Program:
    import jax.numpy as jnp

    from contrastive_jax import losses

    function = getattr(losses, name)
    keywords = dict(temperature=TEMPERATURE, fold=losses.chunked(), **options)
    if two_sided:
      return program(lambda x, y: function(x, y, **keywords).mean(), given)
    return program(lambda x, y: function(jnp.stack([x, y]), **keywords).mean(), given)

  return make


def _logits(x, y):
  import jax
  import jax.numpy as jnp

  # True float32 products on every backend, as ours.
  return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST) / TEMPERATURE


def _materialised_symmetric(x, y):
  import jax

  logits = _logits(x, y)
  both = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
  return (both / 2 - (x * y).sum(1) / TEMPERATURE).mean()


def _materialised_nt_xent(x, y):
  import jax
  import jax.numpy as jnp

  z = jnp.concatenate([x, y])
  logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, _logits(z, z))
  return jax.nn.logsumexp(logits, axis=1).mean() - (x * y).sum(1).mean() / TEMPERATURE


def _materialised_sigmoid(x, y):
  import jax
  import jax.numpy as jnp

  logits = _logits(x, y) + BIAS
  sign = 2 * jnp.eye(len(x)) - 1
  return -jax.nn.log_sigmoid(sign * logits).sum(axis=1).mean()


def _optax_nt_xent(x, y):
  import jax.numpy as jnp
  import optax

  labels = jnp.tile(jnp.arange(len(x)), 2)
  return optax.losses.ntxent(jnp.concatenate([x, y]), labels, TEMPERATURE)


def _materialised(loss: Callable) -> Callable[[Case], Program]:
  return lambda given: program(loss, given)


def symmetric() -> tuple[Contender, ...]:
  """Symmetric InfoNCE in JAX; the first is what the others are compared with."""
  modes = ('float32', 'bfloat16', 'bfloat16_3x')
  ours = [
    Contender(f'ours, {mode}', _ours('symmetric_info_nce', two_sided=True, precision=mode), Count(8), products=mode)
    for mode in modes
  ]
  # The logits alone and one array of their size for the gradient.
  return (*ours, Contender('materialised JAX', _materialised(_materialised_symmetric), Count(6), lambda b: 8 * b**2))


def nt_xent() -> tuple[Contender, ...]:
  """NT-Xent of two views in JAX."""
  count = Count(6, 'N')
  return (
    Contender('ours, float32', _ours('nt_xent', two_sided=False), Count(4, 'N')),
    Contender(
      'ours, bfloat16', _ours('nt_xent', two_sided=False, precision='bfloat16'), Count(4, 'N'), products='bfloat16'
    ),
    Contender('materialised JAX', _materialised(_materialised_nt_xent), count, lambda b: 8 * (2 * b) ** 2),
    Contender('optax ntxent', _materialised(_optax_nt_xent), count, lambda b: 8 * (2 * b) ** 2),
  )


def sigmoid() -> tuple[Contender, ...]:
  """Sigmoid loss in JAX."""
  options = dict(two_sided=True, bias=BIAS)
  return (
    Contender('ours, float32', _ours('sigmoid', **options), Count(6)),
    Contender('ours, bfloat16', _ours('sigmoid', precision='bfloat16', **options), Count(6), products='bfloat16'),
    Contender('materialised JAX', _materialised(_materialised_sigmoid), Count(6), lambda b: 8 * b**2),
  )
