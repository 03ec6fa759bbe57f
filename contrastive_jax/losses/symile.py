"""Symile: a contrastive loss of any number of modalities, which scores whole tuples."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.losses.softmax import symmetric_info_nce
from contrastive_jax.similarity import Fold, Similarity, crosses, logsumexp, valid
from contrastive_jax.types import Refusal, nearest

__all__ = ['mip_scores', 'pairwise_clip', 'symile']

NEGATIVES = ('n', 'n_squared')
TupleMask = Bool[Array, 'b m'] | None


def _check(reps, mask, temperature=1.0, negatives='n', fold='auto'):
  if len(reps) < 2:
    raise Refusal(f'reps must be two or more modalities, but there are {len(reps)}')
  for place, rep in enumerate(reps):
    inputs.check_sides(reps[0], rep, equal=True, names=('reps[0]', f'reps[{place}]'))
  if mask is not None:
    inputs.check_array('mask', mask, jnp.bool_, 'boolean')
    if mask.shape != (len(reps[0]), len(reps)):
      needed = f'an entry for each tuple and modality, [{len(reps[0])}, {len(reps)}]'
      raise Refusal(f'mask must have {needed}, but it is {list(mask.shape)}')
  inputs.check_temperature(temperature)
  if negatives not in NEGATIVES:
    raise Refusal(f"unknown negatives '{negatives}'{nearest(str(negatives), NEGATIVES)}")
  if crosses(fold):
    raise Refusal('symile mixes rows of all devices: call it on global arrays, not inside shard_map or pmap')


def _product(arrays):
  return functools.reduce(operator.mul, arrays)


def _rows(x: Array, index: Int[Array, ' b']) -> Array:
  """The rows of x at these places, split over devices as x is."""
  return x.at[index].get(out_sharding=jax.typeof(x).sharding)


def mip_scores(
  candidates: Float[Array, 'c d'], queries: Sequence[Float[Array, 'q d']], *, temperature: Temperature = 1.0
) -> Float[Array, 'q c']:
  r"""Multilinear inner products of each query with a few candidates, :math:`\sum_d c_d q^1_d q^2_d \cdots / \tau`.

  The candidates are of one modality (the embeddings of the classes, say), a query is one row of each of the others.

  Args:
    candidates: `[C, D]`.
    queries: one or more arrays `[Q, D]`.
    temperature: divides the scores.

  Returns:
    `[Q, C]`: made for few candidates.

  Raises:
    ValueError: shapes that do not fit, no queries.

  Source: Saporta et al., 2024.
  """
  if not queries:
    raise Refusal('queries must be one or more modalities, but there are none')
  for query in queries:
    inputs.check_sides(query, candidates, names=('each query', 'candidates'))
  query = _product([inputs.wide(query) for query in queries])
  return jnp.matmul(query, inputs.wide(candidates).T, precision='highest') / temperature


def pairwise_clip(
  reps: Sequence[Float[Array, 'b d']],
  *,
  temperature: Temperature = 0.07,
  mask: TupleMask = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""The sum of the losses of CLIP over all pairs of modalities, :math:`\sum_{m < n} \mathrm{CLIP}(r^m, r^n)_i`.

  Args:
    reps: two or more modalities, each `[B, D]`, unit norm.
    temperature: divides similarities; one scalar for all pairs.
    mask: `[B, M]`, False for what a tuple lacks. Its pairs with that are neither anchors nor candidates.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per tuple, `[B]`.

  Raises:
    ValueError: fewer than two modalities, shapes that differ, and as in `info_nce`.

  Source: the baseline of Saporta et al., 2024, as in its repository, rajesh-lab/symile.
  """
  _check(reps, mask)

  def of_pair(m: int, n: int):
    there = None if mask is None else mask[:, m] & mask[:, n]
    how: dict[str, Any] = dict(x_mask=there, y_mask=there, fold=fold, precision=precision)
    return symmetric_info_nce(reps[m], reps[n], temperature=temperature, **how)

  return jnp.stack([of_pair(m, n) for n in range(len(reps)) for m in range(n)]).sum(0)


def symile(
  reps: Sequence[Float[Array, 'b d']],
  *,
  temperature: Temperature = 0.07,
  negatives: str = 'n',
  key: Key[Array, ''] | None = None,
  mask: TupleMask = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Symile: each modality finds the rest of its tuple, scored by the multilinear inner product (MIP).

  .. math:: \ell_i = \frac1M \sum_m \Big( -s_i + \log \sum_{c \in C_{m,i}} \exp \frac{\langle r^m_i, c \rangle}{\tau}
            \Big), \qquad s_i = \frac1\tau \sum_d \prod_m r^m_{i,d}

  A candidate c is the elementwise product of one row of each other modality, and the true one is among them.

  'n': B candidates. Each other modality is permuted by itself, anew for every m, the permuted rows are multiplied, and
  the i-th product gives way to the true one. A true product may return as a negative.
  'n_squared': all :math:`B^{M-1}` tuples of the other modalities' rows, partly matching ones included; time
  :math:`B^M`, memory :math:`B^{M-1}` numbers besides the tiles. With M = 2 it is symmetric InfoNCE.

  The MIP of M independent unit rows has a standard deviation of about :math:`D^{(1 - M) / 2}`, so it takes smaller
  temperatures than CLIP does. In the paper a missing modality is the encoder's matter, which embeds a placeholder;
  `mask` leaves it out.

  Args:
    reps: M >= 2 modalities, each `[B, D]`, unit norm.
    temperature: divides MIPs; a scalar. The official code multiplies by a learnt scale, its inverse, and starts its
      binary example (D = 16) at a scale of exp(-0.3).
    negatives: 'n' or 'n_squared'.
    key: of the permutations of 'n', which needs one, the same on every device; unused by 'n_squared'.
    mask: `[B, M]`, False for what a tuple lacks: it is part of no candidate, and the tuple is no anchor.
    fold: as in `info_nce`. Inside the caller's own `shard_map` or `pmap` only `local()`: what one device holds cannot
      be permuted over all.
    precision: as in `info_nce`.

  Returns `[B]`, one value per tuple; 0 for those that are no anchors.

  Raises:
    ValueError: fewer than two modalities, unknown negatives, no key, and as in `info_nce`.

  Source: Saporta et al., 2024, "Contrasting with Symile: Simple Model-Agnostic Representation Learning for Unlimited
  Modalities", and its repository, rajesh-lab/symile.
  """
  _check(reps, mask, temperature, negatives, fold)
  reps = [inputs.wide(rep) for rep in reps]
  true = _product(reps).sum(-1) / temperature
  there = [None] * len(reps) if mask is None else [*jnp.asarray(mask).T]
  parts = [(rep / temperature, _without(m, reps), _without(m, there)) for m, rep in enumerate(reps)]
  # One after the other: `lax.map` over anchors would hold copies of all embeddings.
  if negatives == 'n_squared':
    losses = [_among_all(*part, fold, precision) - true for part in parts]
  else:
    losses = [
      _among_shuffled(anchors, _shuffled(others, exist, own), true, fold, precision)
      for (anchors, others, exist), own in zip(parts, _keys(key, len(reps)), strict=True)
    ]
  values = jnp.stack(losses).mean(0)
  return values if mask is None else jnp.where(jnp.asarray(mask).all(1), values, 0)


def _keys(key, modalities: int) -> list[Key[Array, ' n']]:
  if key is None:
    raise Refusal("negatives='n' permutes the other modalities: pass key=jax.random.key(...)")
  return list(jax.random.split(key, (modalities, modalities - 1)))


def _without(m: int, of_modalities: list) -> list:
  return of_modalities[:m] + of_modalities[m + 1 :]


def _candidates(others, exist) -> dict[str, Array]:
  """The columns that products of rows are, and which of them lack nothing."""
  limits = [each for each in exist if each is not None]
  return {'z': _product(others)} | ({'mask': functools.reduce(operator.and_, limits)} if limits else {})


def _shuffled(others, exist, keys):
  """Products of rows that meet by chance."""
  orders = [jax.random.permutation(key, len(others[0])) for key in keys]
  parts = [[x if x is None else _rows(x, order) for x, order in zip(xs, orders, strict=True)] for xs in (others, exist)]
  return _candidates(*parts)


def _among_shuffled(anchors, candidates, true, fold, precision):
  """Cross-entropy of the true product, in the place of the anchor's own candidate."""

  def other(pair):
    return valid(pair) & (pair.anchor['position'] != pair.other['position'])

  op = Similarity({'z': anchors}, candidates, fold=fold, precision=precision)
  (negatives,), _ = op.reduce([logsumexp(over=other)])
  return jax.nn.softplus(negatives - true)


def _among_all(anchors, others, exist, fold, precision):
  """log sum exp over all tuples of rows: all rows of the first modality, all shifts of the rest one after the other."""
  count, rest = others[0].shape[0], len(others) - 1
  digits = count ** jnp.arange(rest, dtype=jnp.int32)

  # Without the checkpoint every shift would leave its products behind for the backward pass.
  @jax.checkpoint
  def of_shifts(number):
    shifts = number // digits % count

    def rolled(arrays):
      turned = [x if x is None else _rows(x, (jnp.arange(count) + shifts[r]) % count) for r, x in enumerate(arrays[1:])]
      return [arrays[0], *turned]

    op = Similarity({'z': anchors}, _candidates(rolled(others), rolled(exist)), fold=fold, precision=precision)
    (lse,), _ = op.reduce([logsumexp()])
    return lse

  found = jax.lax.map(of_shifts, jnp.arange(count**rest))
  # Anchors without candidates have no value, but the logarithm of nothing would have a gradient that is no number.
  return jax.nn.logsumexp(jnp.where(jnp.isneginf(found).all(0), 0, found), axis=0)
