"""Queries about paths in the plane, "which two of three are alike?", made from a seed and answered by a simulation."""

import math

import numpy as np
from jaxtyping import Float, Int

from contrastive_jax.data.source import Source, check_split
from contrastive_jax.types import Refusal

FEATURES = ('length', 'laptop', 'human', 'table')
LAPTOP, HUMAN = (0.4, 0.3), (-0.5, -0.4)  # places in the plane
REACH = 0.8  # how far a laptop is felt
WAVES, BEND = 3, 0.6  # how a path leaves the straight line: sines, and the greatest height of the first

# Streams of random numbers: of the paths that features are standardised by, and two for each split.
_REFERENCE, _OF_SPLIT = 0, {'train': 1, 'test': 3}
_REFERENCES = 4096  # paths


def features(path: Float[np.ndarray, '... t 2']) -> Float[np.ndarray, '... 4']:
  """What an answerer looks at: four numbers of a path, none of them linear in it.

  Its length; how near it keeps to a laptop, the mean of max(0, 0.8 - distance); its least distance to a human; and how
  low it comes above the table, which is the lower edge.
  """
  far = [np.linalg.norm(path - np.array(place), axis=-1) for place in (LAPTOP, HUMAN)]
  length = np.linalg.norm(np.diff(path, axis=-2), axis=-1).sum(-1)
  near = np.maximum(REACH - far[0], 0).mean(-1)
  return np.stack([length, near, far[1].min(-1), path[..., 1].min(-1) + 1], axis=-1)


def uniform(seed: int, stream: int, shape: tuple[int, ...]) -> Float[np.ndarray, '...']:
  """Numbers in [0, 1) of raw Philox bits, which NumPy promises to keep."""
  bits = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(math.prod(shape))
  return ((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)


def bent(u: Float[np.ndarray, '... n'], points: int) -> Float[np.ndarray, '... t 2']:
  """Paths of uniform numbers: a line between two places of the square [-1, 1]^2, bent by sines, kept inside."""
  u = 2 * u.reshape(*u.shape[:-1], 2 + WAVES, 2) - 1
  time = np.linspace(0, 1, points)
  number = np.arange(1, WAVES + 1)
  line = (1 - time)[:, None] * u[..., :1, :] + time[:, None] * u[..., 1:2, :]
  waves = BEND / number * np.sin(math.pi * number * time[:, None])
  return np.clip(line + waves @ u[..., 2:, :], -1, 1)


def answers(of_three: Float[np.ndarray, 'n 3 k'], noise: float, u: Float[np.ndarray, 'n 3']) -> Int[np.ndarray, 'n 3']:
  """Of each query the two that are alike and the odd one, as positions: the two nearest in the space of features.

  With `noise` distances differ by draws from a Gumbel distribution of that scale, so that the chance of a pair falls
  exponentially with its distance.
  """
  pairs = np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])
  distance = np.linalg.norm(of_three[:, pairs[:, 0]] - of_three[:, pairs[:, 1]], axis=-1)
  return pairs[(distance + noise * np.log(-np.log(np.maximum(u, 1e-300)))).argmin(1)]


def paths(
  *,
  split: str = 'train',
  queries: int = 500,
  test_queries: int = 1000,
  points: int = 16,
  noise: float = 0.0,
  seed: int = 0,
) -> Source:
  """Queries of three paths each, made on the fly: the kind of data that SIRL learns from (Bobu et al., 2023).

  A path is `points` places in the square [-1, 1]^2, float32 [t, 2]: a straight line bent by three sines. An answerer
  sees four numbers of each path, `features`, standardised, and says which two of the three are alike. Fields: `series`
  is one of the two, `partner` the other, `odd` the third, all float32 [b, t, 2]; `target` float32 [b, 4] holds the
  features of `series`, for evaluations alone. There are no labels. Training queries of a seed start with those of a
  smaller `queries`.

  Args:
    split: 'train' or 'test'.
    queries: in the training split.
    test_queries: in the test split, of other paths.
    points: places on a path.
    noise: of the answers; 0 answers by the least distance.
    seed: of paths and answers.

  Raises:
    Refusal: an unknown split; no queries; fewer than 2 points; negative noise or seed.
  """
  check_split(split)
  positive, others = dict(queries=queries, test_queries=test_queries), dict(noise=noise, seed=seed)
  limits = ((positive, 1), (dict(points=points), 2), (others, 0))
  for name, value, least in ((name, value, least) for given, least in limits for name, value in given.items()):
    if not value >= least:
      raise Refusal(f'{name} must be at least {least}, but it is {value}')
  numbers = 2 * (2 + WAVES)
  reference = features(bent(uniform(seed, _REFERENCE, (_REFERENCES, numbers)), points))
  count, stream = {'train': queries, 'test': test_queries}[split], _OF_SPLIT[split]
  path = bent(uniform(seed, stream, (count, 3, numbers)), points)
  seen = (features(path) - reference.mean(0)) / reference.std(0)
  place = answers(seen, noise, uniform(seed, stream + 1, (count, 3)))
  sorted_path = np.take_along_axis(path, place[:, :, None, None], 1).astype(np.float32)
  target = np.take_along_axis(seen, place[:, :, None], 1)[:, 0].astype(np.float32)

  def read(rows):
    three = {name: sorted_path[rows, i] for i, name in enumerate(('series', 'partner', 'odd'))}
    return three | {'target': target[rows], 'label': np.full(len(rows), -1, np.int32)}

  # Places are given as they are, so that a partner needs no normalisation either.
  return Source('paths', split, count, read, (points, 2), (), (0.0, 0.0), (1.0, 1.0), input='series')
