"""Few-shot episodes: a few rows of a few classes are known, and further rows of these classes are to be recognised.

OpTA moves the prototypes of the known rows onto the unknown ones by optimal transport, before these are classified.

Reference: Vinyals et al., 2016 (episodes); Poulakakis-Daktylidis and Jamali-Rad, 2024 (OpTA), and its code.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from contrastive_jax import losses
from contrastive_jax.evals import evaluator, linear
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Refusal, nearest

GLOSSARY = {
  'episodes/1_shot': 'mean accuracy over few-shot episodes with 1 known row of each class',
  'episodes/5_shot': 'mean accuracy over few-shot episodes with 5 known rows of each class',
  'episodes/1_shot_opta': 'the same with 1 known row, prototypes moved onto the unknown rows by optimal transport',
  'episodes/5_shot_opta': 'the same with 5 known rows, prototypes moved onto the unknown rows by optimal transport',
}
MORE_IS_BETTER = tuple(GLOSSARY)
SHOTS = (1, 5)
CLASSIFIERS = ('prototypes', 'logistic')
PIECE = 50  # episodes at a time


def standardised(x: Float[Array, 'n d']) -> Float[Array, 'n d']:
  """Each row less its mean, over its standard deviation (unbiased)."""
  x = x - x.mean(-1, keepdims=True)
  deviation = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) / max(x.shape[-1] - 1, 1))
  return x / jnp.maximum(deviation, 1e-12)


def opta(
  support: Float[Array, 's d'],
  query: Float[Array, 'q d'],
  *,
  passes: int = 1,
  eps: float = 0.05,
  iterations: int = 100,
) -> Float[Array, 's d']:
  r"""OpTA: prototypes moved to where optimal transport takes them among the queries.

  .. math:: S \leftarrow \mathrm{diag}(P 1)^{-1} P Q, \qquad P = \arg\min_P \sum_{ij} P_{ij} C_{ij} - \varepsilon H(P),
            \qquad C_{ij} = \frac{\lVert S_i - Q_j \rVert^2}{\max C}

  P has uniform marginals: every prototype takes as many queries as another.

  Args:
    support: S, prototypes of the classes, `[s, d]`.
    query: Q, `[q, d]`.
    passes: how often, each from where the last one ended.
    eps: of the transport.
    iterations: of `losses.sinkhorn`, which scales the prototypes' marginals first.

  Source: Poulakakis-Daktylidis and Jamali-Rad, 2024, section 3.3.
  """

  def move(_, moved):
    square = jnp.square(moved[:, None] - query[None]).sum(-1)
    cost = square / jnp.maximum(square.max(), 1e-12)
    shares = losses.sinkhorn(-cost.T, eps=eps, iterations=iterations)
    return jnp.matmul(shares.T / shares.sum(0)[:, None], query, precision='highest')

  return jax.lax.fori_loop(0, passes, move, support)


def draw(
  label: Int[np.ndarray, ' n'], *, ways: int, each: int, episodes: int, seed: int
) -> Int[np.ndarray, 'episodes ways each']:
  """Rows of random classes, `each` of every class, none twice in an episode.

  Raises:
    Refusal: fewer classes of so many rows than `ways`.
  """
  rng = np.random.default_rng(seed)
  rows = [np.flatnonzero(label == c) for c in np.unique(label[label >= 0])]
  rows = [of_class for of_class in rows if len(of_class) >= each]
  if len(rows) < ways:
    raise Refusal(
      f'episodes need {ways} classes of at least {each} test rows, but there are {len(rows)}: ask for fewer ways or '
      'queries'
    )

  def one():
    classes = rng.choice(len(rows), ways, replace=False)
    return np.stack([rng.choice(rows[c], each, replace=False) for c in classes])

  return np.stack([one() for _ in range(episodes)]).astype(np.int32)


def _predicted(prototypes, query, classifier: str):
  """The class of each query: of the nearest prototype, or by logistic regression on the prototypes."""
  if classifier == 'prototypes':
    square = jnp.square(prototypes[:, None] - query[None]).sum(-1)
    return square.argmin(0)
  ways = len(prototypes)
  probe, _ = linear.solve(
    prototypes,
    jnp.arange(ways),
    jnp.full(ways, 1 / ways),
    jnp.float32(1 / ways),  # scikit-learn's C = 1
    jnp.zeros((prototypes.shape[1] + 1, ways)),
    jnp.float32(1e-4),
    max_iterations=100,
  )
  return (jnp.matmul(query, probe[:-1], precision='highest') + probe[-1]).argmax(1)


@functools.partial(jax.jit, static_argnames=('shots', 'classifier', 'transport'))
def accuracy(
  x: Float[Array, 'n d'], rows: Int[Array, 'episodes ways each'], *, shots: int, classifier: str, transport: bool
) -> Float[Array, '']:
  """Mean accuracy over episodes: of each class the first rows are known, those after the first max(SHOTS) are not."""
  x = standardised(x.astype(jnp.float32))
  ways, of_class = rows.shape[1], jnp.arange(rows.shape[1])

  def one(episode):
    prototypes = x[episode[:, :shots]].mean(1)
    query = x[episode[:, max(SHOTS) :]].reshape(-1, x.shape[1])
    if transport:
      moved = opta(prototypes, query, passes=5 if shots == 1 else 1)
      prototypes = moved if shots == 1 else 0.7 * moved + 0.3 * prototypes
    right = _predicted(prototypes, query, classifier).reshape(ways, -1) == of_class[:, None]
    return right.mean()

  return jax.lax.map(one, rows, batch_size=PIECE).mean()


def make(
  *,
  ways: int = 5,
  queries: int = 15,
  episodes: int = 600,
  classifier: str = 'prototypes',
  representation: str = 'features',
  seed: int = 0,
) -> Evaluator:
  """Every metric of `GLOSSARY`, on random episodes of split 'test'; features of each row are standardised first.

  Args:
    ways: classes of an episode.
    queries: rows of each class to be recognised.
    episodes: how many, the same at every evaluation.
    classifier: 'prototypes': the nearest mean of the known rows; 'logistic': logistic regression on these means.
    representation: 'features' or 'projection'.
    seed: of the episodes.

  OpTA as in the paper: five passes with one known row; else one pass, and 0.7 of where it leads.

  Raises:
    Refusal: here for options out of range; by `run` for too few rows of too few classes, splits without labels and
      embeddings that are not finite.
  """
  evaluator.check_representation(representation)
  evaluator.check_seed(seed)
  if classifier not in CLASSIFIERS:
    raise Refusal(f"unknown classifier '{classifier}'{nearest(str(classifier), CLASSIFIERS)}")
  if ways < 2 or queries < 1 or episodes < 1:
    raise Refusal(
      f'ways must be at least 2, queries and episodes at least 1, but they are {ways}, {queries}, {episodes}'
    )

  def run(embed) -> dict[str, float]:
    test = embed('test')
    x, label = evaluator.rows(test, representation, 'test'), evaluator.labels(test, 'test', 'episodes')
    rows = draw(label, ways=ways, each=max(SHOTS) + queries, episodes=episodes, seed=seed)
    given = jax.device_put(rows)
    found = {}
    for suffix, transport in (('', False), ('_opta', True)):
      for shots in SHOTS:
        share = accuracy(x, given, shots=shots, classifier=classifier, transport=transport)
        found[f'episodes/{shots}_shot{suffix}'] = float(jax.device_get(share))
    return found

  return Evaluator(run)
