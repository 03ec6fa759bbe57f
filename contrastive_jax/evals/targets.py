"""Linear regression of numbers from frozen embeddings: features that people see in a path, the next steps of a series.

.. math:: \\min_{W, b} \\frac{1}{n} \\sum_i \\| W^T x_i + b - y_i \\|^2 + \\lambda \\|W\\|^2

of standardised features x and targets y, solved exactly. The strength lambda is chosen on every fifth fitted row, then
the regression is fitted again on all.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from contrastive_jax.evals import evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Embedded, Refusal, nearest

GLOSSARY = {
  'targets/r2': 'share of the variance of the targets that a linear regression tells on held-out rows, their mean',
  'targets/error': 'mean squared error of it in units of the variance of each target; 1 is no better than their mean',
  'targets/mse': 'mean squared error of it, in the units of the targets',
  'targets/mae': 'mean absolute error of it, in the units of the targets',
}
MORE_IS_BETTER = ('targets/r2',)

FITTED_ON = ('train', 'halves')
_HOLD = 5  # one row in so many chooses the strength


def _mean(x, weight):
  return jnp.matmul(weight, x, precision='highest') / weight.sum()


def _standard(x, weight):
  mean = _mean(x, weight)
  std = jnp.sqrt(_mean(jnp.square(x - mean), weight))
  return mean, jnp.where(std > 1e-5 * (1 + jnp.abs(mean)), std, jnp.inf)  # what never changes tells nothing


@jax.jit
def predict(
  x: Float[Array, 'n d'], y: Float[Array, 'n k'], keep: Bool[Array, ' n'], new: Float[Array, 'm d'], strength
) -> Float[Array, 'm k']:
  """Predictions for new rows of the ridge regression that is fitted on the kept rows."""
  weight = keep.astype(jnp.float32)
  mean, std = _standard(x, weight)
  middle = _mean(y, weight)
  scaled = (x - mean) / std
  gram = jnp.matmul(scaled.T * weight, scaled, precision='highest') / weight.sum()
  cross = jnp.matmul(scaled.T * weight, y - middle, precision='highest') / weight.sum()
  solution = jnp.linalg.solve(gram + strength * jnp.eye(len(gram)), cross)
  return jnp.matmul((new - mean) / std, solution, precision='highest') + middle


def _chosen(x, y, keep: Bool[np.ndarray, ' n'], strengths) -> float:
  """The strength of the least error on held-out rows."""
  hold = keep & (np.cumsum(keep) % _HOLD == 0)
  if len(strengths) == 1 or not hold.any():
    return strengths[0]
  of_each = [predict(x, y, jnp.asarray(keep & ~hold), x, strength) for strength in strengths]
  errors = [float(jnp.where(hold[:, None], jnp.square(found - y), 0).sum()) for found in of_each]
  return strengths[int(np.argmin(errors))]


def _targets(embedded: Embedded, split: str) -> Float[np.ndarray, 'n k']:
  if embedded.target is None:
    raise Refusal(f"the targets evaluator needs numbers to tell, but split '{split}' has no field 'target'")
  return np.asarray(embedded.target, np.float32)


def scores(found: Float[np.ndarray, 'n k'], target: Float[np.ndarray, 'n k']) -> dict[str, float]:
  """All of `GLOSSARY`, of predictions of the targets."""
  apart = np.asarray(found, np.float64) - target
  squared, variance = np.square(apart).mean(0), np.var(target, axis=0, dtype=np.float64)
  error = float((squared / np.maximum(variance, 1e-12)).mean())
  figures = {'r2': 1 - error, 'error': error, 'mse': float(squared.mean()), 'mae': float(np.abs(apart).mean())}
  return {f'targets/{name}': value for name, value in figures.items()}


def make(
  *,
  fitted_on: str = 'train',
  strengths: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4),
  representation: str = 'features',
) -> Evaluator:
  """The regression of the module's docstring, scored on split 'test'.

  Args:
    fitted_on: split 'train', or 'halves': each half of split 'test', by the evenness of its rows, is predicted by a
      regression that is fitted on the other, so that scores do not depend on the size of the training split.
    strengths: candidates of lambda; a tuple of one skips the choice.
    representation: 'features' or 'projection'.

  Raises:
    Refusal: here for options out of range; by `run` for data without targets, for fewer than four rows, and for
      embeddings that are not finite.
  """
  evaluator.check_representation(representation)
  if fitted_on not in FITTED_ON:
    raise Refusal(f"unknown fitted_on '{fitted_on}'{nearest(str(fitted_on), FITTED_ON)}")
  if not strengths or min(strengths) <= 0:
    raise Refusal(f'strengths must be one or more positive numbers, but they are {tuple(strengths)}')

  def run(embed) -> dict[str, float]:
    test = embed('test')
    new, wanted = evaluator.rows(test, representation, 'test'), _targets(test, 'test')
    if fitted_on == 'train':
      train = embed('train')
      x, y = evaluator.rows(train, representation, 'train'), _targets(train, 'train')
      parts = [(np.ones(len(y), bool), np.ones(len(wanted), bool))]
    else:
      x, y, even = new, wanted, np.arange(len(wanted)) % 2 == 0
      parts = [(even, ~even), (~even, even)]
    if len(y) < 4:
      raise Refusal(f'the targets evaluator needs four rows or more to fit, but there are {len(y)}')
    found = np.zeros_like(wanted)
    for fitted, scored in parts:
      strength = _chosen(x, y, fitted, strengths)
      found[scored] = np.asarray(predict(x, y, jnp.asarray(fitted), new, strength))[scored]
    return scores(found, wanted)

  return Evaluator(run)
