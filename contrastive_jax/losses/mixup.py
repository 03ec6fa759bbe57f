r"""SupReMix: supervised contrastive learning for regression, with mixtures of embeddings as hard pairs.

Mixtures are constants. They are not scaled to unit norm, so that their similarities are mixtures of similarities and no
mixture is ever made:

- mixed negatives :math:`a z_i + (1 - a) z_k` of the anchor and each row k of another label, one each, with a drawn for
  every pair and the label mixed alike;
- mixed positives :math:`a z_j + (1 - a) z_k` of rows whose labels bracket the anchor's, :math:`y_j < y_i < y_k`, with
  :math:`a = (y_k - y_i) / (y_k - y_j)`, so that the mixed label is the anchor's.

Brackets number B^3, of which the official code takes all within a window of labels. Here some rows on either side of
the anchor's label are drawn from the window, without replacement, and all pairs of these are mixed. Two faults of that
code are not followed: it shifts real and mixed logits by maxima of their own before it adds their exponentials, and
weighs mixtures by labels of other mixtures.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, Key, Num

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.similarity import Fold, Similarity, logsumexp, size, top, total, valid
from contrastive_jax.types import Refusal, nearest

__all__ = ['sup_re_mix']

# Logarithms of the weights of candidates in the denominator, of the difference of labels.
_LOG_WEIGHTS: dict[str, Callable] = {
  'l1': lambda gap: jnp.log1p(jnp.abs(gap)),
  'l2': lambda gap: jnp.log1p(jnp.square(gap)),
  'inverse_l1': lambda gap: -jnp.log1p(jnp.abs(gap)),
  'inverse_l2': lambda gap: -jnp.log1p(jnp.square(gap)),
  'none': jnp.zeros_like,
}
_SIDES = ('below', 'above')  # of an anchor's label


# --- random numbers of a pair: functions of its two positions, the same in every tile, fold and device ---


def _uniforms(words: Int[Array, '2'], anchor: Int[Array, ''], other: Int[Array, '']) -> list[Float[Array, '']]:
  """Two uniforms in (0, 1] of an ordered pair of positions."""
  bits = threefry_2x32(words, jnp.stack([anchor, other]).astype(jnp.uint32))
  return [((b >> 8).astype(jnp.float32) + 1) * 2.0**-24 for b in bits]


def _draws(key, beta: tuple[int, int]) -> Callable[..., Float[Array, '']]:
  """`(anchor, other) -> share`, drawn from Beta(a, b) for an ordered pair of positions."""
  words = jax.random.bits(key, (-(-min(beta) // 2), 2), 'uint32')
  return functools.partial(_share, words, beta)


def _share(words: Int[Array, 'k 2'], beta: tuple[int, int], anchor, other) -> Float[Array, '']:
  r"""A share drawn from Beta(a, b) for an ordered pair of positions.

  It is the a-th smallest of a + b - 1 uniforms. The largest of n uniforms is distributed as :math:`U^{1/n}`, and the
  largest of the rest, over that, as :math:`U^{1/(n-1)}`: so 1 less it is a product of a powers of uniforms.
  """
  few, n = min(beta), sum(beta) - 1
  drawn = [u for word in words for u in _uniforms(word, anchor, other)][:few]
  log_product = sum(jnp.log(u) / (n - rank) for rank, u in enumerate(drawn))
  return -jnp.expm1(log_product) if beta[0] == few else jnp.exp(log_product)


# --- the loss ---


def _check(z, labels, key, temperature, window, weight, mixes: bool, beta, neighbours):
  inputs.check_views(z, at_least=1)
  inputs.check_temperature(temperature)
  inputs.check_array('labels', labels, jnp.number, 'numbers')
  if labels.shape != z.shape[1:2] or not jnp.issubdtype(labels.dtype, jnp.number):
    raise Refusal(f'labels must be one number an instance, [{z.shape[1]}], but they are {labels.dtype} {labels.shape}')
  if jnp.issubdtype(labels.dtype, jnp.integer) and not isinstance(labels, jax.core.Tracer):
    with jax.ensure_compile_time_eval():
      largest = int(abs(jnp.asarray(labels)).max())
    if largest > 2**24:
      raise Refusal(f'labels beyond 2^24 are not told apart in float32, but one is {largest}')
  if weight not in _LOG_WEIGHTS:
    raise Refusal(f"unknown weight '{weight}'{nearest(str(weight), _LOG_WEIGHTS)}")
  inputs.check_positive('window', window)
  if mixes and key is None:
    raise Refusal('mixtures are drawn at random: pass key=jax.random.key(...), or mix neither negatives nor positives')
  if len(beta) != 2 or not all(isinstance(each, int) and each > 0 for each in beta):
    raise Refusal(f'beta must be two positive integers, but it is {beta}')
  if not (isinstance(neighbours, int) and neighbours > 0):
    raise Refusal(f'neighbours must be a positive integer, but it is {neighbours!r}')


def sup_re_mix(
  z: Float[Array, 'v b d'],
  labels: Num[Array, ' b'],
  *,
  key: Key[Array, ''] | None = None,
  temperature: Temperature = 0.3,
  window: float = 5.0,
  weight: str = 'l1',
  mix_negative: bool = True,
  mix_positive: bool = True,
  beta: tuple[int, int] = (2, 8),
  neighbours: int = 4,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""SupReMix: supervised contrastive learning for regression, with mixtures as hard negatives and positives.

  .. math:: \ell_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \frac{z_i^\top p}{\tau}
            + \log \sum_{c \in C_i} (1 + |y_i - y_c|) \exp \frac{z_i^\top c}{\tau}

  An anchor is any view of any instance. Its candidates C are all other rows, mixed negatives and mixed positives; its
  positives P are the rows of equal label and the mixed positives. The module says what the mixtures are.

  Args:
    z: `[V, B, D]`, unit norm, V >= 1; two views in the paper.
    labels: numbers `[B]`.
    key: of the shares and the neighbours, the same on every device.
    temperature: divides similarities; a scalar.
    window: how far the labels of a bracket may be from the anchor's, exclusive; 5 (years of age) in the paper.
    weight: of a candidate, by the difference d of labels: 'l1' 1 + abs(d), 'l2' 1 + d^2, 'inverse_l1' and 'inverse_l2'
      their reciprocals, 'none' 1.
    mix_negative: whether there are mixed negatives.
    mix_positive: whether there are mixed positives. With neither and weight 'none' it is `sup_con`.
    beta: of the anchor's share in a mixed negative, positive integers; the official code offers (8, 2) and (5, 5) too.
    neighbours: most rows on either side of which brackets are made; with as many as the window holds, all are.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns:
    One value per anchor, `[V, B]`; 0 for anchors without positives.

  Raises:
    ValueError: as in `nt_xent`; labels or options that do not fit, no key though something is mixed.

  Source: Wu et al., 2023, "Mixup Your Own Pairs", and yilei-wu/SupReMix.
  """
  _check(z, labels, key, temperature, window, weight, mix_negative or mix_positive, beta, neighbours)
  z, views = inputs.wide(z), z.shape[0]
  rows, log_weight, temperature = inputs.flatten(z), _LOG_WEIGHTS[weight], jnp.asarray(temperature, z.dtype)
  labels = _of_rows(labels, z)
  found = [_real(rows, labels, temperature, log_weight, fold, precision)]
  if key is not None and (mix_negative or mix_positive):
    of_negatives, of_positives = jax.random.split(key)
    drawn = _draws(of_negatives, beta) if mix_negative else None
    chosen = _neighbours(labels, of_positives, window, neighbours, fold) if mix_positive else None
    found += _mixed(rows, labels, temperature, log_weight, drawn, chosen, fold, precision)
  return inputs.unflatten(_value(found), views)


def _of_rows(labels, z):
  """The labels of the rows of `flatten`, which have no gradient."""
  return jax.lax.stop_gradient(inputs.of_rows(jnp.asarray(labels, z.dtype), z.shape[0]))


def _value(found):
  """From what each kind of candidates has: its log-sum-exp, and the sum and the number of its positives' logits."""
  energies, logits, counts = zip(*found, strict=True)
  energy, count = functools.reduce(jnp.logaddexp, energies), sum(counts)
  some = count > 0
  return jnp.where(some, jnp.where(some, energy, 0) - sum(logits) / jnp.maximum(count, 1), 0)


def _equal(pair):
  return valid(pair) & (pair.anchor['label'] == pair.other['label'])


def _real(rows, labels, temperature, log_weight, fold, precision):
  """Weighted log-sum-exp over all other rows, and the sum and the number of the positives' logits."""
  op, logit = inputs.symmetric(rows, temperature, {'label': labels}, fold, precision)
  weighted = logsumexp(lambda pair: logit(pair) + log_weight(pair.anchor['label'] - pair.other['label']))
  found, _ = op.reduce([weighted, total(logit, _equal), size(_equal)])
  return found


def _neighbours(labels, key, window, count: int, fold) -> list[Int[Array, 'n s']]:
  """Positions of rows whose labels are below and above the anchor's, drawn within the window; -1 where fewer."""
  rows, words = {'z': jnp.ones_like(labels)[:, None], 'label': labels}, jax.random.bits(key, (2,), 'uint32')

  def priority(pair):
    return _uniforms(words, pair.anchor['position'], pair.other['position'])[0].astype(pair.dot.dtype)

  def beside(sign: int):
    def over(pair):
      gap = sign * (pair.other['label'] - pair.anchor['label'])
      return (gap > 0) & (gap < window)

    return over

  op = Similarity(rows, fold=fold)
  (below, above), _ = op.reduce([top(count, priority, beside(-1)), top(count, priority, beside(1))])
  return [below[1], above[1]]


def _mixed(rows, labels, temperature, log_weight, share, chosen, fold, precision):
  """What mixed negatives and mixed positives have, as far as there are any.

  One pass serves both, as they are of the same rows. Two would also be two loops of which neither waits for the other,
  and the simulated devices of a CPU may mistake the messages of the one for those of the other.
  """
  constant = jax.lax.stop_gradient(rows)
  anchors, others = {'z': rows / temperature, 'label': labels}, {'z': constant, 'label': labels}
  terms = []
  if share is not None:
    anchors['self'] = (anchors['z'] * constant).sum(-1)
    terms.append(_mixed_negatives(share, log_weight))
  if chosen is not None:
    anchors |= dict(zip(_SIDES, chosen, strict=True))
    terms += _read(chosen[0].shape[1])
  read, _ = Similarity(anchors, others, fold=fold, precision=precision).reduce(terms)
  found = []
  if share is not None:
    found.append((read[0], jnp.zeros_like(read[0]), jnp.zeros_like(read[0])))
  if chosen is not None:
    found.append(_brackets(anchors, read[len(found) :]))
  return found


def _mixed_negatives(share, log_weight):
  """The weighted log-sum-exp over one mixture of the anchor with each row of another label."""

  def value(pair):
    a = share(pair.anchor['position'], pair.other['position']).astype(pair.dot.dtype)
    mixed = a * pair.anchor['self'] + (1 - a) * pair.dot
    return mixed + log_weight((1 - a) * (pair.anchor['label'] - pair.other['label']))

  return logsumexp(value, lambda pair: pair.anchor['label'] != pair.other['label'])


def _read(count: int):
  """Terms that read the logits and then the labels of the chosen rows: `count` below, as many above."""

  def at(side: str, place: int):
    return lambda pair: pair.anchor[side][place] == pair.other['position']

  sets = [at(side, place) for side in _SIDES for place in range(count)]
  return [total(over=over) for over in sets] + [total(lambda pair: pair.other['label'], over) for over in sets]


def _brackets(anchors, read):
  """Log-sum-exp, sum and number of the logits of all mixtures of a chosen row below with one above."""
  halves = read[: len(read) // 2], read[len(read) // 2 :]
  logit, label = (jnp.stack(half, 1).reshape(-1, 2, len(half) // 2) for half in halves)
  below, above = (anchors[side] >= 0 for side in _SIDES)
  exists = below[:, :, None] & above[:, None, :]
  apart = label[:, 1, None, :] - label[:, 0, :, None]
  share = (label[:, 1] - anchors['label'][:, None])[:, None, :] / jnp.where(exists, apart, 1)
  mixed = jnp.where(exists, share * logit[:, 0, :, None] + (1 - share) * logit[:, 1, None, :], 0)
  energy = jax.nn.logsumexp(mixed, axis=(1, 2), where=exists)
  return energy, mixed.sum((1, 2)), exists.sum((1, 2)).astype(mixed.dtype)
