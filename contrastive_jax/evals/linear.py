"""Linear probe: multinomial logistic regression on frozen embeddings, fitted to convergence by full-batch L-BFGS.

.. math:: \\min_{W, b} \\frac{1}{n} \\sum_i -\\log \\mathrm{softmax}(W^T x_i + b)_{y_i} + \\frac{\\lambda}{2} \\|W\\|^2

The strength lambda is chosen on a stratified part of the training split, then the probe is fitted again on all of it.
scikit-learn's `LogisticRegression(C)` has the same minimiser at `C = 1 / (n lambda)`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax.evals import evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Refusal, nearest

GLOSSARY = {
  'linear/accuracy': 'share of labelled test rows that the linear probe classifies correctly',
  'linear/train_accuracy': 'share of labelled training rows that the linear probe classifies correctly',
  'linear/l2': 'strength of the squared penalty, chosen on held-out training rows',
}
MORE_IS_BETTER = ('linear/accuracy', 'linear/train_accuracy')

NORMALISATIONS = ('standard', 'unit', 'none')


class Shift(NamedTuple):
  """The affine map `(x - mean) / std` of features."""

  mean: Float[Array, ' d']
  std: Float[Array, ' d']


@jax.jit
def _moments(x: Float[Array, 'n d'], weight: Float[Array, ' n']) -> Shift:
  x = x.astype(jnp.float32)
  mean = jnp.matmul(weight, x, precision='highest')
  variance = jnp.matmul(weight, jnp.square(x - mean), precision='highest')
  # A constant feature tells nothing; dividing by its rounding error would make it noise of unit variance.
  still = variance <= 1e-10 * jnp.square(mean)
  return Shift(mean, jnp.where(still, 1, jnp.sqrt(variance)))


@jax.jit
def _shift(x: Float[Array, 'n d'], shift: Shift) -> Float[Array, 'n d']:
  return (x.astype(jnp.float32) - shift.mean) / shift.std


def _logits(x: Float[Array, 'n d'], probe: Float[Array, 'd1 c']) -> Float[Array, 'n c']:
  return jnp.matmul(x, probe[:-1], precision='highest') + probe[-1]


def _losses(logits: Float[Array, 'n c'], label: Int[Array, ' n']) -> Float[Array, ' n']:
  return optax.softmax_cross_entropy_with_integer_labels(logits, label)


@functools.partial(jax.jit, static_argnames='max_iterations')
def solve(
  x: Float[Array, 'n d'],
  label: Int[Array, ' n'],
  weight: Float[Array, ' n'],
  l2: Float[Array, ''],
  start: Float[Array, 'd1 c'],
  tolerance: Float[Array, ''],
  *,
  max_iterations: int,
) -> tuple[Float[Array, 'd1 c'], Float[Array, '']]:
  """The probe `[d + 1, c]` (weights, then one row of intercepts, which are not penalised) and its objective.

  L-BFGS with Hager and Zhang's line search, whose approximate conditions still hold at float32's rounding, until the
  norm of the gradient falls to `tolerance` or `max_iterations` are spent. Rows of weight 0 count for nothing; the
  weights must sum to 1. Needs about n (d + 3 c) floats.
  """

  def objective(probe):
    return jnp.dot(weight, _losses(_logits(x, probe), label)) + l2 / 2 * jnp.square(probe[:-1]).sum()

  search = optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy='one')
  optimiser = optax.lbfgs(linesearch=search)
  value, gradient = jax.value_and_grad(objective)(start)

  def unfinished(carry):
    _, state = carry
    slope = jnp.linalg.norm(optax.tree.get(state, 'grad'))
    return (optax.tree.get(state, 'count') < max_iterations) & (slope > tolerance)

  def step(carry):
    probe, state = carry
    value, gradient = optax.tree.get(state, 'value'), optax.tree.get(state, 'grad')
    update, state = optimiser.update(gradient, state, probe, value=value, grad=gradient, value_fn=objective)
    return probe + update, state

  # The line search leaves value and gradient of its last point in the state; the first point's are put there.
  state = optax.tree.set(optimiser.init(start), value=value, grad=gradient)
  probe, state = jax.lax.while_loop(unfinished, step, (start, state))
  return probe, optax.tree.get(state, 'value')


@jax.jit
def _score(x, label, keep: Bool[Array, ' n'], probe) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Accuracy and mean cross-entropy of the rows kept; a label outside the probe's classes is a mistake."""
  logits = _logits(x, probe)
  losses = _losses(logits, jnp.clip(label, 0, probe.shape[1] - 1))
  return ((logits.argmax(1) == label) & keep).sum() / keep.sum(), jnp.where(keep, losses, 0).sum() / keep.sum()


def held_out(label: Int[np.ndarray, ' n'], share: float, seed: int) -> Bool[np.ndarray, ' n']:
  """A stratified random part of the labelled rows: every class gives its `share`, rounded up or down."""
  rng = np.random.default_rng(seed)
  labelled = np.flatnonzero(label >= 0)
  order = labelled[np.lexsort((rng.random(len(labelled)), label[labelled]))]
  # Systematic sampling along the rows sorted by class: a running share that passes an integer takes that row.
  taken = np.diff(np.floor(np.arange(len(order) + 1) * share + rng.random())) > 0
  mask = np.zeros(len(label), bool)
  mask[order[taken]] = True
  return mask


def _weights(keep: Bool[np.ndarray, ' n']) -> Float[Array, ' n']:
  return jax.device_put((keep / keep.sum()).astype(np.float32))


def _check(strengths, holdout, max_iterations, tolerance, representation, normalise, seed):
  evaluator.check_representation(representation)
  evaluator.check_seed(seed)
  if normalise not in NORMALISATIONS:
    raise Refusal(f"unknown normalisation '{normalise}'{nearest(str(normalise), NORMALISATIONS)}")
  if not strengths or min(strengths) <= 0:
    raise Refusal(f'strengths must be one or more positive numbers, but they are {tuple(strengths)}')
  if not 0 < holdout < 1:
    raise Refusal(f'holdout must lie between 0 and 1, but it is {holdout}')
  if max_iterations < 1 or tolerance <= 0:
    raise Refusal(f'max_iterations and tolerance must be positive, but they are {max_iterations} and {tolerance}')


class Problem(NamedTuple):
  """Both splits on the device, normalised, their labels as positions 0 ... c - 1 among the training classes."""

  x: Float[Array, 'n d']
  label: Int[np.ndarray, ' n']  # any position where unknown
  known: Bool[np.ndarray, ' n']
  x_test: Float[Array, 'm d']
  label_test: Int[np.ndarray, ' m']  # -1 where no training row is of the class
  known_test: Bool[np.ndarray, ' m']
  num_classes: int


def _normalised(x, x_test, known, normalise):
  if normalise == 'standard':
    shift = _moments(x, _weights(known))
    return _shift(x, shift), _shift(x_test, shift)
  return (evaluator.unit(x), evaluator.unit(x_test)) if normalise == 'unit' else (x, x_test)


def _problem(embed, representation, normalise) -> Problem:
  train, test = embed('train'), embed('test')
  x, x_test = evaluator.rows(train, representation, 'train'), evaluator.rows(test, representation, 'test')
  label, label_test = evaluator.labels(train, 'train', 'linear'), evaluator.labels(test, 'test', 'linear')
  known = label >= 0
  classes = np.unique(label[known])
  if len(classes) < 2:
    raise Refusal(f'the linear evaluator needs two classes or more, but the training split has only {classes[0]}')
  # Class numbers may have gaps.
  position = np.searchsorted(classes, np.where(known, label, classes[0])).astype(np.int32)
  found = np.minimum(np.searchsorted(classes, label_test), len(classes) - 1)
  position_test = np.where(classes[found] == label_test, found, -1).astype(np.int32)
  x, x_test = _normalised(x, x_test, known, normalise)
  return Problem(x, position, known, x_test, position_test, label_test >= 0, len(classes))


def _choose(fit, problem: Problem, strengths, holdout, seed):
  """The strength of the best held-out accuracy (ties: the lowest held-out cross-entropy), and its probe."""
  hold = held_out(np.where(problem.known, problem.label, -1), holdout, seed)
  kept = problem.known & ~hold
  if not hold.any() or not kept.any():
    raise Refusal(f'holdout={holdout} of {problem.known.sum()} labelled training rows leaves one side empty')
  probe, scores, probes = None, [], []
  for strength in strengths:  # from strong to weak, each from the solution before: a short path
    probe = fit(kept, strength, probe)
    accuracy, loss = _score(problem.x, *jax.device_put((problem.label, hold)), probe)
    scores.append((float(jax.device_get(accuracy)), -float(jax.device_get(loss))))
    probes.append(probe)
  best = max(range(len(strengths)), key=scores.__getitem__)
  return strengths[best], probes[best]


def make(
  *,
  strengths: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
  holdout: float = 0.2,
  max_iterations: int = 1000,
  tolerance: float = 1e-4,
  representation: str = 'features',
  normalise: str = 'standard',
  seed: int = 0,
) -> Evaluator:
  """The linear probe of the module's docstring: fitted on split 'train', reported on split 'test'.

  Args:
    strengths: candidates of lambda, which multiplies half the squared norm of the weights against the MEAN
      cross-entropy; a tuple of one skips the choice.
    holdout: share of the labelled training rows on which the strength is chosen.
    max_iterations: of L-BFGS, for each strength.
    tolerance: norm of the gradient at which a fit has converged.
    representation: 'features' or 'projection'.
    normalise: 'standard' (each feature to mean 0 and variance 1 over the training rows), 'unit' (each row to norm 1) or
      'none'.
    seed: of the held-out rows.

  Rows of label -1 are left out; a test row whose class has no training row counts as a mistake.

  Raises:
    Refusal: here for options out of range; by `run` for splits without labels, for fewer than two classes, for too few
      rows to hold any out, and for embeddings that are not finite.
  """
  _check(strengths, holdout, max_iterations, tolerance, representation, normalise, seed)
  strengths = tuple(sorted(strengths, reverse=True))

  def run(embed) -> dict[str, float]:
    problem = _problem(embed, representation, normalise)
    x, label = problem.x, jax.device_put(problem.label)
    zero = np.zeros((x.shape[1] + 1, problem.num_classes), np.float32)

    def fit(keep, l2, start):
      l2, bound, start = jax.device_put((np.float32(l2), np.float32(tolerance), zero if start is None else start))
      return solve(x, label, _weights(keep), l2, start, bound, max_iterations=max_iterations)[0]

    l2, start = strengths[0], None
    if len(strengths) > 1:
      l2, start = _choose(fit, problem, strengths, holdout, seed)
    probe = fit(problem.known, l2, start)
    accuracy, _ = _score(problem.x_test, *jax.device_put((problem.label_test, problem.known_test)), probe)
    train_accuracy, _ = _score(x, label, jax.device_put(problem.known), probe)
    metrics = {'linear/accuracy': accuracy, 'linear/train_accuracy': train_accuracy}
    return {k: float(v) for k, v in jax.device_get(metrics).items()} | {'linear/l2': float(l2)}

  return Evaluator(run)
