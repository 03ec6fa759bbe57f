"""SepCLR: what two sets of instances have in common apart from what only one of them has."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.uniformity import uniformity
from contrastive_jax.similarity import Fold, Similarity, logsumexp, mean, size, total
from contrastive_jax.types import Refusal

__all__ = ['kernel_negative_entropy', 'sep_clr', 'sep_clr_supervised']

Variance = float | Float[Array, '']
Width = float | tuple[float, ...]


def kernel_negative_entropy(
  x: Float[Array, 'b d'],
  *,
  variance: Variance = 0.5,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Logarithm of each row's density by a Gaussian kernel; the mean is the resubstitution estimate of -H(x).

  .. math:: \ell_i = \log \frac1B \sum_{j=1}^{B} e^{-\lVert x_i - x_j \rVert^2 / 2 t}

  The row itself is counted, so the values lie between -log B, where rows are far apart, and 0, where all coincide. Of
  the columns of two embeddings side by side the kernel is the product of theirs: their joint entropy.

  Args:
    x: `[B, D]`, of any norm.
    variance: t, of the kernel.
    fold: as in `uniformity`.
    precision: as in `uniformity`.

  Returns:
    One value per row, `[B]`.

  Raises:
    ValueError: `x` is not `[B, D]`; a static variance <= 0; an unknown fold or precision.

  Source: Louiset et al., 2024, section 4.3; the estimate of Ahmad and Lin, 1976.
  """
  inputs.check_sides(x, x)
  inputs.check_positive('variance', variance)
  x = inputs.wide(x)
  x = x * jax.lax.rsqrt(jnp.asarray(variance, x.dtype))
  rows = {'z': x, 'half': jnp.square(x).sum(-1) / 2}
  term = logsumexp(lambda pair: pair.dot - pair.anchor['half'] - pair.other['half'])
  (others, count), _ = Similarity(rows, fold=fold, precision=precision).reduce([term, size()])
  alone = jnp.isneginf(others)
  # The row itself, which a similarity of rows with themselves leaves out, adds a potential of exp(0).
  of_all = jnp.where(alone, 0, jnp.logaddexp(jnp.where(alone, 0, others), 0))
  return of_all - jnp.log(count + 1)


def sep_clr(
  common: Float[Array, 'v b c'],
  salient: Float[Array, 'v b s'],
  target: Bool[Array, ' b'],
  *,
  variance: Variance = 0.5,
  salient_weight: float = 1000.0,
  background_weight: float = 1000.0,
  joint_weight: float = 10.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""SepCLR: a common embedding of all instances, and a salient one that is zero of those of the background.

  .. math:: \mathcal{L} &= \mathrm{align}(c) + 2 \, \mathrm{unif}(c)
            + \lambda_s \big( \mathrm{align}_\text{target}(s) + 2 \, \mathrm{unif}(s') \big)
            + \lambda_r \, \mathrm{align}_\text{background}(0, s) + \lambda_j \, \mathrm{JE}(s', c) \\
            s'_i &= s_i \text{ of targets}, 0 \text{ of the background}

  With :math:`\mathrm{align}(x) = \mathrm{mean}_i \lVert x^1_i - x^2_i \rVert^2 / 2t`,
  :math:`\mathrm{unif}(x) = \log \mathrm{mean}_{i<j} k(x_i, x_j)` and, which keeps the two from having the same content,
  :math:`\mathrm{JE} = \mathrm{mean}_i \log \mathrm{mean}_j k(s'_i, s'_j) k(c_i, c_j)`, both the mean over views;
  :math:`k(a, b) = e^{-\lVert a - b \rVert^2 / 2t}`.

  Args:
    common: c, `[V, B, C]`, unit norm, V >= 2. With more than two views alignment is the mean over pairs of views.
    salient: s, `[V, B, S]`, of any norm.
    target: `[B]`, True for instances of the target set and False for the background.
    variance: t.
    salient_weight: of alignment and uniformity of the salient embedding.
    background_weight: of the alignment of the background with the null vector.
    joint_weight: of the joint entropy.
    fold: as in `uniformity`.
    precision: as in `uniformity`.

  Returns:
    One value per instance, `[B]`, whose mean is the loss: uniformities count for all alike, a mean over a set for its
    members. A set without members adds nothing.

  Raises:
    ValueError: embeddings that are not `[V, B, ...]` of the same views and instances, V < 2, B < 2; `target` of another
      shape or type; a static variance <= 0; an unknown fold or precision.

  Source: Louiset et al., 2024, "Separating common from salient patterns [...]", with the weights of its repository.
  """
  _check_separated(common, salient, target, variance)
  common, salient, target = inputs.wide(common), inputs.wide(salient), jnp.asarray(target)
  shown = jnp.where(target[:, None], salient, 0)
  of_fold: dict[str, Any] = dict(fold=fold, precision=precision)
  of_common = _apart(common) / (2 * variance) + 2 * _spread(common, variance, **of_fold)
  of_salient = _apart(salient) * _member_weight(target, fold) / (2 * variance) + 2 * _spread(shown, variance, **of_fold)
  norms = jnp.square(salient).sum(-1).mean(0)
  of_background = norms * _member_weight(~target, fold) / (2 * variance)
  joint = _joint(shown, common, variance, **of_fold)
  return of_common + salient_weight * of_salient + background_weight * of_background + joint_weight * joint


def sep_clr_supervised(
  common: Float[Array, 'v b c'],
  salient: Float[Array, 'w b k'],
  attributes: Float[Array, 'b k'],
  target: Bool[Array, ' b'],
  *,
  variance: Variance = 0.5,
  width: Width = 0.05,
  background_width: Width = 0.05,
  salient_weight: float = 100.0,
  joint_weight: float = 10.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Supervised SepCLR: every salient coordinate follows one attribute, which targets alone have.

  .. math:: \mathcal{L} &= \mathrm{align}(c) + \mathrm{unif}(c)
            + \frac{\lambda_s}{K} \sum_k \Big( \mathrm{unif}(s'_k)
            + \tfrac12 \mathrm{align}_\text{target}(s_k, y_k) + \tfrac12 \mathrm{mean}_{i \in \text{background}} \,
            s_{ik}^2 / v_k \Big) + \lambda_j \, \mathrm{JE}(s', c) \\
            \mathrm{align}_\text{target}(s_k, y_k) &= \mathrm{mean}_{i<j \text{ of targets}} \,
            e^{-(y_{ik} - y_{jk})^2 / w_k} \, (s_{ik} - s_{jk})^2

  with s', align(c), unif and JE as in `sep_clr`.

  Args:
    common: c, `[V, B, C]`, unit norm, V >= 2. With more than two views alignment is the mean over pairs of views.
    salient: s, `[W, B, K]`, of any norm, of the first W of the views, W >= 1; terms with s are the mean over these.
      Published are V = 2 and W = 1.
    attributes: y, `[B, K]`, in the order of the coordinates of s; those of the background count for nothing.
    target: `[B]`, True for instances of the target set and False for the background.
    variance: t, of the kernels of `sep_clr`.
    width: w, of all attributes or of each, in the attribute's unit squared. Published are 0.05 for numbers from 0 to 1,
      and 1e-5 for classes: there those that are equal are aligned and no others.
    background_width: v, likewise, in the unit of s squared. Published are 0.05 for numbers and 1.0 for classes.
    salient_weight: of the coordinates.
    joint_weight: of the joint entropy.
    fold: as in `uniformity`.
    precision: as in `uniformity`.

  Returns:
    One value per instance, `[B]`, whose mean is the loss: uniformities count for all alike, a mean over a set for its
    members. A set without members, or targets without another, adds nothing.

  Raises:
    ValueError: as in `sep_clr`, but for fewer salient views; attributes that are not one for each coordinate; a width
      <= 0; not as many widths as attributes.

  Source: Louiset et al., 2024, with the weights and widths of dsprite_digit_grid in its repository.
  """
  _check_separated(common, salient, target, variance, fewer=True)
  _check_attributes(attributes, salient, width=width, background_width=background_width)
  common, salient, target = inputs.wide(common), inputs.wide(salient), jnp.asarray(target)
  of_fold: dict[str, Any] = dict(fold=fold, precision=precision)
  spread, followed = _of_coordinates(salient, attributes, target, variance, width, **of_fold)
  norms = (jnp.square(salient) / jnp.asarray(background_width, salient.dtype)).mean((0, 2))
  of_sets = followed * _member_weight(target, fold) + norms * _member_weight(~target, fold)
  of_common = _apart(common) / (2 * variance) + _spread(common, variance, **of_fold)
  joint = _joint(jnp.where(target[:, None], salient, 0), common[: len(salient)], variance, **of_fold)
  return of_common + salient_weight * (spread + of_sets / 2) + joint_weight * joint


def _check_separated(common, salient, target, variance, *, fewer: bool = False):
  """`fewer`: of salient embeddings there may be fewer views."""
  inputs.check_views(common, name='common')
  inputs.check_views(salient, at_least=1 if fewer else 2, name='salient')
  (views, instances), (of_salient, others) = common.shape[:2], salient.shape[:2]
  if instances != others or of_salient > views or (of_salient < views and not fewer):
    raise Refusal(f'common and salient must be of the same views and instances: {common.shape} and {salient.shape}')
  inputs.check_array('target', target, jnp.bool_, 'boolean')
  inputs.check_entries(common.shape[1], target_mask=target)
  inputs.check_positive('variance', variance)


def _check_attributes(attributes, salient, **widths: Width):
  inputs.check_floats(attributes=attributes)
  count = salient.shape[2]
  if attributes.shape != salient.shape[1:]:
    raise Refusal(
      f'attributes must be one for each of the {count} salient coordinates of an instance, {list(salient.shape[1:])}, '
      f'but they are {attributes.shape}'
    )
  for name, given in widths.items():
    each = given if isinstance(given, tuple) else (given,)
    if isinstance(given, tuple) and len(each) != count:
      raise Refusal(f'{name} must be one number or one for each of the {count} attributes, but it has {len(each)}')
    for value in each:
      inputs.check_positive(name, value)


def _spread(z: Float[Array, 'v b d'], variance, **of_fold: Any) -> Float[Array, '']:
  """Uniformity, the mean over views."""
  return jax.lax.map(lambda view: uniformity(view, t=1 / (2 * variance), **of_fold), z).mean()


def _joint(shown: Float[Array, 'v b s'], common: Float[Array, 'v b c'], variance, **of_fold: Any) -> Float[Array, ' b']:
  """Negative joint entropy of the two, the mean over views."""
  both = jnp.concatenate([shown, common], axis=-1)
  return jax.lax.map(lambda view: kernel_negative_entropy(view, variance=variance, **of_fold), both).mean(0)


def _of_coordinates(
  salient: Float[Array, 'v b k'],
  attributes: Float[Array, 'b k'],
  target: Bool[Array, ' b'],
  variance,
  width: Width,
  **of_fold: Any,
) -> tuple[Float[Array, ''], Float[Array, ' b']]:
  """Uniformity of coordinates, 0 on the background, and alignment to attributes: means over views and coordinates."""

  # One coordinate after the other, each made again for its gradient: their tiles need the memory of one.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def of_coordinate(each):
    s, y = each
    shown = jnp.where(target, s, 0)[:, None]
    return uniformity(shown, t=1 / (2 * variance), **of_fold), _followed(s, y, target, **of_fold)

  def columns(x):
    return jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1])

  scaled = attributes.astype(salient.dtype) * jax.lax.rsqrt(jnp.asarray(width, salient.dtype))
  given = columns(salient), columns(jnp.broadcast_to(scaled, salient.shape))
  spread, followed = jax.lax.map(of_coordinate, given)
  return spread.mean(), followed.mean(0)


def _followed(
  s: Float[Array, ' b'], y: Float[Array, ' b'], target: Bool[Array, ' b'], **of_fold: Any
) -> Float[Array, ' b']:
  """Mean over the other targets of how far a coordinate is from theirs, weighted by how near the attributes are."""
  # Differences are of the numbers themselves: from products of large ones little would be left of a small difference.
  rows = {'z': s[:, None], 's': s, 'y': y, 'mask': target}

  def value(pair):
    near = jnp.exp(-jnp.square(pair.anchor['y'] - pair.other['y']))
    return near * jnp.square(pair.anchor['s'] - pair.other['s'])

  (values,), _ = Similarity(rows, **of_fold).reduce([mean(value)])
  return values


def _apart(z: Float[Array, 'v b d']) -> Float[Array, ' b']:
  """Mean squared distance between two views of each instance, over the pairs of views."""
  views = z.shape[0]
  pairs = [jnp.square(z[v] - z[w]).sum(-1) for w in range(views) for v in range(w)]
  return jnp.stack(pairs).mean(0)


def _member_weight(members: Bool[Array, ' b'], fold) -> Float[Array, ' b']:
  """What members of a set weigh so that the mean over all instances of all devices is the mean over the set."""
  ones = jnp.ones((1, 1), jnp.float32)
  op = Similarity({'z': ones}, {'z': members.astype(jnp.float32)[:, None]}, fold=fold)
  (found, count), _ = op.reduce([total(), size()])
  return jnp.where(members, count[0] / jnp.maximum(found[0], 1), 0)
