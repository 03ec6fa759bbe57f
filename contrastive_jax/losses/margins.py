"""Losses with labels and margins: triplets, N-pair, multi-similarity and circle."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from contrastive_jax.losses import distances, inputs
from contrastive_jax.similarity import (
  Fold,
  Similarity,
  crosses,
  logsumexp,
  maximum,
  minimum,
  negative,
  positive,
  size,
  top,
  total,
)
from contrastive_jax.types import Refusal, nearest

__all__ = ['circle', 'multi_similarity', 'n_pair', 'triplet']

MINING = ('hard', 'semi_hard', 'all')
REDUCTIONS = ('mean', 'nonzero')


def check_scalars(**values):
  """Refuses hyper-parameters that are not scalars, by name."""
  for name, value in values.items():
    if jnp.shape(value) != ():
      raise Refusal(f'{name} must be a scalar, but it is {list(jnp.shape(value))}')


def check_above_zero(**values):
  """Refuses hyper-parameters that are not scalars, or not above zero where that is known before compilation."""
  check_scalars(**values)
  for name, value in values.items():
    inputs.check_positive(name, value)


def global_sums(values: Float[Array, 'n w'], fold: Fold | str) -> Float[Array, ' w']:
  """Sums over all devices' rows, as `inputs.global_logsumexp`."""
  op = Similarity({'z': jnp.eye(values.shape[1], dtype=values.dtype)}, {'z': values}, fold=fold)
  return op.reduce([total()])[0][0]


def _check(z, labels, **above_zero):
  inputs.check_views(z, at_least=1)
  inputs.check_entries(z.shape[1], labels=labels)
  check_above_zero(**above_zero)


def _ids(rows: Float[Array, 'n d'], labels: Int[Array, ' b']) -> Int[Array, ' n']:
  """Every view has the label of its instance; of rows in the order of `inputs.flatten`."""
  return inputs.of_rows(labels, len(rows) // max(len(labels), 1))


# --- triplets: of each anchor the sum of its hinges, how many are not zero, and how many there are ---


def _hardest(of: Callable, distance: Callable, hinge: Callable, margin):
  (far, near), _ = of({}).reduce([maximum(distance, positive), minimum(distance, negative)])
  some = ~jnp.isinf(far) & ~jnp.isinf(near)
  value = _between(far, near, some, hinge, margin)
  return value, value > 0, some


def _between(far, near, some, hinge, margin):
  """The hinge of two distances where there are two."""
  return jnp.where(some, hinge(jnp.where(some, far, 0) - jnp.where(some, near, 0) + margin), 0)


def _next_farther(of: Callable, distance: Callable, far: Float[Array, 'n k']) -> Int[Array, 'n k']:
  """Positions of the nearest negatives that are farther than each of the positives; -1 where there is none."""

  def closer(pair):
    return -distance(pair)

  def farther(pair):
    return negative(pair) & (distance(pair) > pair.anchor['far'])

  def one(far):
    ((_, place),), _ = of({'far': far}).reduce([top(1, closer, farther)])
    return place[:, 0]

  return jnp.where(jnp.isinf(far), -1, jax.lax.map(one, far.T).T)


def _by_positive(of: Callable, fixed: Callable, distance: Callable, hinge: Callable, margin, semi: bool, most: int):
  """The farthest positives of each anchor with all negatives at once."""
  ((far, _), negatives), _ = of({}).reduce([top(most, distance, positive), size(negative)])
  some = ~jnp.isinf(far)
  entries = {'some': some, 'reach': jnp.where(some, far, 0) + margin}
  if semi:
    # Which negatives these are has no gradient; a differentiated loop over passes would keep all tiles.
    entries['chosen'] = _next_farther(fixed, distance, jax.lax.stop_gradient(far))

  def costs(pair):
    kept = pair.anchor['chosen'] == pair.other['position'] if semi else pair.anchor['some']
    return jnp.where(kept, hinge(pair.anchor['reach'] - distance(pair)), 0)

  terms = [
    total(lambda pair: costs(pair).sum(), negative),
    total(lambda pair: (costs(pair) > 0).sum().astype(pair.dot.dtype), negative),
  ]
  (value, active), _ = of(entries).reduce(terms)
  return value, active, (entries['chosen'] >= 0).sum(1) if semi else some.sum(1) * negatives


def _check_triplets(z, labels, margin, mining, max_positives, reduction):
  _check(z, labels)
  check_scalars(margin=margin)
  for name, value, known in (('mining', mining, MINING), ('reduction', reduction, REDUCTIONS)):
    if value not in known:
      raise Refusal(f"unknown {name} '{value}'{nearest(str(value), known)}")
  if not isinstance(max_positives, int) or max_positives < 1:
    raise Refusal(f'max_positives must be an integer >= 1, but it is {max_positives!r}')


def _triplets(z, labels, measure, hinge, margin, mining: str, most: int, fold, precision):
  def operator(z):
    rows = measure.rows(z, precision) | {'id': _ids(z, labels)}
    return lambda entries: Similarity(rows | entries, fold=fold, precision=precision)

  flat = inputs.flatten(z)
  if mining == 'hard':
    return _hardest(operator(flat), measure.value, hinge, margin)
  most = most if crosses(fold) else max(1, min(most, len(flat) - 1))
  of, fixed = operator(flat), operator(jax.lax.stop_gradient(flat))
  return _by_positive(of, fixed, measure.value, hinge, margin, mining == 'semi_hard', most)


def triplet(
  z: Float[Array, 'v b d'],
  labels: Int[Array, ' b'],
  *,
  margin: float | Float[Array, ''] = 0.05,
  mining: str = 'hard',
  soft: bool = False,
  distance: str = 'euclidean',
  max_positives: int = 15,
  reduction: str = 'mean',
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Triplet loss, :math:`\ell_a = \frac{1}{|T_a|} \sum_{(p, n) \in T_a} [d_{ap} - d_{an} + m]_+`.

  Positives are the other rows of the anchor's label, in all views; negatives the rows of other labels. Its triplets
  :math:`T_a` are: 'hard', its farthest positive with its nearest negative; 'semi_hard', each positive with the nearest
  negative that is farther than it, if any; 'all', each positive with each negative. The last two look at the
  `max_positives` farthest positives of an anchor alone; 'semi_hard' takes one more pass for each of them.

  Args:
    z: `[V, B, D]`, of any norm; V = 1 is allowed, labels make the positives.
    labels: `[B]` integers; a label of -1 equals none.
    margin: m. FaceNet has 0.2 with 'squared_euclidean' on unit vectors.
    mining: 'hard', 'semi_hard' or 'all'.
    soft: log(1 + exp(.)) in place of the hinge; with m = 0 in its paper.
    distance: 'cosine', 'dot', 'euclidean', 'squared_euclidean' or 'snr', see `losses.distances.named`.
    max_positives: of 'semi_hard' and 'all'.
    reduction: 'mean', as above, or 'nonzero': the mean over anchors is then the sum over all triplets of the batch
      divided by the number of those that are not zero.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`; 0 for anchors without triplets. Where all classes are of one size, the mean is that
    over all triplets.

  Raises:
    ValueError: `z` is not `[V, B, D]`, labels are not integers `[B]`, an unknown mining, distance, reduction, fold or
      precision, max_positives < 1.

  Source: Schroff et al., 2015, section 3; 'hard' and `soft`: Hermans et al., 2017, section 2.
  """
  _check_triplets(z, labels, margin, mining, max_positives, reduction)
  z, measure = inputs.wide(z), distances.named(distance)
  hinge, margin = jax.nn.softplus if soft else jax.nn.relu, jnp.asarray(margin, z.dtype)
  value, active, triplets = _triplets(z, labels, measure, hinge, margin, mining, max_positives, fold, precision)
  if reduction == 'mean':
    value = value / jnp.maximum(triplets, 1)
  else:
    active, anchors = global_sums(jnp.stack([active.astype(z.dtype), jnp.ones_like(value)], 1), fold)
    value = value * anchors / jnp.maximum(active, 1)
  return inputs.unflatten(value, z.shape[0])


def n_pair(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  *,
  penalty: float | Float[Array, ''] = 0.02,
  normalize: bool = False,
  distance: str = 'dot',
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Multi-class N-pair loss: one pair of each class, every other class's second row is a negative.

  .. math:: \ell_i = -x_i^\top y_i + \log \sum_j e^{x_i^\top y_j}
            + \lambda \big( \lVert x_i \rVert^2 + \lVert y_i \rVert^2 \big)

  With another distance d, :math:`-d(x_i, y_j)` stands for the inner products. There is no temperature: the norms are
  learned, and held by the penalty.

  Args:
    x: anchors `[B, D]`, one of each class.
    y: positives `[B, D]`; y[i] has the class of x[i].
    penalty: lambda. Public codes have this form with 0.02, or with 0.0005 (TensorFlow's 0.25 of 0.002).
    normalize: scales the rows to unit norm first, as some libraries do; the penalty is then constant.
    distance: of the anchor and a second row, 'dot', 'cosine', 'euclidean', 'squared_euclidean' or 'snr', see
      `losses.distances.named`. Of 'snr' norms are no matter: they need no penalty.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per pair, `[B]`.

  Raises:
    ValueError: shapes that differ, an unknown distance, fold or precision.

  Source: Sohn, 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", section 3; with 'snr' Yuan
  et al., 2019, "Signal-To-Noise Ratio: A Robust Distance Metric for Deep Metric Learning".
  """
  inputs.check_sides(x, y, equal=True)
  check_scalars(penalty=penalty)
  x, y = inputs.wide(x), inputs.wide(y)
  if normalize:
    x, y = inputs.unit(x), inputs.unit(y)
  squares = jnp.square(x).sum(-1) + jnp.square(y).sum(-1)
  rows, cols = (distances.named(distance).rows(side, precision) for side in (x, y))
  term = logsumexp(distances.closeness(distance))
  (of_all,), _ = Similarity(rows, cols, fold=fold, precision=precision).reduce([term])
  return of_all + distances.by_position(distance, rows, cols, precision) + penalty * squares


# --- all positives and all negatives of an anchor at once ---


def _rows(z: Float[Array, 'v b d'], labels, distance: str = 'dot', precision: str | None = None, **scalars):
  """The rows of all views; scalars travel with them, as no term may close over an array."""
  flat = inputs.flatten(z)
  entries = {k: jnp.broadcast_to(jnp.asarray(v, z.dtype), flat.shape[:1]) for k, v in scalars.items()}
  return distances.named(distance).rows(flat, precision) | {'id': _ids(flat, labels), **entries}


def one_more(lse, offset):
  """log(1 + exp(offset) * sum) of a log-sum-exp; 0 where it is empty."""
  some = ~jnp.isneginf(lse)
  return jnp.where(some, jax.nn.softplus(jnp.where(some, lse, 0) + offset), 0)


def _mined(rows, close: Callable, margin, fold, precision) -> dict[str, Array]:
  """Limits of what an anchor keeps; infinite, so that it keeps nothing, where it has no positive or no negative."""
  op = Similarity(jax.lax.stop_gradient(rows), fold=fold, precision=precision)
  (least, most), _ = op.reduce([minimum(close, positive), maximum(close, negative)])
  return {'above': least - margin, 'below': most + margin}


def multi_similarity(
  z: Float[Array, 'v b d'],
  labels: Int[Array, ' b'],
  *,
  alpha: float | Float[Array, ''] = 2.0,
  beta: float | Float[Array, ''] = 50.0,
  base: float | Float[Array, ''] = 0.5,
  mining_margin: float | None = None,
  distance: str = 'dot',
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Multi-similarity loss: positives and negatives weighed by their own and by their relative similarities.

  .. math:: \ell_a = \frac1\alpha \log \Big( 1 + \sum_{p \in P_a} e^{-\alpha (s_{ap} - \lambda)} \Big)
            + \frac1\beta \log \Big( 1 + \sum_{n \in N_a} e^{\beta (s_{an} - \lambda)} \Big), \qquad s = z^\top z

  With another distance d, :math:`s = -d`. With a mining margin :math:`\epsilon` an anchor keeps the positives with
  :math:`s_{ap} < \max_n s_{an} + \epsilon` and the negatives with :math:`s_{an} > \min_p s_{ap} - \epsilon`, a choice
  without gradient; without a positive or without a negative it keeps nothing.

  Args:
    z: `[V, B, D]`, unit norm; V = 1 is allowed, labels make the positives.
    labels: `[B]` integers; rows of other labels are negatives. A label of -1 equals none.
    alpha: weight of positives.
    beta: weight of negatives.
    base: lambda, a similarity: 0.5 in public codes, and below 0 for distances, whose libraries take its negative.
    mining_margin: epsilon, 0.1 in the paper; None keeps all pairs.
    distance: as of `n_pair`.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`, whose mean over all is the published loss; 0 for anchors of label -1. An anchor
    without positives has the second part alone.

  Raises:
    ValueError: `z` is not `[V, B, D]`, labels are not integers `[B]`, alpha or beta <= 0, an unknown option.

  Source: Wang et al., 2019, "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning".
  """
  _check(z, labels, alpha=alpha, beta=beta)
  check_scalars(base=base)
  z = inputs.wide(z)
  rows, close = _rows(z, labels, distance, precision, alpha=alpha, beta=beta), distances.closeness(distance)
  rows |= {} if mining_margin is None else _mined(rows, close, mining_margin, fold, precision)

  def pulled(pair):
    return positive(pair) & (close(pair) < pair.anchor['below'] if 'below' in pair.anchor else True)

  def pushed(pair):
    return negative(pair) & (close(pair) > pair.anchor['above'] if 'above' in pair.anchor else True)

  terms = [
    logsumexp(lambda pair: -pair.anchor['alpha'] * close(pair), pulled),
    logsumexp(lambda pair: pair.anchor['beta'] * close(pair), pushed),
  ]
  (near, far), _ = Similarity(rows, fold=fold, precision=precision).reduce(terms)
  values = one_more(near, alpha * base) / alpha + one_more(far, -beta * base) / beta
  return inputs.unflatten(jnp.where(rows['id'] >= 0, values, 0), z.shape[0])


def circle(
  z: Float[Array, 'v b d'],
  labels: Int[Array, ' b'],
  *,
  margin: float | Float[Array, ''] = 0.4,
  gamma: float | Float[Array, ''] = 80.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Circle loss: every similarity is pulled in proportion to its distance from its optimum.

  .. math:: \ell_a = \log \Big( 1 + \sum_{n \in N_a} e^{\gamma [s_{an} + m]_+ (s_{an} - m)}
            \sum_{p \in P_a} e^{-\gamma [1 + m - s_{ap}]_+ (s_{ap} - 1 + m)} \Big), \qquad s = z^\top z

  The weights in square brackets are constants: they have no gradient.

  Args:
    z: `[V, B, D]`, unit norm; V = 1 is allowed, labels make the positives.
    labels: `[B]` integers; rows of other labels are negatives. A label of -1 equals none.
    margin: m. The paper has 0.25 for faces and persons, 0.4 for retrieval.
    gamma: scale. The paper has 256 for faces, 128 for persons, 80 for retrieval.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`; 0 for anchors without a positive or without a negative. The published mean leaves
    those out: `losses.mean(values, values > 0)`.

  Raises:
    ValueError: `z` is not `[V, B, D]`, labels are not integers `[B]`, gamma <= 0, an unknown fold or precision.

  Source: Sun et al., 2020, "Circle Loss", section 3.
  """
  _check(z, labels, gamma=gamma)
  check_scalars(margin=margin)
  z = inputs.wide(z)
  rows = _rows(z, labels, margin=margin, gamma=gamma)

  def pull(pair):
    margin = pair.anchor['margin']
    weight = jax.lax.stop_gradient(jax.nn.relu(1 + margin - pair.dot))
    return -pair.anchor['gamma'] * weight * (pair.dot - 1 + margin)

  def push(pair):
    margin = pair.anchor['margin']
    weight = jax.lax.stop_gradient(jax.nn.relu(pair.dot + margin))
    return pair.anchor['gamma'] * weight * (pair.dot - margin)

  op = Similarity(rows, fold=fold, precision=precision)
  (near, far), _ = op.reduce([logsumexp(pull, positive), logsumexp(push, negative)])
  some = ~jnp.isneginf(near) & ~jnp.isneginf(far)
  values = jnp.where(some, jax.nn.softplus(jnp.where(some, near, 0) + jnp.where(some, far, 0)), 0)
  return inputs.unflatten(values, z.shape[0])
