"""Terms: a monoid, a value and a set, the last two functions of one (anchor, candidate) pair.

A value or set is written for ONE pair of scalars and evaluated on whole tiles by `jax.vmap`, so one function serves
row statistics, column statistics and the transposed half of a symmetric problem.
"""

import contextlib
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.extend
import jax.numpy as jnp
from jax.sharding import AbstractMesh, get_abstract_mesh, use_abstract_mesh
from jaxtyping import Array, Bool, Float

from contrastive_jax.similarity import monoids
from contrastive_jax.similarity.monoids import Monoid
from contrastive_jax.types import Refusal

Entries = Mapping[str, Array]


class Pair(NamedTuple):
  """One anchor against one candidate.

  `dot` is the inner product of their embeddings; `anchor[...]` and `other[...]` are whatever else travels with the
  anchor's and the candidate's rows (ids, labels, a temperature, a second embedding, ...). `position`, the place among
  all instances of that side on all devices, always travels; `row` is the position too and is there only when rows and
  columns are the same instances, so that an anchor is not its own candidate.
  """

  dot: Float[Array, '']
  anchor: Entries
  other: Entries


Value = Callable[[Pair], Float[Array, '']]
Set = Callable[[Pair], Bool[Array, '']]


class Term(NamedTuple):
  """A statistic of each anchor: `monoid` over the pairs in `over` of `value`."""

  monoid: Monoid
  value: Value
  over: Set | None


def dot(pair: Pair):
  """The inner product itself: the logit, once the temperature is folded into the embeddings."""
  return pair.dot


def valid(pair: Pair):
  """The candidate exists (`mask`) and is not the anchor itself (`row`); what does not travel restricts nothing."""
  limits = []
  if 'mask' in pair.other:
    limits.append(pair.other['mask'])
  if 'row' in pair.anchor and 'row' in pair.other:
    limits.append(pair.anchor['row'] != pair.other['row'])
  # A Python bool where nothing restricts: it costs no mask.
  return functools.reduce(operator.and_, limits) if limits else True


def same_id(pair: Pair):
  """The two share an id (the position of a side where no ids travel); an id of -1 equals none."""
  a, b = (side['id'] if 'id' in side else side['position'] for side in (pair.anchor, pair.other))
  return (a == b) & (a >= 0)


def positive(pair: Pair):
  """Valid candidates with the anchor's `id` (the position where no ids travel); an id of -1 is never a positive."""
  return valid(pair) & same_id(pair)


def negative(pair: Pair):
  """Valid candidates whose `id` is not the anchor's."""
  return valid(pair) & ~same_id(pair)


def logsumexp(value: Value = dot, over: Set | None = valid) -> Term:
  """log sum exp(value) over the set; -inf where it is empty."""
  return Term(monoids.LOGSUMEXP, value, over)


def total(value: Value = dot, over: Set | None = valid) -> Term:
  """Sum of the values over the set."""
  return Term(monoids.SUM, value, over)


def size(over: Set | None = valid) -> Term:
  """Number of candidates in the set."""
  return total(lambda pair: jnp.ones_like(pair.dot), over)


def mean(value: Value = dot, over: Set | None = valid) -> Term:
  """Mean of the values over the set; 0 where it is empty."""
  return Term(monoids.MEAN, value, over)


def maximum(value: Value = dot, over: Set | None = valid) -> Term:
  """Largest value over the set; -inf where it is empty."""
  return Term(monoids.MAX, value, over)


def minimum(value: Value = dot, over: Set | None = valid) -> Term:
  """Smallest value over the set; +inf where it is empty."""
  return Term(monoids.MIN, value, over)


def top(k: int, value: Value = dot, over: Set | None = valid) -> Term:
  """The k largest values `[n, k]`, descending, and their candidates' positions `[n, k]`; -inf and -1 where fewer."""
  return Term(monoids.topk(k), value, over)


# --- traced terms: closures made explicit ---


class Traced(NamedTuple):
  """A term whose closures have become explicit constants, and that compares by what it computes.

  A custom derivative cannot see arrays that a Python function closes over (a learnable bias, say): they would get no
  gradient, or fail. So value and set are traced once, on scalars, and what they close over becomes an input.
  """

  monoid: Monoid
  value: Any  # jaxpr of (constants, dot, anchor entries, other entries) -> scalar
  over: Any | None
  num_constants: tuple[int, int]  # of the value, of the set
  is_dot: bool  # the value is the inner product itself: its bound is known from the norms
  is_others: bool  # the set leaves out the anchor itself and nothing else: no mask where the two cannot meet
  key: tuple  # what the term computes, as text: two terms of one key share compiled code

  def __eq__(self, other):
    return isinstance(other, Traced) and self.key == other.key

  def __hash__(self):
    return hash(self.key)


def _example(like: Array, shape):
  """What one instance's entry looks like to the tracer."""
  if _varies(like):
    # Only a real array carries the type that says along which mesh axes of the caller's shard_map it differs.
    return jax.lax.stop_gradient(like[(0,) * (like.ndim - len(shape))])
  return jax.ShapeDtypeStruct(shape, jax.typeof(like).dtype)  # of a NumPy array, what JAX makes of it


def _varies(x) -> bool:
  return bool(jax.typeof(x).manual_axis_type.varying)


def _trace(fn, z: Array, anchor: Entries, other: Entries):
  def flat(inner, a, o):
    return fn(Pair(inner, a, o))

  sides = ({k: _example(v, v.shape[1:]) for k, v in sorted(side.items())} for side in (anchor, other))
  # Without a mesh in its context the traced function runs on tiles of any: of one device, or of a shard_map's.
  context = contextlib.nullcontext() if _varies(z) else use_abstract_mesh(AbstractMesh((), ()))
  with context:
    example = (_example(z, ()), *sides)
    closed = jax.make_jaxpr(flat)(*example)
    text = str(closed.jaxpr) + _rules(closed, example)
  if [cast(jax.core.ShapedArray, v.aval).shape for v in closed.jaxpr.outvars] != [()]:
    raise Refusal('a value or set of a similarity term must return one scalar for one pair')
  constants = [jnp.asarray(c) for c in closed.consts]
  if _varies(z) and any(jnp.issubdtype(c.dtype, jnp.inexact) and not _varies(c) for c in constants):
    # Its gradient would be summed over the devices tile by tile, in loops that devices may leave at different times.
    raise Refusal(
      'inside shard_map a term cannot close over a floating-point array that is the same on every device: let it '
      'travel with the rows'
    )
  return closed.jaxpr, constants, text


def _rules(closed, example) -> str:
  """The derivative as text where a function brings its own: two may differ in nothing else."""
  flat = jax.tree.leaves(example)
  inexact = [i for i, x in enumerate(flat) if jnp.issubdtype(x.dtype, jnp.inexact)]
  if 'custom_' not in str(closed.jaxpr) or not jnp.issubdtype(closed.out_avals[0].dtype, jnp.inexact):
    return ''

  def derivative(*args):
    def of(*some):
      known = dict(zip(inexact, some, strict=True))
      full = [known.get(i, x) for i, x in enumerate(args)]
      return jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *full)[0]

    out, pull = jax.vjp(of, *(args[i] for i in inexact))
    return pull(jnp.ones_like(out))

  return str(jax.make_jaxpr(derivative)(*flat).jaxpr)


def trace(terms: Sequence[Term], z: Array, anchor: Entries, other: Entries):
  """Makes closures explicit: the traced terms, and the constants of each."""
  traced, constants = [], []
  for term in terms:
    value, value_constants, value_text = _trace(term.value, z, anchor, other)
    over, over_constants, over_text = (None, [], '')
    if term.over is not None:
      over, over_constants, over_text = _trace(term.over, z, anchor, other)
    if over is not None and _always(over):
      over, over_constants, over_text = None, [], ''
    is_dot = value.outvars[0] is value.invars[0]
    key = (term.monoid.name, value_text, over_text, tuple(sorted(anchor)), tuple(sorted(other)), get_abstract_mesh())
    counts = (len(value_constants), len(over_constants))
    is_others = over is not None and _is_others(over, sorted(anchor), sorted(other))
    traced.append(Traced(term.monoid, value, over, counts, is_dot, is_others, key))
    constants.append(value_constants + over_constants)
  return tuple(traced), constants


def _always(jaxpr) -> bool:
  """Whether a set is the constant True (nothing restricts it), so that no mask is needed."""
  out = jaxpr.outvars[0]
  return isinstance(out, jax.extend.core.Literal) and bool(out.val)


def _is_others(jaxpr, anchor: Sequence[str], other: Sequence[str]) -> bool:
  """Whether a set is `anchor['row'] != other['row']` and nothing else."""
  if len(jaxpr.eqns) != 1 or jaxpr.constvars or 'row' not in anchor or 'row' not in other:
    return False
  entries = jaxpr.invars[1:]
  rows = {entries[anchor.index('row')], entries[len(anchor) + other.index('row')]}
  only = jaxpr.eqns[0]
  return only.primitive.name == 'ne' and set(only.invars) == rows and jaxpr.outvars == only.outvars


def _on_tile(jaxpr, constants, inner, anchor: Entries, other: Entries, axis: int):
  """Evaluates a traced scalar function on a tile; `axis` is the axis along which the candidates lie."""
  names = sorted(anchor), sorted(other)

  def scalar(d, a, o):
    return jax.core.eval_jaxpr(jaxpr, constants, d, *a, *o)[0]

  a, o = [anchor[k] for k in names[0]], [other[k] for k in names[1]]
  if axis == 1:
    return jax.vmap(jax.vmap(scalar, (0, None, 0)), (0, 0, None))(inner, a, o)
  return jax.vmap(jax.vmap(scalar, (0, 0, None)), (0, None, 0))(inner, a, o)


def values(term: Traced, constants, inner, anchor: Entries, other: Entries, axis: int) -> Float[Array, 'r c']:
  """The term's values on a tile of inner products."""
  out = _on_tile(term.value, constants[: term.num_constants[0]], inner, anchor, other, axis)
  return out.astype(inner.dtype)


def members(
  term: Traced, constants, inner, anchor: Entries, other: Entries, real, axis: int, apart: bool
) -> Bool[Array, 'r c'] | None:
  """The term's set on a tile, None for everything.

  `real` excludes candidates that pad the last tile; `apart` says that no anchor is among the candidates.
  """
  keep = None
  if term.over is not None and not (apart and term.is_others):
    keep = _on_tile(term.over, constants[term.num_constants[0] :], inner, anchor, other, axis)
  if real is not None:
    real = jnp.broadcast_to(jnp.expand_dims(real, 1 - axis), inner.shape)
    keep = real if keep is None else keep & real
  return keep
