"""Hubness: gallery items that are close to every query, how much there is of it, and scores that punish them.

Of a gallery's similarities S [q, g] to queries, those to a bank of other queries [m, g] or of other items like the
gallery's [l, g] tell which of its items are close to everything. Each item is divided by what the bank finds of it:

.. math:: \\mathrm{IS}(S)_{ij} = \\frac{e^{\\beta S_{ij}}}{\\sum_m e^{\\beta X_{mj}}}, \\qquad
          \\mathrm{DualIS}(S) = \\mathrm{IS}_A(S; \\beta) \\, \\mathrm{IS}_C(S; \\beta')

Every function returns logarithms of these: of use is only the order of an item among those of one query, a row.

Reference: Smith et al., 2017 (inverted softmax); Bogolin et al., 2022 (dynamic, with a bank of queries); Wang et al.,
2023, "Balance Act" (two banks; the formula above, as its code combines other matrices); Conneau et al., 2018 (CSLS).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax import similarity as sim

NORMALISATIONS = (
  'none',
  'inverted_softmax',
  'dual_inverted_softmax',
  'dynamic_inverted_softmax',
  'dynamic_dual_inverted_softmax',
  'csls',
)
# A factor that is left raw is a cosine plus 1: the product of two factors orders rows only if both are positive.
_LEAST = 1e-6


def factor(score, log_sum, beta, hub=True):
  """The logarithm of one factor: of the inverted softmax where the query's nearest item is a hub, else of 1 + S."""
  if hub is True:
    return beta * score - log_sum
  return jnp.where(hub, beta * score - log_sum, jnp.log(jnp.maximum(1 + score, _LEAST)))


def _log_sum(bank: Float[Array, 'm g'], beta: float) -> Float[Array, ' g']:
  return jax.nn.logsumexp(beta * bank, axis=0)


def inverted_softmax(scores: Float[Array, 'q g'], bank: Float[Array, 'm g'], *, beta: float) -> Float[Array, 'q g']:
  """log IS of the scores by one bank, of queries or of items."""
  return factor(scores, _log_sum(bank, beta), beta)


def dual_inverted_softmax(
  scores: Float[Array, 'q g'],
  queries: Float[Array, 'm g'],
  gallery: Float[Array, 'l g'],
  *,
  beta: float,
  gallery_beta: float,
) -> Float[Array, 'q g']:
  """log DualIS of the scores by a bank of queries and a bank of items like the gallery's."""
  return inverted_softmax(scores, queries, beta=beta) + inverted_softmax(scores, gallery, beta=gallery_beta)


def dynamic_mask(scores: Float[Array, 'q g'], bank: Float[Array, 'm g'], *, k: int = 1) -> Bool[Array, ' q']:
  """Queries whose nearest item is a hub: among the k nearest of some row of the bank."""
  _, nearest = jax.lax.top_k(bank, k)
  return jnp.zeros(scores.shape[1], bool).at[nearest.ravel()].set(True)[scores.argmax(1)]


def dynamic_inverted_softmax(
  scores: Float[Array, 'q g'], bank: Float[Array, 'm g'], *, beta: float, k: int = 1
) -> Float[Array, 'q g']:
  """`inverted_softmax` of the queries of `dynamic_mask`; the others keep their order, as log(1 + S)."""
  return factor(scores, _log_sum(bank, beta), beta, dynamic_mask(scores, bank, k=k)[:, None])


def dynamic_dual_inverted_softmax(
  scores: Float[Array, 'q g'],
  queries: Float[Array, 'm g'],
  gallery: Float[Array, 'l g'],
  *,
  beta: float,
  gallery_beta: float,
  k: int = 1,
) -> Float[Array, 'q g']:
  """The product of both banks' `dynamic_inverted_softmax`, each by the nearest items of the raw scores."""
  of_queries = dynamic_inverted_softmax(scores, queries, beta=beta, k=k)
  return of_queries + dynamic_inverted_softmax(scores, gallery, beta=gallery_beta, k=k)


def csls(scores: Float[Array, 'q g'], bank: Float[Array, 'm g'], *, k: int = 10) -> Float[Array, 'q g']:
  """2 S less the mean of each item's k largest similarities to the bank; the query's own mean changes no order."""
  largest, _ = jax.lax.top_k(bank.T, min(k, len(bank)))
  return factor(scores, largest.mean(1), 2.0)


# --- how much there is ---


def k_occurrence(nearest: Int[np.ndarray, 'q k'], size: int) -> Int[np.ndarray, ' g']:
  """Among the k nearest of how many queries each of `size` items is; -1 in `nearest` is none."""
  return np.bincount(nearest[nearest >= 0], minlength=size)


def skewness(counts: Int[np.ndarray, ' g']) -> float:
  """Third standardised moment of the counts, of all items; 0 where all are equal, large where few are hubs."""
  centred = np.asarray(counts, np.float64) - np.mean(counts)
  variance = np.square(centred).mean()
  return float((centred**3).mean() / variance**1.5) if variance > 0 else 0.0


# --- the same of embeddings, streamed over tiles ---


class Rule(NamedTuple):
  """Which normalisation; `hubness` says what its numbers are."""

  normalise: str = 'none'
  beta: float = 20.0
  gallery_beta: float = 3.0
  k: int = 1

  @property
  def dual(self) -> bool:
    """There is a bank of items beside that of queries."""
    return 'dual' in self.normalise

  @property
  def dynamic(self) -> bool:
    """Only queries whose nearest item is a hub are normalised."""
    return 'dynamic' in self.normalise


class Bank(NamedTuple):
  """Embeddings `[m, d]` of unit norm, and which of them exist."""

  z: Float[Array, 'm d']
  mask: Bool[Array, ' m']


@functools.partial(jax.jit, static_argnames='k')
def _neighbourhood(gallery, bank: Bank, *, k: int) -> Float[Array, ' g']:
  operator = sim.Similarity({'z': gallery}, {'z': bank.z, 'mask': bank.mask})
  ((largest, _),), _ = operator.reduce([sim.top(k)])
  some = ~jnp.isneginf(largest)
  return jnp.where(some, largest, 0).sum(1) / jnp.maximum(some.sum(1), 1)


@jax.jit
def _log_sum_over(gallery, bank: Bank, beta) -> Float[Array, ' g']:
  operator = sim.Similarity({'z': gallery * beta}, {'z': bank.z, 'mask': bank.mask})
  (found,), _ = operator.reduce([sim.logsumexp()])
  return jnp.where(jnp.isneginf(found), 0, found)  # an empty bank punishes nothing


@functools.partial(jax.jit, static_argnames='k')
def _hubs(gallery, there, bank: Bank, *, k: int) -> Bool[Array, ' g']:
  operator = sim.Similarity({'z': bank.z}, {'z': gallery, 'mask': there})
  ((_, nearest),), _ = operator.reduce([sim.top(k)])
  nearest = jnp.where(bank.mask[:, None] & (nearest >= 0), nearest, len(gallery))
  return jnp.zeros(len(gallery), bool).at[nearest.ravel()].set(True, mode='drop')


def of_gallery(gallery: Float[Array, 'g d'], there: Bool[Array, ' g'], queries: Bank, items: Bank | None, rule: Rule):
  """What a rule needs to know of the items of a gallery, as entries of a `Similarity`, and who is a hub by each bank.

  Args:
    gallery: of unit norm.
    there: which of its items exist.
    queries: a bank of queries.
    items: a bank of items like the gallery's; only dual rules read it.
    rule: which is not 'none'.
  """
  if rule.normalise == 'csls':
    return {'by_queries': _neighbourhood(gallery, queries, k=min(rule.k, len(queries.z)))}, {}
  banks = {'by_queries': (queries, rule.beta)}
  if rule.dual and items is not None:
    banks['by_items'] = (items, rule.gallery_beta)
  entries = {k: _log_sum_over(gallery, bank, jax.device_put(np.float32(b))) for k, (bank, b) in banks.items()}
  hubs = {}
  if rule.dynamic:
    hubs = {k: _hubs(gallery, there, bank, k=min(rule.k, len(gallery))) for k, (bank, _) in banks.items()}
  return entries, hubs


def score(cosine, anchor, other, rule: Rule):
  """The normalised score of one pair, from the entries that travel with the query and with the item."""
  if rule.normalise == 'none':
    return cosine
  if rule.normalise == 'csls':
    return factor(cosine, other['by_queries'], 2.0)
  found = factor(cosine, other['by_queries'], rule.beta, anchor.get('hub_by_queries', True))
  if rule.dual:
    found += factor(cosine, other['by_items'], rule.gallery_beta, anchor.get('hub_by_items', True))
  return found
