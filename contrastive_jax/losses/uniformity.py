"""Alignment and uniformity: statistics of unit vectors, alone and as objectives."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Mask
from contrastive_jax.similarity import Fold, Similarity, crosses, logsumexp, size, total, valid
from contrastive_jax.types import Refusal

__all__ = ['align_uniform', 'alignment', 'normalized_mse', 'uniformity']


def alignment(x: Float[Array, 'b d'], y: Float[Array, 'b d'], *, exponent: float = 2) -> Float[Array, '']:
  r"""Mean distance between the embeddings of positive pairs, :math:`\frac1B \sum_i \lVert x_i - y_i \rVert^{\alpha}`.

  Nothing is compared but each pair, so there is no fold to choose.

  Args:
    x: `[B, D]`, unit norm.
    y: `[B, D]`, the positives.
    exponent: alpha, 2 in the paper.

  Returns:
    A scalar. The gradient at coinciding pairs is 0 for exponents >= 1.

  Raises:
    ValueError: shapes that differ, exponent <= 0.

  Source: Wang and Isola, 2020, section 4.1.1.
  """
  inputs.check_sides(x, y, equal=True)
  inputs.check_positive('exponent', exponent)
  square = jnp.square(inputs.wide(x) - inputs.wide(y)).sum(-1)
  if exponent == 2:
    return square.mean()
  some = square > 0  # a fractional power has no derivative at 0
  return jnp.where(some, jnp.where(some, square, 1) ** (exponent / 2), 0).mean()


def normalized_mse(x: Float[Array, 'b d'], y: Float[Array, 'b d']) -> Float[Array, ' b']:
  r"""Squared distance of each row to its partner, both scaled to unit norm, :math:`2 - 2 \cos(x_i, y_i)`.

  The loss of BYOL and, up to a factor 1/2 and a constant, of SimSiam. Stop the gradient of the targets y yourself.

  Args:
    x: `[B, D]`, of any norm: predictions.
    y: `[B, D]`, of any norm: targets.

  Returns:
    One value per pair, `[B]`, from 0 to 4.

  Raises:
    ValueError: shapes that differ.

  Source: Grill et al., 2020, eq. 2; Chen and He, 2021, eq. 1.
  """
  inputs.check_sides(x, y, equal=True)
  return 2 - 2 * (inputs.unit(inputs.wide(x)) * inputs.unit(inputs.wide(y))).sum(-1)


class Potential(NamedTuple):
  """Of rows that are no pair: the logarithm of the sum of their Gaussian potentials, and how many there are."""

  log_sum: Float[Array, '']  # 0 where there are no pairs
  pairs: Float[Array, '']
  anchors: Float[Array, '']  # rows of the first side that exist

  def log_mean(self) -> Float[Array, '']:
    """0 where there are no pairs."""
    return self.log_sum - jnp.log(jnp.maximum(self.pairs, 1))


def _other(pair):
  """Candidates that exist and are not the anchor's partner."""
  return valid(pair) & (pair.anchor['position'] != pair.other['position'])


def potential(x, y, *, x_mask: Mask, y_mask: Mask, t, fold, precision) -> Potential:
  """Between x and y, or within x where y is None; of all devices' rows inside a caller's `shard_map`."""
  given = [(x, x_mask)] if y is None else [(x, x_mask), (y, y_mask)]
  scale = jnp.sqrt(2 * jnp.asarray(t, x.dtype))
  sides = [
    {'z': side * scale, 'half': t * jnp.square(side).sum(-1)} | ({} if mask is None else {'mask': jnp.asarray(mask)})
    for side, mask in given
  ]
  over = valid if y is None else _other  # rows of one side leave themselves out
  term = logsumexp(lambda pair: pair.dot - pair.anchor['half'] - pair.other['half'], over)
  (lse, count), _ = Similarity(*sides, fold=fold, precision=precision).reduce([term, size(over)])
  exists = jnp.ones(len(x), bool) if x_mask is None else jnp.asarray(x_mask)
  met = exists & (count > 0)
  # A similarity of one row with everyone's values: inside a `shard_map` the ring brings the other devices' too.
  numbers = {'pairs': jnp.where(exists, count, 0), 'exists': exists.astype(x.dtype)}
  everyone = {'z': jnp.where(met, lse, 0)[:, None], 'mask': met, **numbers}
  terms = [logsumexp(), *(total(lambda pair, name=name: pair.other[name], None) for name in numbers)]
  ones = {'z': jnp.ones((1, 1), x.dtype)}
  (log_sum, pairs, anchors), _ = Similarity(ones, everyone, fold=fold).reduce(terms)
  return Potential(jnp.where(pairs > 0, log_sum, 0)[0], pairs[0], anchors[0])


def uniformity(
  x: Float[Array, 'b d'],
  *,
  t: float | Float[Array, ''] = 2,
  x_mask: Mask = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, '']:
  r"""Logarithm of the mean Gaussian potential between all pairs,
  :math:`\log \frac{2}{B(B-1)} \sum_{i<j} e^{-t \lVert x_i - x_j \rVert^2}`.

  0 when all rows coincide; never less than -2t B / (B - 1), which rows spread as a simplex reach; near -2t for random
  unit vectors of high dimension. Exact for rows of any norm.

  Args:
    x: `[B, D]`, B >= 2.
    t: width of the potential, 2 in the paper.
    x_mask: `[B]`, False for rows that do not exist; of fewer than two that do the value is 0.
    fold: 'auto', `dense()`, `chunked(rows, cols)`, `ring(axis)`, `local()`; never changes the value.
    precision: of the products: None (float32), 'bfloat16', 'bfloat16_3x'.

  Returns:
    A scalar. Inside a caller's `shard_map` with `ring(axis)`: the statistic of all devices' rows, on each device.

  Raises:
    ValueError: `x` is not `[B, D]`, B < 2, t <= 0, a mask of another shape, an unknown fold or precision.

  Source: Wang and Isola, 2020, section 4.1.2.
  """
  inputs.check_floats(x=x)
  if x.ndim != 2 or (x.shape[0] < 2 and not crosses(fold)):
    raise Refusal(f'uniformity needs rows [B, D], B >= 2, but x is {x.shape}')
  inputs.check_positive('t', t)
  inputs.check_entries(len(x), x_mask=x_mask)
  given: dict[str, Any] = dict(x_mask=x_mask, y_mask=None, t=t, fold=fold, precision=precision)
  return potential(inputs.wide(x), None, **given).log_mean()


def align_uniform(
  z: Float[Array, 'v b d'],
  *,
  align_weight: float = 1.0,
  uniform_weight: float = 1.0,
  exponent: float = 2,
  t: float | Float[Array, ''] = 2,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, '']:
  r"""Alignment and uniformity as an objective, for any number of views.

  .. math:: \alpha \, \frac{2}{V(V-1)} \sum_{v<w} \mathrm{alignment}(z_v, z_w)
            + \beta \, \frac1V \sum_v \mathrm{uniformity}(z_v)

  Args:
    z: `[V, B, D]`, unit norm, V >= 2.
    align_weight: alpha.
    uniform_weight: beta.
    exponent: of the alignment.
    t: of the uniformity.
    fold: as in `uniformity`.
    precision: as in `uniformity`.

  Returns:
    A scalar.

  Raises:
    ValueError: `z` is not `[V, B, D]`, V < 2, and as in `alignment` and `uniformity`.

  Source: Wang and Isola, 2020, section 4.2; several views as the mean over pairs and over views.
  """
  inputs.check_views(z)
  pairs = [(v, w) for w in range(z.shape[0]) for v in range(w)]
  aligned = jnp.stack([alignment(z[v], z[w], exponent=exponent) for v, w in pairs]).mean()
  spread = jnp.stack([uniformity(view, t=t, fold=fold, precision=precision) for view in z]).mean()
  return align_weight * aligned + uniform_weight * spread
