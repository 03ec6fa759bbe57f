"""AMCL: losses whose temperature is predicted for every pair, of one head; several heads are summed.

The temperature of a pair is :math:`\\tau = \\eta + (\\tau_{max} - \\eta) / (1 + e^r)` with
:math:`r = \\langle \\phi_a, \\phi_b \\rangle`, a second inner product beside that of the embeddings: likely pairs get
low temperatures. It is bounded and a logarithm of it is added, as in a likelihood whose scale is unknown.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.similarity import Fold, Similarity, mean, top, total
from contrastive_jax.types import Refusal

__all__ = ['adaptive_cross_correlation', 'adaptive_mse', 'adaptive_nce', 'adaptive_queue_nce']

Bound = float | Float[Array, '']
Beta = float | Float[Array, '']

# Below the midpoint of the k-th and the next cosine: similarities are made again, and may be rounded otherwise.
_MARGIN = 1e-6


def pair_temperature(r: Float[Array, '...'], *, tau_min: Bound = 1e-5, tau_max: Bound = 2.0) -> Float[Array, '...']:
  r"""Temperature of pairs, :math:`\tau_{min} + (\tau_{max} - \tau_{min}) / (1 + e^r)`, from their inner products.

  Decreasing in r, between the two bounds, and their midpoint at r = 0.

  Source: Wang et al., 2024, "Adaptive Multi-head Contrastive Learning".
  """
  return tau_min + (tau_max - tau_min) * jax.nn.sigmoid(-r)


def temperature_penalty(tau: Float[Array, '...'], features: float) -> Float[Array, '...']:
  r""":math:`\Omega(\tau) = \frac{d}{2} \log \tau + \frac1\tau`, least at :math:`\tau = 2 / d`."""
  return features / 2 * jnp.log(tau) + 1 / tau


def _check(topk: int, beta, tau_min, tau_max):
  for name, value in (('beta', beta), ('tau_min', tau_min), ('tau_max', tau_max)):
    if jnp.ndim(value) != 0:
      raise Refusal(f'{name} must be a scalar, but it is {list(jnp.shape(value))}')
  if isinstance(topk, bool) or not isinstance(topk, int) or topk < 1:
    raise Refusal(f'topk must be a positive integer, but it is {topk!r}')
  inputs.check_positive('tau_min', tau_min)
  inputs.check_positive('tau_max', tau_max)
  if isinstance(tau_min, float) and isinstance(tau_max, float) and not tau_min < tau_max:
    raise Refusal(f'tau_min must be below tau_max, but they are {tau_min} and {tau_max}')


def _hardest(rows, cols, negative, topk: int, fold, precision) -> Float[Array, ' n']:
  """Of each anchor, a cosine that its topk most similar negatives exceed and no others."""
  fixed = {'z': jax.lax.stop_gradient(rows['z'])}
  candidates = None if cols is None else {'z': jax.lax.stop_gradient(cols['z'])}
  op = Similarity(fixed, candidates, fold=fold, precision=precision)
  ((found, _),), _ = op.reduce([top(topk + 1, over=negative)])
  last, beyond = found[:, -2], found[:, -1]
  # Where no more than topk negatives are there, all are.
  return jnp.where(jnp.isneginf(beyond), -jnp.inf, (last + jnp.where(jnp.isneginf(beyond), 0, beyond)) / 2) - _MARGIN


def _repulsion(rows, cols, negative, *, topk: int, beta, tau_min, tau_max, fold, precision) -> Float[Array, ' n']:
  """Mean of similarity over temperature of the hardest negatives, less what their temperatures cost."""
  n = rows['z'].shape[0]
  bounds = {'low': tau_min, 'high': tau_max}  # they travel with the rows, for the sake of their gradients
  travelling = {name: jnp.broadcast_to(jnp.asarray(b, rows['z'].dtype), (n,)) for name, b in bounds.items()}
  least = _hardest(rows, cols, negative, topk, fold, precision)
  rows = {**rows, **travelling, 'least': jax.lax.stop_gradient(least)}

  def hard(pair):
    return negative(pair) & (pair.dot > pair.anchor['least'])

  def tau(pair):
    r = jnp.dot(pair.anchor['phi'], pair.other['phi'], precision='highest')
    return pair_temperature(r, tau_min=pair.anchor['low'], tau_max=pair.anchor['high'])

  def cost(pair):
    return jnp.log(tau(pair)) + 1 / tau(pair)

  op = Similarity(rows, cols, fold=fold, precision=precision)
  (pull, costs), _ = op.reduce([mean(lambda pair: pair.dot / tau(pair), hard), total(cost, hard)])
  return pull - beta * costs


def _attraction(cosine, r, features: int, *, beta, tau_min, tau_max):
  """What a positive pair costs: its similarity over its temperature, and that of the temperature."""
  tau = pair_temperature(r, tau_min=tau_min, tau_max=tau_max)
  return -cosine / tau + beta * temperature_penalty(tau, features)


def adaptive_nce(
  z: Float[Array, 'v b d'],
  phi: Float[Array, 'v b e'],
  *,
  topk: int = 100,
  beta: Beta = 1e-4,
  tau_min: Bound = 1e-5,
  tau_max: Bound = 2.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""AMCL on the host of SimCLR, one head: every pair has a temperature, and the k hardest negatives count.

  .. math:: \ell_a = -\frac{s_{ap}}{\tau_{ap}} + \beta \, \Omega(\tau_{ap})
            + \frac1k \sum_{n \in \mathrm{top}_k} \frac{s_{an}}{\tau_{an}}
            - \beta \sum_{n \in \mathrm{top}_k} \Big( \log \tau_{an} + \frac{1}{\tau_{an}} \Big),
            \qquad \Omega(\tau) = \frac{d}{2} \log \tau + \frac1\tau

  The negatives are all views of the other instances; the k most similar are chosen by their cosine s. With k = 1 it is
  the published likelihood (eq. 2.1), but that there the log of a negative's temperature has the weight d / 2, too.
  The best temperature of a positive is tau_min where :math:`s \ge \beta`, at the published beta nearly everywhere, else
  :math:`2 (\beta - s) / (\beta d)`. A negative's rises to tau_max above :math:`1 - s / (k \beta)` and falls to tau_min
  below: both saturate.

  With more than two views the cost of positives is the mean over the other views. The choice costs a pass of its own;
  equally similar negatives at the edge of the choice are all in it.

  Args:
    z: one head's embeddings, `[V, B, D]`, unit norm, V >= 2.
    phi: what the temperature network makes of them, `[V, B, E]`.
    topk: k; all negatives where fewer are there.
    beta: weight of the temperatures' cost.
    tau_min: least temperature.
    tau_max: greatest temperature.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`, of the similarities; r is always float32.

  Returns:
    One value per anchor, `[V, B]`.

  Raises:
    ValueError: z or phi not `[V, B, ...]` of the same views and instances, V < 2; topk < 1; static bounds that are not
      0 < tau_min < tau_max; an unknown fold or precision.

  Source: Wang et al., 2024, "Adaptive Multi-head Contrastive Learning", eq. 2.1 and 5.
  """
  inputs.check_views(z)
  inputs.check_views(phi, name='phi')
  if z.shape[:2] != phi.shape[:2]:
    raise Refusal(f'z and phi must be of the same views and instances, but they are {z.shape} and {phi.shape}')
  _check(topk, beta, tau_min, tau_max)
  z, phi = inputs.wide(z), inputs.wide(phi)
  views, options = z.shape[0], dict(beta=beta, tau_min=tau_min, tau_max=tau_max)
  rows = {'z': inputs.flatten(z), 'phi': inputs.flatten(phi)}
  negative = inputs.other_instance(views)
  repulsion = _repulsion(rows, None, negative, topk=topk, **options, fold=fold, precision=precision)
  each = _attraction(inputs.gram(z), inputs.gram(phi), z.shape[-1], **options)
  attraction = jnp.where(inputs.off_diagonal(views), each, 0).sum(-1).T / (views - 1)
  return attraction + inputs.unflatten(repulsion, views)


def adaptive_queue_nce(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  queue: Float[Array, 'q d'],
  phi_x: Float[Array, 'b e'],
  phi_y: Float[Array, 'b e'],
  phi_queue: Float[Array, 'q e'],
  *,
  topk: int = 100,
  beta: Beta = 1e-4,
  tau_min: Bound = 1e-5,
  tau_max: Bound = 2.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  """AMCL on the host of MoCo, one head: as `adaptive_nce`, with the keys of a queue as negatives.

  Args:
    x: queries `[B, D]`, unit norm.
    y: keys `[B, D]`, unit norm; y[i] is the positive of x[i].
    queue: negatives `[Q, D]`, unit norm. Stop the gradient of keys and queue yourself.
    phi_x: of the queries, `[B, E]`.
    phi_y: of the keys.
    phi_queue: of the queue, `[Q, E]`.
    topk: as in `adaptive_nce`.
    beta: as in `adaptive_nce`.
    tau_min: as in `adaptive_nce`.
    tau_max: as in `adaptive_nce`.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per query, `[B]`. The published objective is the mean of this and of the same with x and y exchanged.

  Raises:
    ValueError: as in `adaptive_nce`.

  Source: Wang et al., 2024, section 3, with the code's queue.
  """
  inputs.check_sides(x, y, equal=True)
  inputs.check_sides(x, queue, names=('x', 'queue'))
  inputs.check_sides(phi_x, phi_y, equal=True, names=('phi_x', 'phi_y'))
  inputs.check_sides(phi_x, phi_queue, names=('phi_x', 'phi_queue'))
  if len(x) != len(phi_x) or len(queue) != len(phi_queue):
    raise Refusal(f'phi_x and phi_queue must have {len(x)} and {len(queue)} rows: {phi_x.shape}, {phi_queue.shape}')
  _check(topk, beta, tau_min, tau_max)
  x, y, queue, phi_x, phi_y, phi_queue = (inputs.wide(each) for each in (x, y, queue, phi_x, phi_y, phi_queue))
  rows, cols = {'z': x, 'phi': phi_x}, {'z': queue, 'phi': phi_queue}
  options = dict(beta=beta, tau_min=tau_min, tau_max=tau_max)
  repulsion = _repulsion(rows, cols, lambda pair: True, topk=topk, **options, fold=fold, precision=precision)
  return _attraction((x * y).sum(-1), (phi_x * phi_y).sum(-1), x.shape[-1], **options) + repulsion


def adaptive_mse(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  phi_x: Float[Array, 'b e'],
  phi_y: Float[Array, 'b e'],
  *,
  beta: Beta = 1e-4,
  tau_min: Bound = 1e-5,
  tau_max: Bound = 2.0,
) -> Float[Array, ' b']:
  r"""AMCL on the host of SimSiam, one head and one direction.

  .. math:: \ell_i = -\frac{\cos(x_i, y_i)}{2 \tau_i} + \beta \, \Omega(\tau_i)

  Args:
    x: predictions `[B, D]`, of any norm.
    y: targets `[B, D]`, of any norm; stop their gradient yourself.
    phi_x: of the predictions, `[B, E]`.
    phi_y: of the targets.
    beta: as in `adaptive_nce`.
    tau_min: as in `adaptive_nce`.
    tau_max: as in `adaptive_nce`.

  Returns:
    One value per pair, `[B]`. The published objective is the sum over both directions.

  Raises:
    ValueError: shapes that differ; static bounds as in `adaptive_nce`.

  Source: Wang et al., 2024, section 3.
  """
  inputs.check_sides(x, y, equal=True)
  inputs.check_sides(phi_x, phi_y, equal=True, names=('phi_x', 'phi_y'))
  _check(1, beta, tau_min, tau_max)
  x, y = (inputs.unit(inputs.wide(each)) for each in (x, y))
  tau = pair_temperature((inputs.wide(phi_x) * inputs.wide(phi_y)).sum(-1), tau_min=tau_min, tau_max=tau_max)
  return -(x * y).sum(-1) / (2 * tau) + beta * temperature_penalty(tau, x.shape[-1])


def adaptive_cross_correlation(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  phi_x: Float[Array, 'd e'],
  phi_y: Float[Array, 'd e'],
  *,
  off_diagonal_weight: float = 5e-3,
  beta: Beta = 1e-6,
  tau_min: Bound = 1e-5,
  tau_max: Bound = 2.0,
) -> Float[Array, '']:
  r"""AMCL on the host of Barlow Twins, one head: every pair of channels has a temperature.

  .. math:: \sum_l \Big( 1 - \frac{C_{ll}}{\tau_{ll}} \Big)^2 + \lambda \sum_{l \ne m} \frac{C_{lm}^2}{\tau_{lm}}
            + \beta \sum_l \Omega(\tau_{ll}) - \beta \sum_{l \ne m} \Omega(\tau_{lm})

  C is the cross-correlation of channels, standardised with the unbiased deviation and divided by B, so that of two
  identical views its diagonal is (B - 1) / B. The temperatures come from channels as vectors over the batch, whose
  length d in :math:`\Omega` is B.

  Args:
    x: `[B, D]`, of any norm, B >= 2.
    y: the other view.
    phi_x: what the temperature network makes of the columns of x, `[D, E]`.
    phi_y: of those of y.
    off_diagonal_weight: lambda.
    beta: as in `adaptive_nce`.
    tau_min: as in `adaptive_nce`.
    tau_max: as in `adaptive_nce`.

  Returns:
    A scalar. D x D numbers are stored, as in `barlow_twins`.

  Raises:
    ValueError: shapes that differ; static bounds as in `adaptive_nce`; a call inside `shard_map` or `pmap`.

  Source: Wang et al., 2024, section 3.
  """
  inputs.check_sides(x, y, equal=True)
  inputs.check_sides(phi_x, phi_y, equal=True, names=('phi_x', 'phi_y'))
  inputs.check_whole('adaptive_cross_correlation')
  if len(x) < 2 or len(phi_x) != x.shape[1]:
    raise Refusal(f'B >= 2 rows and a phi of each channel are needed, but x is {x.shape} and phi_x {phi_x.shape}')
  _check(1, beta, tau_min, tau_max)
  x, y = ((each - each.mean(0)) / jnp.maximum(each.std(0, ddof=1), 1e-6) for each in map(inputs.wide, (x, y)))
  correlation = jnp.matmul(x.T, y, precision='highest') / len(x)
  r = jnp.matmul(inputs.wide(phi_x), inputs.wide(phi_y).T, precision='highest')
  tau = pair_temperature(r, tau_min=tau_min, tau_max=tau_max)
  same = jnp.eye(len(r), dtype=bool)
  values = jnp.where(same, jnp.square(1 - correlation / tau), off_diagonal_weight * jnp.square(correlation) / tau)
  costs = beta * temperature_penalty(tau, len(x))
  return (values + jnp.where(same, costs, -costs)).sum()
