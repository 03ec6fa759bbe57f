"""Weighted nearest neighbours: each test row is classified by its k most similar training rows.

.. math:: \\hat y_i = \\arg\\max_c \\sum_{j \\in N_k(i)} e^{s_{ij} / \\tau} [y_j = c], \\qquad s_{ij} = \\cos(x_i, x_j)

Reference: Wu et al., 2018 (Unsupervised Feature Learning via Non-Parametric Instance Discrimination), section 3.4.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from contrastive_jax import similarity as sim
from contrastive_jax.evals import evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Refusal

GLOSSARY = {'knn/accuracy': 'share of labelled test rows that their k most similar training rows classify correctly'}
MORE_IS_BETTER = ('knn/accuracy',)


@functools.partial(jax.jit, static_argnames='k')
def neighbours(
  x: Float[Array, 'n d'], y: Float[Array, 'm d'], label: Int[Array, ' m'], *, k: int
) -> tuple[Float[Array, 'n k'], Int[Array, 'n k']]:
  """Cosines and labels of each row's k nearest labelled rows of y, nearest first; (-inf, -1) where there are fewer.

  Streamed over tiles: no n x m matrix. Among equal cosines the row of y that comes first wins.
  """
  operator = sim.Similarity({'z': evaluator.unit(x)}, {'z': evaluator.unit(y), 'label': label})
  ((cosine, index),), _ = operator.reduce(rows=[sim.top(k, over=lambda p: p.other['label'] >= 0)])
  return cosine, jnp.where(index < 0, -1, label[index])


@jax.jit
def vote(cosine: Float[Array, 'n k'], label: Int[Array, 'n k'], temperature: Float[Array, '']) -> Int[Array, ' n']:
  """The label of the largest sum of exp(cosine / temperature); between equal sums that of the nearer neighbour."""
  # The nearest neighbour is the reference: the ratio of votes is the same, and exp(1 / temperature) may overflow.
  weight = jnp.exp((cosine - cosine[:, :1]) / temperature)
  # k x k comparisons a row, instead of one vote for each class, of which there may be many.
  votes = jnp.where(label[:, :, None] == label[:, None, :], weight[:, None, :], 0).sum(2)
  return jnp.take_along_axis(label, votes.argmax(1, keepdims=True), axis=1)[:, 0]


@jax.jit
def _accuracy(predicted: Int[Array, ' n'], label: Int[Array, ' n']) -> Float[Array, '']:
  return ((predicted == label) & (label >= 0)).sum() / (label >= 0).sum()


def make(*, k: int = 20, temperature: float = 0.07, representation: str = 'features') -> Evaluator:
  """Weighted kNN of split 'test' among split 'train', as in the module's docstring.

  Args:
    k: neighbours that vote; where fewer rows have a label, all of them do.
    temperature: of the votes; large is an unweighted majority, small is the nearest neighbour alone.
    representation: 'features' or 'projection'; rows are scaled to norm 1 in either case.

  Rows of label -1 neither vote nor count.

  Raises:
    Refusal: here for options out of range; by `run` for splits without labels and for embeddings that are not finite.
  """
  evaluator.check_representation(representation)
  if k < 1 or temperature <= 0:
    raise Refusal(f'k and temperature must be positive, but they are {k} and {temperature}')

  def run(embed) -> dict[str, float]:
    train, test = embed('train'), embed('test')
    y, x = evaluator.rows(train, representation, 'train'), evaluator.rows(test, representation, 'test')
    y_label, x_label = (
      jax.device_put(evaluator.labels(e, s, 'knn').astype(np.int32)) for e, s in ((train, 'train'), (test, 'test'))
    )
    cosine, label = neighbours(x, y, y_label, k=min(k, y.shape[0]))
    predicted = vote(cosine, label, jax.device_put(np.float32(temperature)))
    return {'knn/accuracy': float(jax.device_get(_accuracy(predicted, x_label)))}

  return Evaluator(run)
