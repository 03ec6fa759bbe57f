"""Contrastive attraction and repulsion: far positives are pulled harder, near negatives are pushed harder."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.similarity import Fold, Similarity, logsumexp
from contrastive_jax.types import Refusal, nearest

__all__ = ['cacr', 'cacr_momentum']

COSTS = ('rbf', 'euclidean')


def _other(views: int):
  """The candidate is another instance: rows are so many views of instances, instance-major, columns one view."""
  return lambda pair: pair.anchor['position'] // views != pair.other['position']


# --- the mean cost of the negatives under a softmax, from two log-sum-exps of one pass ---


def _energies(rows, cols, cost, over, fold, precision):
  r"""Of each row :math:`\log \sum e^{-t c}` and :math:`\log \sum (1 + c) e^{-t c}`; entry 't' travels with the rows."""

  def tilted(pair):
    c = cost(pair)
    return jnp.log1p(jnp.maximum(c, 0)) - pair.anchor['t'] * c

  terms = [logsumexp(lambda pair: -pair.anchor['t'] * cost(pair), over), logsumexp(tilted, over)]
  (energy, of_cost), _ = Similarity(rows, cols, fold=fold, precision=precision).reduce(terms)
  return energy, of_cost


def _mean_cost(energy, of_cost, t, *, stop_weights: bool):
  r"""Mean of c under weights proportional to :math:`e^{-t c}`; 0 where there is no negative.

  The 1 keeps the logarithm away from coinciding rows. With constant weights the derivative of the mean is the weights
  themselves, which is that of :math:`-\frac1t \log \sum e^{-t c}`.
  """
  some = ~jnp.isneginf(energy)
  energy, of_cost = jnp.where(some, energy, 0), jnp.where(some, of_cost, 0)
  mean = jnp.expm1(of_cost - energy)
  if stop_weights:
    free = jnp.where(t == 0, mean, -energy / jnp.where(t == 0, 1, t))
    mean = jax.lax.stop_gradient(mean) + (free - jax.lax.stop_gradient(free))
  return jnp.where(some, mean, 0)


# --- all views in the batch ---


def _check_sharpness(**values):
  for name, value in values.items():
    if isinstance(value, int | float) and value < 0:
      raise Refusal(f'{name} must be >= 0, but it is {value}')


def _squares(z: Float[Array, 'v b d']) -> Float[Array, 'b v v']:
  """Squared distances between the views of each instance."""
  norms = jnp.square(z).sum(-1).T
  # Rounding could make the distance of two equal views negative.
  return jnp.maximum(norms[:, :, None] + norms[:, None, :] - 2 * inputs.gram(z), 0)


def _attraction(z, t, stop_weights: bool) -> Float[Array, ' b']:
  """Mean over the views of the weighted squared distance to the others."""
  others, squares = inputs.off_diagonal(z.shape[0]), _squares(z)
  weights = jax.nn.softmax(t * squares, axis=-1, where=others)
  weights = jax.lax.stop_gradient(weights) if stop_weights else weights
  return jnp.where(others, weights * squares, 0).sum(-1).mean(-1)


def _nearness(x, y, t, stop_weights: bool, fold, precision) -> Float[Array, 'v b']:
  """Weighted squared distance of each row of the views x to the rows of the view y that are other instances."""
  rows, cols = ({'z': side, 'square': jnp.square(side).sum(-1)} for side in (inputs.flatten(x), y))
  rows['t'] = jnp.broadcast_to(t, rows['square'].shape)

  def cost(pair):
    return jnp.maximum(pair.anchor['square'] + pair.other['square'] - 2 * pair.dot, 0)

  energy, of_cost = _energies(rows, cols, cost, _other(len(x)), fold, precision)
  return inputs.unflatten(_mean_cost(energy, of_cost, t, stop_weights=stop_weights), len(x))


def cacr(
  z: Float[Array, 'v b d'],
  *,
  t_pos: float | Float[Array, ''] = 1.0,
  t_neg: float | Float[Array, ''] = 2.0,
  alpha: float | Float[Array, ''] = 1.0,
  beta: float | Float[Array, ''] = 1.0,
  tau_plus: float | None = None,
  stop_weights: bool = False,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Contrastive attraction and contrastive repulsion (CACR) among the views of a batch.

  With the squared distance c, positives are compared with positives and negatives with negatives:

  .. math:: \ell_i = \frac{\alpha}{V} \sum_v \sum_{w \ne v} p_{vw} \, c(z_{v,i}, z_{w,i})
            - \frac{2 \beta}{V (V-1)} \sum_{v < w} \sum_{j \ne i} q_{vw,j} \, c(z_{v,i}, z_{w,j})

  .. math:: p_{vw} \propto e^{t^+ c(z_{v,i}, z_{w,i})}, \qquad q_{vw,j} \propto e^{-t^- c(z_{v,i}, z_{w,j})}

  Both kinds of weights sum to 1. Sharpness 0 makes them uniform (the paper's ablations); as it grows, the farthest
  positive and the nearest negative count alone. For unit rows the first term lies in [0, 4], the second in [-4, 0].

  Args:
    z: `[V, B, D]`, unit norm, V >= 2; the paper has five views. Two views have one positive, whatever t_pos.
    t_pos: sharpness of the positives' weights, at least 0.
    t_neg: sharpness of the negatives' weights, at least 0; 2 in the official code, but 0.9 for CIFAR-10.
    alpha: weight of the attraction.
    beta: weight of the repulsion.
    tau_plus: share of false negatives, in [0, 1), for which the repulsion r of a pair of views is corrected to
      :math:`(r - \tau^+ c(z_{v,i}, z_{w,i})) / (1 - \tau^+)`, as in the official code (0.1 there); None leaves it.
    stop_weights: takes the weights as constants. The official code does so with a momentum encoder only.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per instance, `[B]`; without negatives (B = 1) the attraction alone.

  Raises:
    ValueError: `z` is not `[V, B, D]`, V < 2, a negative sharpness, tau_plus outside [0, 1), an unknown fold or
      precision.

  Source: Zheng et al., 2023, "Contrastive Attraction and Contrastive Repulsion for Representation Learning"; directions
  and means, and the correction with its sign and without beta, as in its repository, JegZheng/CACR-SSL.
  """
  inputs.check_views(z)
  _check_sharpness(t_pos=t_pos, t_neg=t_neg)
  if isinstance(tau_plus, int | float) and not 0 <= tau_plus < 1:
    raise Refusal(f'tau_plus must lie in [0, 1), but it is {tau_plus}')
  z = inputs.wide(z)
  t_pos, t_neg = (jnp.asarray(t, z.dtype) for t in (t_pos, t_neg))
  t_pos, t_neg = jax.lax.stop_gradient((t_pos, t_neg)) if stop_weights else (t_pos, t_neg)
  repulsion = jnp.zeros_like(z[0, :, 0])
  for w in range(1, len(z)):
    near = -beta * _nearness(z[:w], z[w], t_neg, stop_weights, fold, precision)
    if tau_plus is not None:
      near = (near - tau_plus * jnp.square(z[:w] - z[w]).sum(-1)) / (1 - tau_plus)
    repulsion += near.sum(0)
  return alpha * _attraction(z, t_pos, stop_weights) + 2 / (len(z) * (len(z) - 1)) * repulsion


# --- keys of a momentum encoder ---


def _cross_entropy(queries, own, keys, queue, temperature, fold, precision):
  """Of finding each query's own key among all keys and the queue."""
  rows = {'z': queries / temperature}
  (lse,), _ = Similarity(rows, {'z': keys}, fold=fold, precision=precision).reduce([logsumexp()])
  if queue is not None:
    (of_queue,), _ = Similarity(rows, {'z': queue}, fold=fold, precision=precision).reduce([logsumexp()])
    lse = jnp.logaddexp(lse, of_queue)
  return 2 * (temperature * lse - own)


def _pull_and_push(queries, own, keys, queue, temperature, fold, precision):
  """1 - cos to the own key, less its weighted mean over all other keys."""
  t = jax.lax.stop_gradient(1 / temperature)
  rows = {'z': queries, 't': jnp.broadcast_to(t, queries.shape[:1])}

  def cost(pair):
    return 1 - pair.dot

  views = queries.shape[0] // keys.shape[0]
  energy, of_cost = _energies(rows, {'z': keys}, cost, _other(views), fold, precision)
  if queue is not None:
    more, of_more = _energies(rows, {'z': queue}, cost, None, fold, precision)
    energy, of_cost = jnp.logaddexp(energy, more), jnp.logaddexp(of_cost, of_more)
  return 1 - own - _mean_cost(energy, of_cost, t, stop_weights=True)


def cacr_momentum(
  z: Float[Array, 'v b d'],
  y: Float[Array, 'b d'],
  *,
  temperature: Temperature = 1.0,
  cost: str = 'rbf',
  queue: Array | None = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""CACR of several query views against one key view of a momentum encoder; every weight is a constant.

  With :math:`p_{v,i} \propto \exp(\lVert z_{v,i} - y_i \rVert^2 / \tau)`, which sums to 1 over the views,

  .. math:: \ell^{\text{rbf}}_i = 2 \tau \sum_v p_{v,i} \Big( - \frac{z_{v,i}^\top y_i}{\tau}
            + \log \sum_j \exp \frac{z_{v,i}^\top y_j}{\tau} \Big)

  .. math:: \ell^{\text{euclidean}}_i = \sum_v p_{v,i} \Big( c_{v,ii} - \sum_{j \ne i} q_{v,ij} c_{v,ij} \Big), \qquad
            c_{v,ij} = 1 - z_{v,i}^\top y_j, \quad q_{v,ij} \propto e^{-c_{v,ij} / \tau}

  The published loss is the mean of this over the key views, each met by the queries of all other views. It takes the
  mean over the batch of the first form and the sum of the second.

  Args:
    z: queries `[V, B, D]`, unit norm, of every view but that of the keys; V >= 1.
    y: keys `[B, D]`, unit norm; y[i] is the key of instance i. Its gradient is stopped.
    temperature: tau, a scalar; 1.0 for the paper's ResNet-50, 0.2 for its ViT-B.
    cost: 'rbf' or 'euclidean'.
    queue: earlier keys `[Q, D]`, unit norm, further negatives (the official code has none). Their gradient is stopped.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per instance, `[B]`.

  Raises:
    ValueError: shapes that do not fit, a static temperature <= 0, an unknown cost, fold or precision.

  Source: Zheng et al., 2023, large-scale experiments, as in its repository, JegZheng/CACR-SSL.
  """
  inputs.check_views(z, at_least=1)
  inputs.check_sides(z[0], y, equal=True)
  inputs.check_temperature(temperature)
  if cost not in COSTS:
    raise Refusal(f"unknown cost '{cost}'{nearest(str(cost), COSTS)}")
  if queue is not None:
    inputs.check_sides(y, queue)
    queue = jax.lax.stop_gradient(inputs.wide(queue))
  z, y = inputs.wide(z), jax.lax.stop_gradient(inputs.wide(y))
  temperature = jnp.asarray(temperature, z.dtype)
  weights = jax.lax.stop_gradient(jax.nn.softmax(jnp.square(z - y).sum(-1) / temperature, axis=0))
  each = {'rbf': _cross_entropy, 'euclidean': _pull_and_push}[cost]
  own = inputs.flatten((z * y).sum(-1)[..., None])[:, 0]
  values = each(inputs.flatten(z), own, y, queue, temperature, fold, precision)
  return (weights * inputs.unflatten(values, len(z))).sum(0)
