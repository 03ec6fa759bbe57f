"""Hydra (SimLAP): any two classes are positives, compared in the subspace that a gate of their pair selects."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.similarity import Fold, Similarity, dot, logsumexp, size, total
from contrastive_jax.types import Refusal

__all__ = ['gated_pair_nce']


def gated_pair_nce(
  x: Float[Array, 'b d'],
  gates: Float[Array, 'b d'],
  labels: Int[Array, ' b'],
  partners: Int[Array, ' b'],
  *,
  temperature: Temperature = 0.1,
  renormalize: bool = False,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Contrast of arbitrary pairs of classes behind gates, the loss of Hydra (SimLAP).

  .. math:: \ell_i = \frac{B}{P} \sum_{p : y_p = y'_i} \Big( \log \big( e^{s_{ip}}
            + \sum_{n : y_n \notin \{y_i, y'_i\}} e^{s_{in}} \big) - s_{ip} \Big),
            \qquad s_{in} = \langle g_i \odot x_i, g_i \odot x_n \rangle / \tau

  P is the number of positive pairs of the batch, so the mean over rows is the mean over pairs. Positives do not compete
  with each other. Candidates of the anchor's own class are ignored unless it is the partner; then the anchor is a
  positive of itself. With `renormalize` the similarity is the cosine of the two gated embeddings; without, a closed
  gate makes logits small. No `[B, B, D]` array is made: the similarity is the inner product of
  :math:`g_i^2 \odot x_i` with :math:`x_n`, and the gated norms are that of :math:`g_i^2` with :math:`x_n^2`.

  Args:
    x: `[B, D]`, unit norm.
    gates: g, `[B, D]`: of the pair of classes (y, y') of each row, from 0 to 1.
    labels: y, integers `[B]`. Rows of label -1 are no candidates.
    partners: y', integers `[B]`: the class that is positive for the row; where it is -1 there is none.
    temperature: divides similarities; a scalar.
    renormalize: without (the latest release), or with (the earlier one).
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per row, `[B]`; 0 for rows without positives.

  Raises:
    ValueError: `gates` of another shape than x; labels or partners that are not integers `[B]`; a static temperature
      <= 0; an unknown fold or precision.

  Source: Wu et al., 2024, "Rethinking Positive Pairs in Contrastive Learning", in the form of its two releases.
  """
  inputs.check_sides(x, gates, equal=True, names=('x', 'gates'))
  inputs.check_entries(len(x), labels=labels, partners=partners)
  inputs.check_temperature(temperature)
  if not isinstance(renormalize, bool):
    raise Refusal(f'renormalize must be True or False, but it is {renormalize}')
  rows, cols = _gated(inputs.wide(x), inputs.wide(gates), temperature, renormalize)
  rows |= {'label': jnp.asarray(labels), 'partner': jnp.asarray(partners)}
  cols['label'] = rows['label']
  logit = _cosine if renormalize else dot
  (negatives,), _ = Similarity(rows, cols, fold=fold, precision=precision).reduce([logsumexp(logit, _negative)])
  # The logarithm of no negatives, -inf, has no gradient: a value below every logit stands for it.
  rows['negatives'] = jnp.where(jnp.isneginf(negatives), _NOTHING, negatives)
  term = total(lambda pair: jax.nn.softplus(pair.anchor['negatives'] - logit(pair)), _positive)
  (values, found), _ = Similarity(rows, cols, fold=fold, precision=precision).reduce([term, size(_positive)])
  ones = jnp.ones((1, 1), values.dtype)
  (pairs, count), _ = Similarity({'z': ones}, {'z': found[:, None]}, fold=fold).reduce([total(), size()])
  return values * count[0] / jnp.maximum(pairs[0], 1)


def _gated(x, gates, temperature, renormalize: bool):
  """Entries of rows and columns: what is not of the inner product itself travels with the instances."""
  square, squares = jnp.square(gates), jnp.square(x)
  rows, cols = {'z': square * x / jnp.asarray(temperature, x.dtype)}, {'z': x}
  if renormalize:
    rows['z'] *= jax.lax.rsqrt(jnp.maximum((square * squares).sum(-1, keepdims=True), _LEAST))
    rows['gate'], cols['square'] = square, squares
  return rows, cols


_LEAST = 1e-24  # of a squared norm
_NOTHING = -1e30


def _cosine(pair):
  norm = jnp.dot(pair.anchor['gate'], pair.other['square'], precision='highest')
  return pair.dot * jax.lax.rsqrt(jnp.maximum(norm, _LEAST))


def _positive(pair):
  return (pair.other['label'] == pair.anchor['partner']) & (pair.other['label'] >= 0)


def _negative(pair):
  label = pair.other['label']
  return (label >= 0) & (label != pair.anchor['label']) & (label != pair.anchor['partner'])
