"""Symile: a contrastive loss of any number of modalities, which scores whole tuples."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature
from contrastive_jax.losses.softmax import symmetric_info_nce
from contrastive_jax.similarity import Fold, Similarity, crosses, logsumexp
from contrastive_jax.types import Refusal, nearest

__all__ = ['mip_scores', 'pairwise_clip', 'symile']

NEGATIVES = ('n', 'n_squared')


def _check(reps, temperature=1.0, negatives='n', fold='auto'):
  if len(reps) < 2:
    raise Refusal(f'reps must be two or more modalities, but there are {len(reps)}')
  for place, rep in enumerate(reps):
    inputs.check_sides(reps[0], rep, equal=True, names=('reps[0]', f'reps[{place}]'))
  inputs.check_temperature(temperature)
  if negatives not in NEGATIVES:
    raise Refusal(f"unknown negatives '{negatives}'{nearest(str(negatives), NEGATIVES)}")
  if crosses(fold):
    raise Refusal('symile mixes rows of all devices: call it on global arrays, not inside shard_map or pmap')


def _product(arrays):
  return functools.reduce(operator.mul, arrays)


def _rows(x: Float[Array, 'b d'], index: Int[Array, ' b']) -> Float[Array, 'b d']:
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
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""The sum of the losses of CLIP over all pairs of modalities, :math:`\sum_{m < n} \mathrm{CLIP}(r^m, r^n)_i`.

  Args:
    reps: two or more modalities, each `[B, D]`, unit norm.
    temperature: divides similarities; one scalar for all pairs.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per tuple, `[B]`.

  Raises:
    ValueError: fewer than two modalities, shapes that differ, and as in `info_nce`.

  Source: the baseline of Saporta et al., 2024, as in its repository, rajesh-lab/symile.
  """
  _check(reps)
  pairs = [(m, n) for n in range(len(reps)) for m in range(n)]
  loss = functools.partial(symmetric_info_nce, temperature=temperature, fold=fold, precision=precision)
  return jnp.stack([loss(reps[m], reps[n]) for m, n in pairs]).sum(0)


def symile(
  reps: Sequence[Float[Array, 'b d']],
  *,
  temperature: Temperature = 0.07,
  negatives: str = 'n',
  key: Key[Array, ''] | None = None,
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
  temperatures than CLIP does. A missing modality is the encoder's matter: it embeds a placeholder.

  Args:
    reps: M >= 2 modalities, each `[B, D]`, unit norm.
    temperature: divides MIPs; a scalar. The official code multiplies by a learnt scale, its inverse, and starts its
      binary example (D = 16) at a scale of exp(-0.3).
    negatives: 'n' or 'n_squared'.
    key: of the permutations of 'n', which needs one, the same on every device; unused by 'n_squared'.
    fold: as in `info_nce`. Inside the caller's own `shard_map` or `pmap` only `local()`: what one device holds cannot
      be permuted over all.
    precision: as in `info_nce`.

  Returns:
    One value per tuple, `[B]`.

  Raises:
    ValueError: fewer than two modalities, unknown negatives, no key, and as in `info_nce`.

  Source: Saporta et al., 2024, "Contrasting with Symile: Simple Model-Agnostic Representation Learning for Unlimited
  Modalities", and its repository, rajesh-lab/symile.
  """
  _check(reps, temperature, negatives, fold)
  reps = [inputs.wide(rep) for rep in reps]
  true = _product(reps).sum(-1) / temperature
  parts = [(rep / temperature, reps[:m] + reps[m + 1 :]) for m, rep in enumerate(reps)]
  # One after the other: `lax.map` over anchors would hold a few copies of all embeddings.
  if negatives == 'n_squared':
    losses = [_among_all(anchors, others, fold, precision) - true for anchors, others in parts]
    return jnp.stack(losses).mean(0)
  if key is None:
    raise Refusal("negatives='n' permutes the other modalities: pass key=jax.random.key(...)")
  keys = jax.random.split(key, (len(reps), len(reps) - 1))
  losses = [
    _among_shuffled(anchors, _shuffled(others, keys[m]), true, fold, precision)
    for m, (anchors, others) in enumerate(parts)
  ]
  return jnp.stack(losses).mean(0)


def _shuffled(others, keys):
  """Products of rows that meet by chance."""
  count = others[0].shape[0]
  return _product([_rows(rep, jax.random.permutation(k, count)) for rep, k in zip(others, keys, strict=True)])


def _among_shuffled(anchors, candidates, true, fold, precision):
  """Cross-entropy of the true product, in the place of the anchor's own candidate."""

  def other(pair):
    return pair.anchor['position'] != pair.other['position']

  op = Similarity({'z': anchors}, {'z': candidates}, fold=fold, precision=precision)
  (negatives,), _ = op.reduce([logsumexp(over=other)])
  return jax.nn.softplus(negatives - true)


def _among_all(anchors, others, fold, precision):
  """log sum exp over all tuples of rows: all rows of the first modality, all shifts of the rest one after the other."""
  first, *rest = others
  count = first.shape[0]
  digits = count ** jnp.arange(len(rest), dtype=jnp.int32)

  # Without the checkpoint every shift would leave its products behind for the backward pass.
  @jax.checkpoint
  def of_shifts(number):
    shifts = number // digits % count
    rolled = [_rows(rep, (jnp.arange(count) + shifts[r]) % count) for r, rep in enumerate(rest)]
    op = Similarity({'z': anchors}, {'z': _product([first, *rolled])}, fold=fold, precision=precision)
    (lse,), _ = op.reduce([logsumexp()])
    return lse

  return jax.nn.logsumexp(jax.lax.map(of_shifts, jnp.arange(count ** len(rest))), axis=0)
