"""Preferences: how well rewards that a person may have are learned, from few comparisons, on frozen embeddings.

A reward is a random direction in the space of the true features (field `target`); of two rows that with the larger
reward is preferred. A logistic regression of the answers on differences of embeddings,

.. math:: P(A \\succ B) = \\sigma \\big( \\theta^\\top (\\phi_A - \\phi_B) \\big)

is fitted to a number of comparisons among even rows of split 'test', and predicts comparisons among odd rows.

Source: Bobu et al., 2023, "SIRL"; Christiano et al., 2017, for the likelihood.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float

from contrastive_jax.evals import evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Refusal

NUMBERS = (10, 30, 100)
_NEWTON = 15  # steps, after which the fit no longer changes


def glossary(numbers: tuple[int, ...] = NUMBERS) -> dict[str, str]:
  """One-line meanings of the metrics of these numbers of comparisons."""
  return {
    f'preferences/accuracy@{n}': f'share of new comparisons told right by a reward fitted to {n}; chance is 0.5'
    for n in numbers
  }


GLOSSARY = glossary()
MORE_IS_BETTER = tuple(GLOSSARY)


def fit(apart: Float[np.ndarray, 'r n d'], preferred: Bool[np.ndarray, 'r n'], l2: float) -> Float[np.ndarray, 'r d']:
  """Logistic regressions without intercept, one of each reward, by Newton's method.

  .. math:: \\min_\\theta \\sum_i \\log(1 + e^{-s_i \\theta^\\top x_i}) + \\tfrac{\\lambda}{2} \\|\\theta\\|^2
  """
  theta, eye = np.zeros((len(apart), apart.shape[2])), np.eye(apart.shape[2])
  for _ in range(_NEWTON):
    chance = 1 / (1 + np.exp(-np.einsum('rnd,rd->rn', apart, theta)))
    slope = np.einsum('rn,rnd->rd', chance - preferred, apart) + l2 * theta
    bend = np.einsum('rn,rnd,rne->rde', chance * (1 - chance), apart, apart) + l2 * eye
    theta = theta - np.linalg.solve(bend, slope[..., None])[..., 0]
  return theta


def _pairs(rng: np.random.Generator, rows: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Random pairs of different rows: a row and itself would always be told right."""
  first, second = rng.integers(len(rows), size=(2, *shape))
  return rows[first], rows[np.where(second == first, second + 1, second) % len(rows)]


def make(
  *,
  numbers: tuple[int, ...] = NUMBERS,
  rewards: int = 50,
  comparisons: int = 200,
  l2: float = 1.0,
  representation: str = 'features',
  seed: int = 0,
) -> Evaluator:
  """Accuracy on new comparisons after each of `numbers` comparisons, the mean over random rewards.

  Args:
    numbers: of comparisons that a reward is fitted to.
    rewards: drawn at random.
    comparisons: new ones that are predicted, of each reward.
    l2: strength of the squared penalty on the weights of standardised embeddings.
    representation: 'features' or 'projection'.
    seed: of rewards and comparisons.

  Raises:
    Refusal: here for options out of range; by `run` for data without targets, for fewer than four rows, and for
      embeddings that are not finite.
  """
  evaluator.check_representation(representation)
  evaluator.check_seed(seed)
  if not numbers or min(numbers) < 1 or rewards < 1 or comparisons < 1 or l2 <= 0:
    raise Refusal(
      f'numbers, rewards, comparisons and l2 must be positive, but they are {tuple(numbers)}, {rewards}, {comparisons} '
      f'and {l2}'
    )

  def run(embed) -> dict[str, float]:
    test = embed('test')
    if test.target is None:
      raise Refusal("the preferences evaluator needs true features, but split 'test' has no field 'target'")
    phi = np.asarray(jax.device_get(evaluator.rows(test, representation, 'test')), np.float64)
    truth = np.asarray(test.target, np.float64)
    if len(truth) < 4:
      raise Refusal(f'the preferences evaluator needs four rows or more, but there are {len(truth)}')
    std = phi.std(0)
    phi = (phi - phi.mean(0)) / np.where(std > 1e-5 * (1 + np.abs(phi.mean(0))), std, np.inf)
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((rewards, truth.shape[1]))
    even, odd = np.arange(0, len(truth), 2), np.arange(1, len(truth), 2)

    def drawn(rows, count):
      first, second = _pairs(rng, rows, (rewards, count))
      better = np.einsum('rnk,rk->rn', truth[first] - truth[second], weights) > 0
      return phi[first] - phi[second], better

    apart, better = drawn(even, max(numbers))
    new, wanted = drawn(odd, comparisons)
    found = {}
    for n in numbers:
      theta = fit(apart[:, :n], better[:, :n], l2)
      found[f'preferences/accuracy@{n}'] = float(((np.einsum('rnd,rd->rn', new, theta) > 0) == wanted).mean())
    return found

  return Evaluator(run)
