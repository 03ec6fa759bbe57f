"""Two-sided softmax losses: each row of x finds its partner among the rows of y."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses.inputs import Ids, Mask, Temperature, check_entries, check_sides, check_temperature, wide
from contrastive_jax.similarity import Fold, Similarity, crosses, logsumexp, mean, positive, size, total
from contrastive_jax.types import Refusal

__all__ = ['info_nce', 'info_nce_both', 'queue_nce', 'symmetric_info_nce']


def sides(x, y, x_id, y_id, x_mask, y_mask, fold):
  """The entries that travel with the rows and the columns; without ids a side is known by its positions."""
  check_entries(len(x), x_id=x_id, x_mask=x_mask)
  check_entries(len(y), y_id=y_id, y_mask=y_mask)
  sides = [dict(z=x), dict(z=y)]
  for side, mask in zip(sides, (x_mask, y_mask), strict=True):
    if mask is not None:
      side['mask'] = jnp.asarray(mask)
  if x_id is None and y_id is None and x.shape[0] != y.shape[0] and crosses(fold):
    raise Refusal(
      'inside shard_map or pmap rows are paired by position only where each device holds as many rows of x as of y, '
      f'but it holds {x.shape[0]} and {y.shape[0]}: pass x_id and y_id'
    )
  for side, ids in zip(sides, (x_id, y_id), strict=True):
    if ids is not None:
      side['id'] = jnp.asarray(ids)
  return sides


def _paired(x, y, x_mask, y_mask):
  """Row i's partner is row i: its logit and whether it exists, for the rows that have one."""
  n = min(x.shape[0], y.shape[0])
  logits = (x[:n] * y[:n]).sum(-1)
  exists = jnp.ones(n, bool)
  for mask in (x_mask, y_mask):
    exists = exists if mask is None else exists & mask[:n]
  return logits, exists


def _value(statistics, kept, label_smoothing):
  """-(mean target logit) + log-sum-exp; 0 for anchors that are masked or have no positive."""
  lse, *of_all, logit_sum, count = statistics
  exists = count > 0 if kept is None else (count > 0) & kept
  target = logit_sum / jnp.maximum(count, 1)
  if of_all:
    target = (1 - label_smoothing) * target + label_smoothing * of_all[0]
  return jnp.where(exists, jnp.where(exists, lse, 0) - target, 0)


def _check_smoothing(label_smoothing) -> bool:
  """Whether there is any: not where it is known to be 0."""
  if not isinstance(label_smoothing, int | float):
    return True
  if not 0 <= label_smoothing < 1:
    raise Refusal(f'label_smoothing must lie in [0, 1), but it is {label_smoothing}')
  return label_smoothing != 0


def _further(lse, x, negatives, fold, precision):
  """The log-sum-exp of each anchor over its columns and over further ones, which are nobody's positives."""
  (of_further,), _ = Similarity({'z': x}, negatives, fold=fold, precision=precision).reduce([logsumexp()])
  # Anchors without columns have no value, but an infinity less an infinity would be their gradient.
  return jnp.logaddexp(jnp.where(jnp.isneginf(lse), 0, lse), of_further)


def directions(
  x, y, *, temperature, x_id, y_id, x_mask, y_mask, fold, precision, count=2, label_smoothing=0.0, negatives=None
):
  """InfoNCE of x among y and, if `count` is 2, of y among x; `negatives`, entries of columns, are further y of x."""
  check_sides(x, y)
  # One per row of x would not say which temperature the rows of y use.
  check_temperature(temperature, *([x.shape[:1]] if count == 1 else []))
  smoothed = _check_smoothing(label_smoothing)
  x, y = wide(x), wide(y)
  scale = jnp.asarray(temperature, x.dtype)
  x = x / (scale if scale.ndim == 0 else scale[:, None])
  rows, cols = sides(x, y, x_id, y_id, x_mask, y_mask, fold)
  by_position = x_id is None and y_id is None
  terms = [logsumexp(), *([mean()] if smoothed else [])]
  if not by_position:
    terms += [total(over=positive), size(positive)]
  op = Similarity(rows, cols, fold=fold, precision=precision)
  of_x, of_y = op.reduce(terms, terms if count == 2 else [])
  if negatives is not None:
    of_x = (_further(of_x[0], x, negatives, fold, precision), *of_x[1:])
  found = [(of_x, x, x_mask), (of_y, y, y_mask)][:count]
  if by_position:
    logits, exists = _paired(x, y, x_mask, y_mask)
    partner = jnp.where(exists, logits, 0), exists
    found = [((*of, *(jnp.pad(v, (0, z.shape[0] - v.shape[0])) for v in partner)), z, mask) for of, z, mask in found]
  return [_value(of, None if mask is None else jnp.asarray(mask), label_smoothing) for of, _, mask in found]


def info_nce(
  x: Float[Array, 'b d'],
  y: Float[Array, 'm d'],
  *,
  temperature: Temperature = 0.1,
  x_id: Ids = None,
  y_id: Ids = None,
  x_mask: Mask = None,
  y_mask: Mask = None,
  label_smoothing: float = 0.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""InfoNCE: the cross-entropy of finding each anchor's positives among all candidates.

  .. math:: \ell_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \frac{x_i^\top y_p}{\tau}
            + \log \sum_{j=1}^{M} \exp \frac{x_i^\top y_j}{\tau}

  Several positives are averaged outside the logarithm and stay in the denominator. With label smoothing
  :math:`\epsilon` the positive logit is :math:`1 - \epsilon` of it and :math:`\epsilon` of the mean over all
  candidates, the positives included.

  Args:
    x: anchors `[B, D]`, unit norm.
    y: candidates `[M, D]`, unit norm. Without ids, the positive of `x[i]` is `y[i]`; further rows are negatives.
    temperature: divides similarities; a scalar, or `[B]`, one per anchor. Learnable.
    x_id: integers `[B]`; default: position. An id of -1 is never a positive.
    y_id: integers `[M]`; candidates whose id equals the anchor's are its positives.
    x_mask: `[B]`, False for anchors that do not count (padding).
    y_mask: `[M]`, False for candidates that do not exist.
    label_smoothing: epsilon, in [0, 1).
    fold: 'auto', `dense()`, `chunked(rows, cols)`, `ring(axis)`, `local()`; never changes the value.
    precision: of the products: None (float32), 'bfloat16', 'bfloat16_3x'.

  Returns:
    One value per anchor, `[B]`; 0 for masked anchors and for anchors without positives.

  Raises:
    ValueError: shapes that do not fit, a static temperature <= 0, label_smoothing outside [0, 1), an unknown fold or
      precision.

  Source: van den Oord, Li and Vinyals, 2018, eq. 4; several positives as in Khosla et al., 2020, eq. 2; label smoothing
  as in Szegedy et al., 2016.
  """
  given = dict(x_id=x_id, y_id=y_id, x_mask=x_mask, y_mask=y_mask, label_smoothing=label_smoothing)
  return directions(x, y, temperature=temperature, **given, fold=fold, precision=precision, count=1)[0]


def info_nce_both(
  x: Float[Array, 'b d'],
  y: Float[Array, 'm d'],
  *,
  temperature: Temperature = 0.1,
  x_id: Ids = None,
  y_id: Ids = None,
  x_mask: Mask = None,
  y_mask: Mask = None,
  label_smoothing: float = 0.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> tuple[Float[Array, ' b'], Float[Array, ' m']]:
  r"""InfoNCE in both directions from one pass over the logits: `x` among `y`, and `y` among `x`.

  For M != B (K captions for each image, further negatives) the directions have different lengths, so both are
  returned. Arguments and errors as in `info_nce`, except that `temperature` is a scalar.

  Returns:
    `([B], [M])`, each as `info_nce` would return it with the sides in that order.

  Source: Radford et al., 2021, figure 3.
  """
  given = dict(x_id=x_id, y_id=y_id, x_mask=x_mask, y_mask=y_mask, label_smoothing=label_smoothing)
  of_x, of_y = directions(x, y, temperature=temperature, **given, fold=fold, precision=precision)
  return of_x, of_y


def queue_nce(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  queue: Float[Array, 'q d'],
  *,
  temperature: Temperature = 0.2,
  include_positive: bool = True,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""InfoNCE against a queue of earlier keys, the loss of MoCo: the batch's other keys are no negatives.

  .. math:: \ell_i = -\frac{x_i^\top y_i}{\tau}
            + \log \Big( e^{x_i^\top y_i / \tau} + \sum_{j=1}^{Q} e^{x_i^\top q_j / \tau} \Big)

  Args:
    x: queries `[B, D]`, unit norm.
    y: keys `[B, D]`, unit norm; y[i] is the positive of x[i].
    queue: negatives `[Q, D]`, unit norm. Stop the gradient of keys and queue yourself where they are a teacher's.
    temperature: divides similarities; a scalar.
    include_positive: without, the positive is left out of the denominator (decoupled contrastive loss).
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per query, `[B]`.

  Raises:
    ValueError: as in `info_nce`.

  Source: He et al., 2020, eq. 1; without the positive: Yeh et al., 2022.
  """
  check_sides(x, y, equal=True)
  check_sides(x, queue, names=('x', 'queue'))
  check_temperature(temperature)
  x, y, queue = wide(x), wide(y), wide(queue)
  x = x / jnp.asarray(temperature, x.dtype)
  (lse,), _ = Similarity({'z': x}, {'z': queue}, fold=fold, precision=precision).reduce([logsumexp()])
  positive_logit = (x * y).sum(-1)
  return (jnp.logaddexp(lse, positive_logit) if include_positive else lse) - positive_logit


def symmetric_info_nce(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  *,
  temperature: Temperature = 0.07,
  x_id: Ids = None,
  y_id: Ids = None,
  x_mask: Mask = None,
  y_mask: Mask = None,
  label_smoothing: float = 0.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Symmetric InfoNCE, the loss of CLIP: the mean of both directions, from one pass over the logits.

  .. math:: \ell_i = \tfrac12 \big( \mathrm{InfoNCE}(x \to y)_i + \mathrm{InfoNCE}(y \to x)_i \big)

  Arguments and errors as in `info_nce_both`; `y` has as many rows as `x`. The default temperature is the paper's
  initial value. ALIGN has label_smoothing=0.1, a temperature that starts at 1, and the sum of the directions, twice
  this.

  Returns:
    One value per pair, `[B]`.

  Source: Radford et al., 2021, figure 3; with label smoothing Jia et al., 2021, "Scaling Up Visual and Vision-Language
  Representation Learning With Noisy Text Supervision".
  """
  check_sides(x, y, equal=True)
  of_x, of_y = info_nce_both(
    x,
    y,
    temperature=temperature,
    x_id=x_id,
    y_id=y_id,
    x_mask=x_mask,
    y_mask=y_mask,
    label_smoothing=label_smoothing,
    fold=fold,
    precision=precision,
  )
  return (of_x + of_y) / 2
