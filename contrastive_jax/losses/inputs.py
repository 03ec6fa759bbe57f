"""What every loss does with its inputs: normalise, check, flatten views, average."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import get_abstract_mesh
from jaxtyping import Array, Bool, Float, Int, Shaped

from contrastive_jax.similarity import Fold, Similarity, dot, logsumexp, size
from contrastive_jax.types import Refusal


def unit(x: Float[Array, '... d']) -> Float[Array, '... d']:
  r"""Scales the last axis to unit Euclidean norm, :math:`x / \max(\lVert x \rVert, 10^{-12})`.

  Computed in float32 at least and returned in the type of `x`. A zero row stays zero, with a finite gradient.

  Raises:
    ValueError: `x` is not a floating-point array.
  """
  check_floats(x=x)
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  square = jnp.square(wide).sum(-1, keepdims=True)
  return (wide * jax.lax.rsqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)


def mean(values: Float[Array, '...'], where: Bool[Array, '...'] | None = None) -> Float[Array, '']:
  """Mean of a loss's values over the anchors kept by `where` (all of them by default); 0 where none is kept.

  Values of anchors that a loss masked are 0: pass the same mask here, so that they do not count in the divisor either.
  """
  if where is None:
    return values.mean()
  where = jnp.broadcast_to(where, values.shape)
  return jnp.where(where, values, 0).sum() / jnp.maximum(where.sum(), 1).astype(values.dtype)


def check_array(name: str, x, kind, needed: str):
  """Refuses what is not an array of a kind of numbers, by its name."""
  if not hasattr(x, 'dtype'):
    raise Refusal(f'{name} must be an array, but it is a {type(x).__name__}')
  if not jnp.issubdtype(x.dtype, kind):
    raise Refusal(f'{name} must be {needed}, but it is {x.dtype}')


def check_floats(**arrays: Array):
  """Refuses what is not a floating-point array, by its name."""
  for name, x in arrays.items():
    check_array(name, x, jnp.floating, 'floating-point')


def check_integers(**arrays: Array):
  """Refuses what is not an array of integers, by its name."""
  for name, x in arrays.items():
    check_array(name, x, jnp.integer, 'integers')


def check_entries(count: int, **entries: Array | None):
  """Refuses ids and labels that are not integers, masks that are not booleans, and all that are not `[count]`."""
  for name, x in entries.items():
    if x is None:
      continue
    mask = name.endswith('mask')
    check_array(name, x, jnp.bool_ if mask else jnp.integer, 'boolean' if mask else 'integers')
    if x.shape != (count,):
      raise Refusal(f'{name} must have one entry an instance, [{count}], but it is {x.shape}')


def check_positive(name: str, value):
  """Refuses a hyper-parameter <= 0 where it is known before compilation; traced values (a vmapped sweep) pass."""
  if isinstance(value, str):
    raise Refusal(f"{name} must be a number, but it is the text '{value}'")
  if isinstance(value, int | float) and not value > 0:
    raise Refusal(f'{name} must be > 0, but it is {value}')


def check_temperature(value, *shapes: tuple[int, ...]):
  """Refuses a temperature <= 0 known before compilation, and one that is neither a scalar nor of these shapes."""
  check_positive('temperature', value)
  if jnp.shape(value) not in ((), *shapes):
    needed = ' or '.join(['a scalar', *(str(list(shape)) for shape in shapes)])
    raise Refusal(f'temperature must be {needed}, but it is {list(jnp.shape(value))}')


def check_sides(x: Array, y: Array, *, equal: bool = False, names: tuple[str, str] = ('x', 'y')):
  """Refuses two-sided inputs that are not floats [B, D] and [M, D] (M = B if `equal`)."""
  a, b = names
  check_floats(**{a: x, b: y})
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
    raise Refusal(f'{a} must be [B, D] and {b} [M, D] with one D, but they are {x.shape} and {y.shape}')
  if equal and x.shape[0] != y.shape[0]:
    raise Refusal(f'{a} and {b} must have as many rows as each other, but they have {x.shape[0]} and {y.shape[0]}')


def check_views(z: Array, *, at_least: int = 2, exactly: int | None = None, name: str = 'z'):
  """Refuses multi-view inputs that are not floats [V, B, D] or have too few views."""
  check_floats(**{name: z})
  if z.ndim != 3:
    raise Refusal(f'{name} must be [V, B, D] (views, instances, features), but it is {z.shape}')
  if z.shape[0] < at_least:
    raise Refusal(f'the positives are the other views, so V >= {at_least} views are needed, but {name} is {z.shape}')
  if exactly is not None and z.shape[0] != exactly:
    raise Refusal(f'this loss is defined for V = {exactly} views, but {name} is {z.shape}')


def check_whole(name: str):
  """Refuses a statistic of the batch inside a caller's `shard_map` or `pmap`, where it would be that of one device."""
  if get_abstract_mesh().manual_axes:
    raise Refusal(
      f'{name} inside shard_map or pmap would see the statistics of one device: call it on global arrays under jit'
    )


def wide(x: Array) -> Array:
  """Float32 at least: similarities, temperatures and sums are never computed in half precision."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def flatten(z: Float[Array, 'v b d']) -> Float[Array, 'n d']:
  """Rows instance-major (instance 0 in all its views first), so that a batch split over devices stays split."""
  return jnp.swapaxes(z, 0, 1).reshape(z.shape[0] * z.shape[1], z.shape[2])


def unflatten(values: Float[Array, ' n'], views: int) -> Float[Array, 'v b']:
  """Inverse of `flatten` for one value a row."""
  return values.reshape(values.shape[0] // views, views).T


def of_rows(values: Shaped[Array, 'b ...'], views: int) -> Shaped[Array, 'n ...']:
  """What instances have, for each of their rows in the order of `flatten`."""
  # jnp.repeat refuses explicitly sharded arrays.
  return jnp.broadcast_to(values[:, None], (len(values), views, *values.shape[1:])).reshape(-1, *values.shape[1:])


def symmetric(z: Float[Array, 'n d'], temperature, entries: Mapping[str, Array], fold: Fold | str, precision):
  """The operator of rows against themselves, and the value that is its logit.

  A scalar temperature is folded into the rows, half on each side, so the inner product is the logit. Temperatures per
  anchor differ between the two directions of a pair and travel as an entry.
  """
  temperature = jnp.asarray(temperature, z.dtype)
  if temperature.ndim == 0:
    rows = {'z': z * jax.lax.rsqrt(temperature), **entries}
    return Similarity(rows, fold=fold, precision=precision), dot
  rows = {'z': z, 'scale': 1 / temperature, **entries}
  return Similarity(rows, fold=fold, precision=precision), lambda pair: pair.dot * pair.anchor['scale']


def per_row(temperature, z: Float[Array, 'v b d']):
  """A temperature per anchor, `[B]` or `[V, B]`, in the order of `flatten`; a scalar stays one."""
  if jnp.ndim(temperature) == 0:
    return temperature
  return jnp.broadcast_to(temperature, z.shape[:2]).T.reshape(-1)


def per_anchor(temperature, z: Float[Array, 'v b d']) -> Float[Array, 'v b']:
  """A temperature for every anchor, whatever was given."""
  return jnp.broadcast_to(jnp.asarray(temperature, z.dtype), z.shape[:2])


def other_instance(views: int):
  """The set of candidates that are no view of the anchor's instance, of rows in the order of `flatten`."""
  return lambda pair: pair.anchor['position'] // views != pair.other['position'] // views


@jax.custom_jvp
def gram(z: Float[Array, 'v b d']) -> Float[Array, 'b v v']:
  """Similarities between the views of each instance."""
  return _between_views(z, z)


def _between_views(x: Float[Array, 'v b d'], y: Float[Array, 'w b d']) -> Float[Array, 'b v w']:
  # In the order of `flatten`, whose copy of the embeddings is there anyhow.
  return jnp.einsum('bvd,bwd->bvw', jnp.swapaxes(x, 0, 1), jnp.swapaxes(y, 0, 1), precision='highest')


@gram.defjvp
def _gram_derivative(primals, tangents):
  # Symmetric, so one product makes the gradient where JAX's own derivative takes two and an array for each.
  half = _between_views(*tangents, *primals)
  return gram(*primals), half + jnp.swapaxes(half, 1, 2)


def off_diagonal(views: int) -> Bool[Array, 'v v']:
  """True between different views."""
  return ~jnp.eye(views, dtype=bool)


def within_views(z: Float[Array, 'v b d'], temperature, fold: Fold | str, precision) -> Float[Array, 'v b']:
  """Log-sum-exp of each row's logits with the other instances in its own view, one view after the other."""

  def energy(view):
    op, logit = symmetric(view, temperature, {}, fold, precision)
    (lse,), _ = op.reduce([logsumexp(logit)])
    return lse

  return jax.lax.map(energy, z)


def global_logsumexp(
  values: Float[Array, ' n'], fold: Fold | str, mask: Bool[Array, ' n'] | None = None
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """log sum exp of all devices' values that are not masked, and how many they are.

  Written as a similarity of one row with everyone's values, so that inside a caller's `shard_map` the ring brings the
  other devices' values too.
  """
  cols = {'z': values[:, None]} | ({} if mask is None else {'mask': jnp.asarray(mask)})
  op = Similarity({'z': jnp.ones((1, 1), values.dtype)}, cols, fold=fold)
  (lse, count), _ = op.reduce([logsumexp(), size()])
  return lse[0], count[0]


Ids = Int[Array, ' n'] | None
Mask = Bool[Array, ' n'] | None
Temperature = float | Float[Array, '']
