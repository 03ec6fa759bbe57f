"""The compared losses in float64 with gradients written out, so that nobody is timed at computing something else."""

from collections.abc import Callable

import numpy as np

from benchmarks.contenders import BIAS, TEMPERATURE, Case


def _softmax(logits: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
  """(log-sum-exp, softmax) along an axis."""
  top = logits.max(axis, keepdims=True)
  exp = np.exp(logits - top)
  total = exp.sum(axis, keepdims=True)
  return (top + np.log(total)).squeeze(axis), exp / total


def symmetric(x: np.ndarray, y: np.ndarray, temperature: float = TEMPERATURE):
  """Value, gradient of x, gradient of y."""
  b = len(x)
  logits = x @ y.T / temperature
  of_rows, of_cols = _softmax(logits, 1), _softmax(logits, 0)
  value = ((of_rows[0] + of_cols[0]) / 2 - np.diagonal(logits)).mean()
  of_logits = (of_rows[1] + of_cols[1] - 2 * np.eye(b)) / (2 * b * temperature)
  return value, of_logits @ y, of_logits.T @ x


def nt_xent(x: np.ndarray, y: np.ndarray, temperature: float = TEMPERATURE):
  """Value, gradient of x, gradient of y."""
  z = np.concatenate([x, y])
  n = len(z)
  logits = z @ z.T / temperature
  np.fill_diagonal(logits, -np.inf)
  rows, partner = np.arange(n), np.roll(np.arange(n), n // 2)
  lse, of_logits = _softmax(logits, 1)
  value = (lse - logits[rows, partner]).mean()
  of_logits[rows, partner] -= 1
  of_z = (of_logits + of_logits.T) @ z / (n * temperature)
  return value, of_z[: n // 2], of_z[n // 2 :]


def sigmoid(x: np.ndarray, y: np.ndarray, temperature: float = TEMPERATURE):
  """Value, gradient of x, gradient of y."""
  b = len(x)
  sign = 2 * np.eye(b) - 1
  cost = -sign * (x @ y.T / temperature + BIAS)
  of_logits = -sign / (1 + np.exp(-cost)) / (b * temperature)
  return np.logaddexp(0, cost).sum(1).mean(), of_logits @ y, of_logits.T @ x


def truth(reference: Callable, given: Case):
  """What `error` compares with: the reference's value and gradients on this case."""
  return reference(*(z.astype(np.float64) for z in given))


def error(true, given: Case, value, gradients) -> tuple[float, float]:
  """Relative errors of a contender's value and of its two gradients, read into NumPy.

  Of the gradients the components along the sphere count: some libraries divide by the norm again, which removes the
  others.
  """

  def along(two):
    both = np.concatenate([np.asarray(g, np.float64) for g in two])
    unit = np.concatenate(given)
    return both - (both * unit).sum(1, keepdims=True) * unit

  right, wanted = along(true[1:]), along(gradients)
  return abs(float(value) / true[0] - 1), float(np.linalg.norm(wanted - right) / np.linalg.norm(right))
