"""Health of embeddings: what contrastive losses of several temperatures see of them, from one pass over the pairs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from contrastive_jax.losses import inputs
from contrastive_jax.similarity import Fold, Similarity, Term, crosses, logsumexp, size
from contrastive_jax.types import Refusal

__all__ = ['Health', 'health']


class Health(NamedTuple):
  """Statistics of embeddings; those of `[k]` are one for each temperature. `health` says what each of them is."""

  loss: Float[Array, ' k']
  entropy: Float[Array, ' k']
  uniformity: Float[Array, '']
  histogram: Float[Array, ' bins']
  positive: Float[Array, '']
  false_negatives: Float[Array, '']
  false_negative_weight: Float[Array, ' k']


def _scaled(scale) -> Callable:
  """The logit less that of a cosine of 1: at most 0, and small where it counts."""
  return lambda pair: scale * (pair.dot - 1)


def _tilted(scale) -> Callable:
  """`_scaled`, plus the logarithm of 1 more than its magnitude."""
  # The entropy needs an expected logit, sum(v e^v) / sum(e^v). As a log-sum-exp of v + log(1 - v), 1 - v >= 1, it comes
  # from this pass and never overflows; the gradient of a log-sum-exp in its scale would be a second pass. Rounding
  # grows with the distance of the hardest negative from the anchor, in logits: mean entropies of random rows are off by
  # 1e-7 at temperatures down to 0.05, and by 3e-6 at 0.005. A rounded cosine may be slightly more than 1.
  return lambda pair: scale * (pair.dot - 1) + jnp.log1p(jnp.maximum(scale * (1 - pair.dot), 0))


def _terms(views: int, scales, width, bins: int, labelled: bool) -> dict[str, list[Term]]:
  """The statistics of each anchor's negatives, by name."""
  negative = inputs.other_instance(views)

  def false_negative(pair):
    label = pair.anchor['label']
    return negative(pair) & (label == pair.other['label']) & (label >= 0)

  def inside(place):
    def over(pair):
      return negative(pair) & (jnp.clip(jnp.floor((pair.dot + 1) * (bins / 2)), 0, bins - 1) == place)

    return over

  found = {
    'energy': [logsumexp(_scaled(scale), negative) for scale in (*scales, width)],
    'tilted': [logsumexp(_tilted(scale), negative) for scale in scales],
    'counts': [size(inside(place)) for place in range(bins)],
  }
  if labelled:
    found['false'] = [logsumexp(_scaled(scale), false_negative) for scale in scales]
    found['false count'] = [size(false_negative)]
  return found


def _check(z, labels, temperatures, t, bins):
  inputs.check_views(z)
  if labels is not None and labels.shape != z.shape[1:2]:
    raise Refusal(f'labels must be one integer an instance, [{z.shape[1]}], but they are {labels.shape}')
  if not temperatures:
    raise Refusal('health needs one or more temperatures')
  for temperature in temperatures:
    inputs.check_temperature(temperature)
  inputs.check_positive('t', t)
  if bins < 1:
    raise Refusal(f'bins must be at least 1, but it is {bins}')


def health(
  z: Float[Array, 'v b d'],
  labels: Int[Array, ' b'] | None = None,
  *,
  temperatures: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0),
  t: float = 2,
  bins: int = 20,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Health:
  r"""What NT-Xent of several temperatures sees of embeddings, exact, from one pass over the pairs, without gradient.

  The negatives of an anchor are all views of other instances, :math:`V (B - 1)` of them; those with the anchor's label
  are false. At temperature :math:`\tau` a negative of cosine s repels the anchor by its share of the softmax,

  .. math:: r_c = \frac{e^{s_c / \tau}}{\sum_{c'} e^{s_{c'} / \tau}} \quad \text{over negatives } c, c'.

  Args:
    z: `[V, B, D]` views, instances, features; unit norm; V >= 2.
    labels: `[B]` integers; a label of -1 equals none. Without labels no negative is known to be false.
    temperatures: of the losses and the softmaxes, k of them.
    t: width of the potential in `uniformity`.
    bins: of the histogram, equal, over [-1, 1]; a cosine on the edge of two belongs to the upper one.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    `loss` [k]: mean over anchors of `nt_xent`.
    `entropy` [k]: mean over anchors of the entropy of r, divided by log(V (B - 1)): 1 where all negatives repel alike,
    0 where the hardest does alone.
    `uniformity`: that of all V B rows, pairs of two views of an instance included, as
    `uniformity(z.reshape(V * B, D), t=t)`.
    `histogram` [bins]: shares of the cosines between anchors and negatives.
    `positive`: mean cosine between different views of an instance.
    `false_negatives`: share of false negatives among negatives.
    `false_negative_weight` [k]: mean over anchors of the share r of their false negatives; nears `false_negatives` at
    high temperatures.

    What concerns negatives is 0 where there are none (B = 1), what concerns labels where there are none. No gradient
    passes: this is a diagnosis and no loss. Inside a caller's `shard_map` with `ring(axis)`, statistics of the local
    anchors, but `uniformity` of all devices' rows: `lax.pmean` of them all gives those of the whole batch.

  Raises:
    ValueError: as in `nt_xent`; labels that are not `[B]`; no temperature; t <= 0; bins < 1.

  Source: Wang and Liu, 2021 (r, "relative penalty", and the entropy that the temperature gives it); Wang and Isola,
  2020 (uniformity); Chuang et al., 2020 (false negatives).
  """
  _check(z, labels, temperatures, t, bins)
  z = inputs.wide(jax.lax.stop_gradient(z))
  views, b, _ = z.shape
  scales, width = [1 / temperature for temperature in temperatures], 2 * t
  rows = {'z': inputs.flatten(z)}
  if labels is not None:
    rows['label'] = jnp.broadcast_to(labels[:, None], (b, views)).reshape(-1)
  terms = _terms(views, scales, width, bins, labels is not None)
  statistics, _ = Similarity(rows, fold=fold, precision=precision).reduce([t for each in terms.values() for t in each])
  left = iter(statistics)
  found = {name: jnp.stack([next(left) for _ in each]) for name, each in terms.items()}
  return _summary(z, found, jnp.asarray([*scales, width], z.dtype), fold)


def _summary(z, found: dict[str, Array], scales: Float[Array, ' k+1'], fold) -> Health:
  """Means over anchors of the statistics `[..., n]`; the last of the scales is that of the uniformity."""
  views, some = z.shape[0], inputs.off_diagonal(z.shape[0])
  cosines = inputs.gram(z)
  logits = scales[:, None, None, None] * (cosines - 1)
  of_positives = jax.nn.logsumexp(logits, axis=-1, where=some).reshape(len(scales), -1)
  mean_positive = (jnp.where(some, logits, 0).sum(-1) / (views - 1)).reshape(len(scales), -1)
  energy = found['energy']
  of_all = jnp.logaddexp(energy, of_positives)

  count = found['counts'].sum(0)  # of negatives, the same for every anchor
  exist = count > 0
  away = jnp.where(exist, jnp.exp(found['tilted'] - energy[:-1]) - 1, 0)  # expected logits, below that of a cosine of 1
  entropy = jnp.where(exist, energy[:-1] + away, 0) / jnp.log(jnp.maximum(count, 2))
  if 'false' in found:
    share = (found['false count'][0] / jnp.maximum(count, 1)).mean()
    weight = jnp.where(exist, jnp.exp(found['false'] - energy[:-1]), 0).mean(1)
  else:
    share, weight = jnp.zeros((), z.dtype), jnp.zeros(len(scales) - 1, z.dtype)
  return Health(
    loss=(of_all - mean_positive)[:-1].mean(1),
    entropy=jnp.clip(entropy, 0, 1).mean(1),
    uniformity=_uniformity(of_all[-1], fold),
    histogram=(found['counts'] / jnp.maximum(count, 1)).mean(1),
    positive=(jnp.where(some, cosines, 0).sum((-1, -2)) / (views * (views - 1))).mean(),
    false_negatives=share,
    false_negative_weight=weight,
  )


def _uniformity(energy: Float[Array, ' n'], fold) -> Float[Array, '']:
  """The logarithm of the mean potential, from the log-sum of each row's potentials with all others."""
  if crosses(fold):
    potential, rows = inputs.global_logsumexp(energy, fold)
  else:
    potential, rows = jax.nn.logsumexp(energy), jnp.asarray(energy.size, energy.dtype)
  return potential - jnp.log(rows * (rows - 1))
