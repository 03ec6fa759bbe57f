"""Supervised losses of classes split into subclasses of about one size: frequent classes do not outweigh rare ones."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from contrastive_jax.losses import inputs
from contrastive_jax.losses.inputs import Temperature, of_rows
from contrastive_jax.similarity import Fold, Similarity, logsumexp, positive, size, total, valid
from contrastive_jax.types import Refusal

__all__ = ['sbcl', 'sbcl_queue']


def _check_numbers(beta, base_temperature):
  inputs.check_positive('base_temperature', base_temperature)
  if isinstance(beta, int | float) and beta < 0:
    raise Refusal(f'beta must be at least 0, but it is {beta}')


def _same_label(pair):
  return (pair.anchor['label'] == pair.other['label']) & (pair.anchor['label'] >= 0)


def _same_subclass(pair):
  return (pair.anchor['id'] == pair.other['id']) & (pair.anchor['id'] >= 0)


def _mean_over(lse, logits, count):
  """Minus the mean log-probability of the positives; 0 where there are none."""
  some = count > 0
  return jnp.where(some, jnp.where(some, lse, 0) - logits / jnp.maximum(count, 1), 0)


def _with_own(own, lse, logits, count):
  """The same with one more candidate, which is a positive."""
  return _mean_over(jnp.logaddexp(lse, own), logits + own, count + 1)


def _terms(logit, within, rest):
  """Of the subclass and of the rest of the class: the log-sum-exp, the sum and the number of the positives."""

  def of_class(pair):
    return logit(pair) * pair.anchor['ratio']

  def rest_of_class(pair):
    return rest(pair) & _same_label(pair)

  of_subclass = [logsumexp(logit), total(logit, within), size(within)]
  return [*of_subclass, logsumexp(of_class, rest), total(of_class, rest_of_class), size(rest_of_class)]


def sbcl(
  z: Float[Array, 'v b d'],
  labels: Int[Array, ' b'],
  subclasses: Int[Array, ' b'],
  *,
  temperature: Temperature = 0.1,
  class_temperature: Temperature = 0.1,
  beta: float | Array = 0.25,
  own_views: bool = True,
  base_temperature: float | Array | None = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, 'v b']:
  r"""Subclass-balancing contrastive loss: SupCon among subclasses, and a weaker term among the rest of the class.

  .. math:: \ell_a = -\frac{1}{|M|} \sum_{p \in M} \log \frac{e^{s_{ap} / \tau_1}}{\sum_{c \ne a} e^{s_{ac} / \tau_1}}
            - \frac{\beta}{|P|} \sum_{p \in P}
            \log \frac{e^{s_{ap} / \tau_2}}{\sum_{c \in P \cup N} e^{s_{ac} / \tau_2}}

  M: the others of the anchor's subclass, its own other views among them. P: those of its class that are not in M. N:
  those of other classes. So what is of the anchor's subclass is no candidate of the second term.

  Args:
    z: `[V, B, D]`, unit norm. One view is allowed.
    labels: `[B]` integers, classes; -1 has no positives in the second term.
    subclasses: `[B]` integers, no two classes share one; -1 has no positives in the first term.
    temperature: tau_1, divides similarities; a scalar, or one per instance `[B]` or per anchor `[V, B]`.
    class_temperature: tau_2, likewise; of each instance's class in the paper.
    beta: weight of the second term.
    own_views: the anchor's own other views are in P as well, as in the official code, so that P is never empty.
      Without, the formula of the paper.
    base_temperature: where given, the first term is multiplied by tau_1 over it; the official code has 0.07.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns `[V, B]`, one value per anchor; a term without positives is 0.

  Raises:
    ValueError: as in `sup_con`; a negative beta, a base temperature <= 0.

  Source: Hou et al., 2023, eq. 5, with the choices of its code.
  """
  inputs.check_views(z, at_least=1)
  inputs.check_entries(z.shape[1], labels=labels, subclasses=subclasses)
  for given in (temperature, class_temperature):
    inputs.check_temperature(given, z.shape[1:2], z.shape[:2])
  _check_numbers(beta, base_temperature)
  z, views = inputs.wide(z), len(z)
  ratio = inputs.per_anchor(temperature, z) / inputs.per_anchor(class_temperature, z)
  entries = {'label': of_rows(labels, views), 'id': of_rows(subclasses, views), 'ratio': ratio.T.reshape(-1)}
  op, logit = inputs.symmetric(inputs.flatten(z), inputs.per_row(temperature, z), entries, fold, precision)

  def rest(pair):
    apart = ~_same_subclass(pair)
    return valid(pair) & (apart | ~inputs.other_instance(views)(pair) if own_views else apart)

  (lse, logits, count, *of_rest), _ = op.reduce(_terms(logit, positive, rest))
  first, second = (inputs.unflatten(_mean_over(*of), views) for of in ((lse, logits, count), of_rest))
  scale = 1 if base_temperature is None else inputs.per_anchor(temperature, z) / base_temperature
  return scale * first + beta * second


def sbcl_queue(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  queue: Float[Array, 'q d'],
  labels: Int[Array, ' b'],
  subclasses: Int[Array, ' b'],
  queue_labels: Int[Array, ' q'],
  queue_subclasses: Int[Array, ' q'],
  *,
  temperature: float | Float[Array, ''] = 0.07,
  class_temperature: float | Float[Array, ''] = 0.12,
  beta: float | Array = 0.2,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""`sbcl` against a queue of earlier keys: candidates are the own key and the queue, in both terms.

  The own key is a positive of both. M: the keys of the queue of the anchor's subclass; P: those of its class that are
  not in M.

  Args:
    x: queries `[B, D]`, unit norm.
    y: keys `[B, D]`, unit norm; y[i] is the own key of x[i].
    queue: `[Q, D]`, unit norm. Stop the gradient of keys and queue yourself where they are a teacher's.
    labels: classes of the queries, `[B]`; -1 equals none.
    subclasses: of the queries, `[B]`; -1 equals none.
    queue_labels: `[Q]`.
    queue_subclasses: `[Q]`.
    temperature: tau_1, a scalar.
    class_temperature: tau_2, a scalar.
    beta: weight of the second term.
    fold: as in `nt_xent`.
    precision: as in `nt_xent`.

  Returns `[B]`, one value per query.

  Raises:
    ValueError: as in `queue_nce`; labels that are not integers of these lengths; a negative beta.

  Source: Hou et al., 2023, with MoCo as in its code.
  """
  inputs.check_sides(x, y, equal=True)
  inputs.check_sides(x, queue, names=('x', 'queue'))
  inputs.check_entries(len(x), labels=labels, subclasses=subclasses)
  inputs.check_entries(len(queue), queue_labels=queue_labels, queue_subclasses=queue_subclasses)
  inputs.check_temperature(temperature)
  inputs.check_positive('class_temperature', class_temperature)
  _check_numbers(beta, None)
  x, y, queue = inputs.wide(x), inputs.wide(y), inputs.wide(queue)
  x = x / jnp.asarray(temperature, x.dtype)
  # A closed-over number would not do inside a caller's shard_map.
  ratio = jnp.ones_like(x[:, 0]) * (jnp.asarray(temperature, x.dtype) / class_temperature)
  rows = {'z': x, 'label': labels, 'id': subclasses, 'ratio': ratio}
  cols = {'z': queue, 'label': queue_labels, 'id': queue_subclasses}

  op = Similarity(rows, cols, fold=fold, precision=precision)
  terms = _terms(lambda pair: pair.dot, _same_subclass, lambda pair: ~_same_subclass(pair))
  (lse, logits, count, *of_rest), _ = op.reduce(terms)
  own = (x * y).sum(-1)
  return _with_own(own, lse, logits, count) + beta * _with_own(own * ratio, *of_rest)
