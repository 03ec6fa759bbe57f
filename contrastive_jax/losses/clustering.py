"""Losses of clusters: codes say how much an instance belongs to each prototype, and the other crops predict them.

Codes are statistics of the arrays given: under `jit` with arrays split over devices, of the global batch. Inside a
caller's own `shard_map` or `pmap` they would be those of one device, which changes them, so that is refused there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from contrastive_jax.losses import inputs
from contrastive_jax.types import Refusal

__all__ = ['sinkhorn', 'swapped_prediction']


def _check_scores(scores, iterations: int, where):
  inputs.check_floats(scores=scores)
  if scores.ndim != 2:
    raise Refusal(f'scores must be [B, K] (instances, prototypes), but they are {scores.shape}')
  if iterations < 1:
    raise Refusal(f'iterations must be at least 1, but they are {iterations}')
  inputs.check_entries(scores.shape[0], mask=where)


def sinkhorn(
  scores: Float[Array, 'b k'],
  *,
  eps: float | Float[Array, ''] = 0.05,
  iterations: int = 3,
  where: Bool[Array, ' b'] | None = None,
) -> Float[Array, 'b k']:
  r"""Codes: the soft assignment of instances to prototypes, all of them used alike, that has the highest scores.

  .. math:: Q = \mathrm{diag}(u) \, e^{p / \varepsilon} \, \mathrm{diag}(w) \approx
            \arg\max_Q \; \sum_{ik} Q_{ik} p_{ik} + \varepsilon H(Q), \qquad
            \sum_k Q_{ik} = 1, \quad \sum_i Q_{ik} = \frac{B}{K}

  Each iteration scales the columns to their sums and then the rows to theirs, so rows sum to 1 and columns to B / K
  only nearly, and in the limit of many iterations. All in the logarithm, where no score is too large.

  Args:
    scores: p, of each instance with each prototype; cosines in SwAV.
    eps: epsilon; as it falls, codes become one-hot.
    iterations: of the scaling, at least 1.
    where: instances that take part (all of them by default). The others get the codes of the same w, and change none.

  Returns:
    `[B, K]`, float32 at least.

  Raises:
    ValueError: `scores` are not `[B, K]`, eps <= 0, less than one iteration, a call inside `shard_map` or `pmap`.

  Source: Caron et al., 2020, section 3.1, with the order of its code; Cuturi, 2013.
  """
  inputs.check_whole('sinkhorn')
  inputs.check_positive('eps', eps)
  _check_scores(scores, iterations, where)
  logits = inputs.wide(scores) / eps
  kept = None if where is None else where[:, None]

  def scaled(_, log_u):
    log_w = -jax.nn.logsumexp(logits + log_u, 0, keepdims=True, where=kept)
    return -jax.nn.logsumexp(logits + log_w, 1, keepdims=True)

  # w is a function of u, and the last u is that of the last w: a row's softmax.
  log_u = jax.lax.fori_loop(0, iterations - 1, scaled, jnp.zeros_like(logits, shape=(len(logits), 1)))
  log_w = -jax.nn.logsumexp(logits + log_u, 0, keepdims=True, where=kept)
  return jax.nn.softmax(logits + log_w, 1)


def _check_codes(scores, codes):
  inputs.check_views(scores, name='scores')
  inputs.check_floats(codes=codes)
  if codes.ndim != 3 or codes.shape[1:] != scores.shape[1:] or not 1 <= len(codes) <= len(scores):
    raise Refusal(
      f'codes must be [A, B, K] of the first A crops of the scores, {scores.shape}, but they are {codes.shape}'
    )


def swapped_prediction(
  scores: Float[Array, 'v b k'],
  codes: Float[Array, 'a b k'],
  *,
  temperature: float | Float[Array, ''] = 0.1,
) -> Float[Array, ' b']:
  r"""SwAV: every crop predicts the codes of the other crops.

  .. math:: \ell_i = -\frac{1}{A (V - 1)} \sum_{a} \sum_{v \ne a} \sum_k
            q_{a,ik} \log \mathrm{softmax}_k \Big( \frac{p_{v,i}}{\tau} \Big)

  Codes are constants: they get no gradient.

  Args:
    scores: p, `[V, B, K]`, of all crops, V >= 2.
    codes: q, `[A, B, K]`, of the first A crops, each row a distribution over the prototypes.
    temperature: tau.

  Returns:
    `[B]`: no less than the mean entropy of the instance's codes.

  Raises:
    ValueError: `scores` are not `[V, B, K]`, V < 2, codes of another shape or of more crops, a temperature <= 0.

  Source: Caron et al., 2020, eq. 1 and 2, with multi-crop as in eq. 6.
  """
  inputs.check_temperature(temperature)
  _check_codes(scores, codes)
  predictions = jax.nn.log_softmax(inputs.wide(scores) / temperature, -1)
  codes = jax.lax.stop_gradient(inputs.wide(codes))
  each = -jnp.einsum('abk,vbk->avb', codes, predictions, precision='highest')
  other = ~jnp.eye(len(codes), len(scores), dtype=bool)[:, :, None]
  return jnp.where(other, each, 0).sum((0, 1)) / (len(codes) * (len(scores) - 1))
