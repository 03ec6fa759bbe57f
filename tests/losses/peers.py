"""Makes peers.json: small inputs, and what pytorch-metric-learning makes of them in float64.

    python tests/losses/peers.py

Written with pytorch-metric-learning 2.9.0 and torch 2.13 (`pip install -e '.[benchmarks]'`). Tests read peers.json and
need neither.
"""

import json
import pathlib

import numpy as np
import torch
from pytorch_metric_learning import __version__, distances, losses, miners, reducers

RAW = dict(normalize_embeddings=False)
DISTANCES = {
  'cosine': distances.CosineSimilarity(),
  'dot': distances.DotProductSimilarity(**RAW),
  'euclidean': distances.LpDistance(**RAW),
  'squared_euclidean': distances.LpDistance(power=2, **RAW),
  'snr': distances.SNRDistance(**RAW),
}
NOT_INVERTED = ('euclidean', 'squared_euclidean', 'snr')
CLASSES = 4


def inputs() -> dict[str, np.ndarray]:
  """Rows of norms around 1; labels of one class size, and of several with a class of one row; proxies."""
  random = np.random.default_rng(0)
  made = dict(
    rows=random.normal(size=(12, 6)) / 2,
    even=np.arange(12) % CLASSES,
    uneven=np.asarray([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3]),
    proxies=random.normal(size=(CLASSES, 6)),
    pairs=random.normal(size=(2, 5, 6)) / 2,
  )
  made['rows'][1] = -made['proxies'][1] + 0.1 * random.normal(size=6)  # of class 1 in `even`, opposite to its proxy
  return {k: v.round(4) for k, v in made.items()}


def nearest_of(triplets, rows, distance):
  """Of each anchor and positive, the triplet with the nearest negative."""
  found: dict = {}
  apart = distance(rows)
  apart = -apart if distance.is_inverted else apart
  for a, p, n in zip(*(t.tolist() for t in triplets), strict=True):
    if (a, p) not in found or apart[a, n] < apart[a, found[a, p]]:
      found[a, p] = n
  pairs = list(found)
  return tuple(torch.tensor(t) for t in ([a for a, _ in pairs], [p for _, p in pairs], list(found.values())))


def of_triplets(rows, even, uneven) -> dict[str, torch.Tensor]:
  made = {}
  for name, distance in DISTANCES.items():
    for kind, labels in dict(even=even, uneven=uneven).items():
      hard = miners.BatchHardMiner(distance=distance)(rows, labels)
      # Any margin above all distances: the loss leaves out what is not within its own.
      farther = miners.TripletMarginMiner(margin=100.0, type_of_triplets='semihard', distance=distance)(rows, labels)
      mined = dict(hard=hard, semi_hard=nearest_of(farther, rows, distance), all=None)
      for mining, indices in mined.items():
        chosen = dict(mean=reducers.MeanReducer()) if mining == 'hard' or (kind, mining) == ('even', 'all') else {}
        for reduction, reducer in (chosen | dict(nonzero=reducers.AvgNonZeroReducer())).items():
          loss = losses.TripletMarginLoss(margin=0.2, distance=distance, reducer=reducer)
          made[f'triplet {name} {kind} {mining} {reduction}'] = loss(rows, labels, indices)
  soft = losses.TripletMarginLoss(margin=0.1, smooth_loss=True, distance=DISTANCES['euclidean'])
  return made | {f'distance {k}': d(rows) for k, d in DISTANCES.items()} | {'triplet soft': soft(rows, even)}


def of_distances(distance, rows, uneven) -> torch.Tensor:
  """Multi-similarity without and with its mining."""
  loss = losses.MultiSimilarityLoss(alpha=1.5, beta=4, base=0.6, distance=distance)
  return torch.stack(
    [loss(rows, uneven), loss(rows, uneven, miners.MultiSimilarityMiner(0.1, distance=distance)(rows, uneven))]
  )


def of_pairs(rows, uneven, pairs) -> dict[str, torch.Tensor]:
  both, instances = pairs.reshape(-1, pairs.shape[-1]), torch.arange(pairs.shape[1]).repeat(2)
  mined = miners.MultiSimilarityMiner(epsilon=0.1)(rows, uneven)
  return {
    'n_pair': losses.NPairsLoss(distance=DISTANCES['dot'])(both, instances),
    'n_pair normalize': losses.NPairsLoss()(both, instances),
    **{f'n_pair {k}': losses.NPairsLoss(distance=DISTANCES[k])(both, instances) for k in NOT_INVERTED},
    'multi_similarity': losses.MultiSimilarityLoss()(rows, uneven),
    'multi_similarity mined': losses.MultiSimilarityLoss(alpha=1.5, beta=40, base=0.6)(rows, uneven, mined),
    **{f'multi_similarity {k}': of_distances(DISTANCES[k], rows, uneven) for k in NOT_INVERTED},
    'circle': losses.CircleLoss()(rows, uneven),
    'circle of faces': losses.CircleLoss(m=0.25, gamma=256)(rows, uneven),
    'nt_xent': losses.NTXentLoss(temperature=0.1)(both, instances),
    'sup_con': losses.SupConLoss(temperature=0.1)(rows, uneven),
  }


def of_proxies(rows, even, proxies) -> dict[str, torch.Tensor]:
  size = dict(num_classes=CLASSES, embedding_size=rows.shape[1])
  made = {
    'arcface': losses.ArcFaceLoss(margin=float(np.degrees(0.5)), scale=64, **size),
    'cosface': losses.CosFaceLoss(margin=0.35, scale=64, **size),
    'normface': losses.NormalizedSoftmaxLoss(temperature=0.05, **size),
    'proxy_nca': losses.ProxyNCALoss(**size),
    'proxy_anchor': losses.ProxyAnchorLoss(margin=0.1, alpha=32, **size),
    'proxy_anchor of absent classes': losses.ProxyAnchorLoss(margin=0.1, alpha=32, **size),
  }
  for loss in made.values():
    for parameter in loss.parameters():
      parameter.data = proxies if parameter.shape == proxies.shape else proxies.T
  return {k: loss(rows, even % 2 if 'absent' in k else even) for k, loss in made.items()}


def main():
  arrays = inputs()
  t = {k: torch.as_tensor(v) for k, v in arrays.items()}
  expected = of_triplets(t['rows'], t['even'], t['uneven']) | of_pairs(t['rows'], t['uneven'], t['pairs'])
  expected |= of_proxies(t['rows'], t['even'], t['proxies'])
  made = dict(
    version=f'pytorch-metric-learning {__version__}, torch {torch.__version__.partition("+")[0]}',
    inputs={k: v.tolist() for k, v in arrays.items()},
    expected={k: np.round(v.detach().numpy(), 9).tolist() for k, v in expected.items()},
  )
  pathlib.Path(__file__).with_suffix('.json').write_text(json.dumps(made) + '\n')


if __name__ == '__main__':
  main()
