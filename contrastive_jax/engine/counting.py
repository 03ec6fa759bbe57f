"""What a traced function costs each device: products, exponentials and bytes sent, counted from its jaxpr.

Nothing is compiled or run. Shapes inside `shard_map` are those of one device; what stands outside is divided evenly
among the devices. What the compiler adds by itself (the sum of gradients over devices, say) is in no trace.
"""

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

# fmt: off
TRANSCENDENTAL = frozenset((
  'acos', 'acosh', 'asin', 'asinh', 'atan', 'atan2', 'atanh', 'cbrt', 'cos', 'cosh', 'digamma', 'erf', 'erf_inv',
  'erfc', 'exp', 'exp2', 'expm1', 'lgamma', 'log', 'log1p', 'logistic', 'pow', 'sin', 'sinh', 'tan', 'tanh',
))
# fmt: on


class Counts(NamedTuple):
  """The cost of a function on one device.

  Attributes:
    float32: FLOP of products whose float32 (or wider) inputs are multiplied at full precision.
    default: FLOP of products of float32 inputs at the backend's own precision (TF32 on NVIDIA, bfloat16 on TPU).
    bfloat16: FLOP of products with an input of at most 16 bits.
    transcendentals: exponentials, logarithms and the like, in elements; the compiler makes equal ones once.
    sent: bytes sent to other devices, by the least that is needed around a ring.
    exact: False where a `while` loop was counted once, because the trace does not say how often it runs.
  """

  float32: int = 0
  default: int = 0
  bfloat16: int = 0
  transcendentals: int = 0
  sent: int = 0
  exact: bool = True

  @property
  def flop(self) -> int:
    """Of all products; a multiplication and an addition are two."""
    return self.float32 + self.default + self.bfloat16


class Scope(NamedTuple):
  """Where an equation stands.

  Attributes:
    times: how often it is run.
    shared: devices that share it.
    axes: sizes of the mesh axes of the `shard_map` around it.
    loop: length of the innermost loop, None outside of loops.
    exact: whether all loops around it say how often they run.
  """

  times: int
  shared: int
  axes: Mapping[str, int]
  loop: int | None = None
  exact: bool = True


Visit = tuple[JaxprEqn, Scope]


def count(jaxpr: ClosedJaxpr, *, devices: int = 1) -> Counts:
  """The cost of a traced function on each of the devices.

  A multiplication by padding, or by the holes of a dilated convolution, does not count. Of a `cond` the cheapest branch
  counts: the result is the least that a call costs. (Of the two ways to a log-sum-exp both have the same products; the
  dear branch of the losses that weigh all rows alike is taken only where a caller does not.)

  Args:
    jaxpr: of `jax.make_jaxpr`.
    devices: among which the batch is split.
  """
  return total(visits(jaxpr, devices=devices))


def visits(jaxpr: ClosedJaxpr, *, devices: int = 1) -> Iterator[Visit]:
  """Every equation that a device runs, loops entered once, with how often it runs it."""
  return _visits(jaxpr.jaxpr, Scope(1, devices, {}))


def total(visited) -> Counts:
  """The sum of what equations cost."""
  sums = dict.fromkeys(Counts._fields[:-1], Fraction(0))
  exact = True
  for equation, scope in visited:
    kind, amount = _cost(equation, scope.axes)
    if amount:
      sums[kind] += Fraction(scope.times * amount, scope.shared)
      exact = exact and scope.exact
  return Counts(**{kind: math.ceil(amount) for kind, amount in sums.items()}, exact=exact)


def _visits(jaxpr: Jaxpr, scope: Scope) -> Iterator[Visit]:
  for equation in jaxpr.eqns:
    name, parameters = equation.primitive.name, equation.params
    if name == 'scan':
      length = parameters['length']
      yield from _visits(parameters['jaxpr'].jaxpr, scope._replace(times=scope.times * length, loop=length))
    elif name == 'while':
      for each in ('cond_jaxpr', 'body_jaxpr'):
        yield from _visits(parameters[each].jaxpr, scope._replace(exact=False))
    elif name == 'cond':
      branches = [list(_visits(branch.jaxpr, scope)) for branch in parameters['branches']]
      yield from min(branches, key=_dearness)
    elif name == 'shard_map':
      yield from _visits(parameters['jaxpr'], _split(scope, parameters))
    else:
      yield equation, scope
      for inner in _within(parameters.values()):
        yield from _visits(inner, scope)


def _dearness(visited: list[Visit]):
  counts = total(visited)
  return counts.flop, counts.transcendentals, counts.sent


def _split(scope: Scope, parameters) -> Scope:
  """Inside, shapes are those of a device, and nothing is left to share (but with axes that stay automatic)."""
  sizes = dict(parameters['mesh'].shape)
  manual = {axis: sizes[axis] for axis in parameters.get('newly_manual_axes') or sizes}
  shared = max(1, scope.shared // math.prod(manual.values()))
  return scope._replace(shared=shared, axes={**scope.axes, **manual})


def _within(values) -> Iterator[Jaxpr]:
  for value in values:
    if isinstance(value, ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, Jaxpr):
      yield value
    elif isinstance(value, tuple | list):
      yield from _within(value)


# --- one equation ---


def array(variable) -> Any:
  """The shape and type of what an equation takes or makes."""
  return variable.aval


def flop(equation: JaxprEqn) -> int:
  """Of an equation that is a product, once; 0 of any other."""
  if equation.primitive.name == 'dot_general':
    (contracted, _), _ = equation.params['dimension_numbers']
    left, out = array(equation.invars[0]), array(equation.outvars[0])
    return 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
  if equation.primitive.name == 'conv_general_dilated':
    return _convolution(equation)
  return 0


def _convolution(equation: JaxprEqn) -> int:
  parameters = equation.params
  numbers = parameters['dimension_numbers']
  left, right = (array(v).shape for v in equation.invars)
  out = array(equation.outvars[0]).shape
  met = 1
  for i, (low, _) in enumerate(parameters['padding']):
    met *= _positions(
      left[numbers.lhs_spec[2 + i]],
      right[numbers.rhs_spec[2 + i]],
      out[numbers.out_spec[2 + i]],
      stride=parameters['window_strides'][i],
      low=low,
      holes=parameters['lhs_dilation'][i],
      dilation=parameters['rhs_dilation'][i],
    )
  return 2 * met * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * right[numbers.rhs_spec[1]]


def _positions(size: int, kernel: int, out: int, *, stride: int, low: int, holes: int, dilation: int) -> int:
  """How often, along one axis, an entry of the kernel meets an entry of the input."""
  found = 0
  for k in range(kernel):
    at = range(k * dilation - low, k * dilation - low + out * stride, stride)
    found += sum(0 <= p < size * holes and p % holes == 0 for p in at)
  return found


def _cost(equation: JaxprEqn, axes: Mapping[str, int]) -> tuple[str, int | Fraction]:
  """(field of Counts, amount) of an equation run once."""
  name = equation.primitive.name
  if name in ('dot_general', 'conv_general_dilated'):
    return _kind(equation), flop(equation)
  if name in TRANSCENDENTAL:
    return 'transcendentals', array(equation.outvars[0]).size
  return 'sent', _sent(equation, axes)


def _kind(equation: JaxprEqn) -> str:
  types = [array(v).dtype for v in equation.invars]
  if min(t.itemsize for t in types) <= 2 and all(jnp.issubdtype(t, jnp.floating) for t in types):
    return 'bfloat16'
  precision = equation.params['precision']
  given = precision if isinstance(precision, tuple) else (precision,)
  return 'float32' if all(p == jax.lax.Precision.HIGHEST for p in given) else 'default'


def _sent(equation: JaxprEqn, axes: Mapping[str, int]) -> int | Fraction:
  name, parameters = equation.primitive.name, equation.params
  named = parameters.get('axes', parameters.get('axis_name', ()))
  named = named if isinstance(named, tuple) else (named,)
  size = math.prod(axes[axis] for axis in named if axis in axes)
  if size == 1:
    return 0
  given = sum(array(v).size * array(v).dtype.itemsize for v in equation.invars)
  if name == 'ppermute':
    return given if any(source != target for source, target in parameters['perm']) else 0
  if name in ('all_gather', 'all_gather_invariant'):
    return (size - 1) * given
  if name in ('all_to_all', 'reduce_scatter'):
    return Fraction(size - 1, size) * given
  if name in ('psum', 'psum_invariant', 'pmax', 'pmin'):
    return 2 * Fraction(size - 1, size) * given
  return 0
