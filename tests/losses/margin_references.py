"""Losses with labels, margins and proxies from their equations, by brute force in float64 over explicit pairs.

As `references`: plain exponentials and logarithms, gradients by `autograd`, nothing from JAX.
"""

import math

import autograd.numpy as np
from autograd.tracer import getval


def distance(name, a, b):
  if name == 'cosine':
    return 1 - np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))
  if name == 'dot':
    return -np.dot(a, b)
  if name == 'snr':
    noise, signal = b - a, a
    return np.mean((noise - np.mean(noise)) ** 2) / np.mean((signal - np.mean(signal)) ** 2)
  square = np.sum((a - b) ** 2)
  return square if name == 'squared_euclidean' else np.sqrt(square)


def _flat(z, labels):
  """Rows of all views, and their labels."""
  return [z[v, i] for v in range(z.shape[0]) for i in range(z.shape[1])], [*labels] * z.shape[0]


def _kinds(labels, a):
  """Positives and negatives of an anchor."""
  others = [j for j in range(len(labels)) if j != a]
  same = [j for j in others if labels[j] == labels[a] and labels[a] >= 0]
  return same, [j for j in others if j not in same]


def triplet(z, labels, margin, mining='hard', soft=False, distance='euclidean', max_positives=10**6, reduction='mean'):
  rows, labels = _flat(z, labels)
  costs = []
  for a in range(len(rows)):
    positives, negatives = _kinds(labels, a)
    d = {j: globals()['distance'](distance, rows[a], rows[j]) for j in positives + negatives}
    positives = sorted(positives, key=lambda j, d=d: -getval(d[j]))[:max_positives]
    negatives = sorted(negatives, key=lambda j, d=d: getval(d[j]))
    pairs = [(p, n) for p in positives for n in negatives]
    if mining == 'hard':
      pairs = pairs[:1]
    if mining == 'semi_hard':
      farther = {p: [n for n in negatives if getval(d[n]) > getval(d[p])] for p in positives}
      pairs = [(p, each[0]) for p, each in farther.items() if each]
    hinges = [d[p] - d[n] + margin for p, n in pairs]
    costs.append([np.log(1 + np.exp(h)) if soft else np.maximum(h, 0) for h in hinges])
  active = sum(getval(c) > 0 for each in costs for c in each)
  share = [1 / max(len(each), 1) if reduction == 'mean' else len(rows) / max(active, 1) for each in costs]
  zero = 0 * np.sum(z)
  return np.reshape(np.stack([sum(c, zero) * s for c, s in zip(costs, share, strict=True)]), z.shape[:2])


def n_pair(x, y, penalty, normalize=False, distance='dot'):
  values = []
  if normalize:
    x, y = (side / np.sqrt(np.sum(side**2, 1))[:, None] for side in (x, y))
  for i in range(len(x)):
    d = [globals()['distance'](distance, x[i], y[j]) for j in range(len(y))]
    entropy = np.log(sum(np.exp(-each) for each in d)) + d[i]
    values.append(entropy + penalty * (np.sum(x[i] ** 2) + np.sum(y[i] ** 2)))
  return np.stack(values)


def multi_similarity(z, labels, alpha, beta, base, mining_margin=None, distance='dot'):
  rows, labels = _flat(z, labels)
  values = []
  for a in range(len(rows)):
    positives, negatives = _kinds(labels, a)
    s = {j: -globals()['distance'](distance, rows[a], rows[j]) for j in positives + negatives}
    if mining_margin is not None:
      most = max([getval(s[n]) for n in negatives], default=-math.inf)
      least = min([getval(s[p]) for p in positives], default=math.inf)
      positives = [p for p in positives if getval(s[p]) - mining_margin < most]
      negatives = [n for n in negatives if getval(s[n]) + mining_margin > least]
    pulled = np.log(1 + sum(np.exp(-alpha * (s[p] - base)) for p in positives)) / alpha
    pushed = np.log(1 + sum(np.exp(beta * (s[n] - base)) for n in negatives)) / beta
    values.append((pulled + pushed) * (labels[a] >= 0))
  return np.reshape(np.stack(values), z.shape[:2])


def circle(z, labels, margin, gamma):
  rows, labels = _flat(z, labels)
  values = []
  for a in range(len(rows)):
    positives, negatives = _kinds(labels, a)
    s = {j: np.dot(rows[a], rows[j]) for j in positives + negatives}
    m = getval(margin)
    push = sum(np.exp(gamma * max(getval(s[n]) + m, 0) * (s[n] - margin)) for n in negatives)
    pull = sum(np.exp(-gamma * max(1 + m - getval(s[p]), 0) * (s[p] - 1 + margin)) for p in positives)
    values.append(np.log(1 + push * pull) if positives and negatives else 0 * gamma)
  return np.reshape(np.stack(values), z.shape[:2])


def _cosines(x, proxies):
  norms = [np.sqrt(np.sum(side**2, 1)) for side in (x, proxies)]
  return np.dot(x, proxies.T) / np.outer(*norms)


def _softmax_of_cosines(x, labels, proxies, scale, moved, include_own=True):
  """Cross-entropy with the own class's cosine moved."""
  cosines, values = _cosines(x, proxies), []
  for i, own in enumerate(labels):
    if own < 0:
      values.append(0 * cosines[i, 0])
      continue
    logit = scale * moved(cosines[i, own])
    others = sum(np.exp(scale * cosines[i, k]) for k in range(len(proxies)) if k != own)
    values.append(np.log(others + (np.exp(logit) if include_own else 0)) - logit)
  return np.stack(values)


def normface(x, labels, proxies, scale):
  return _softmax_of_cosines(x, labels, proxies, scale, lambda c: c)


def cosface(x, labels, proxies, margin, scale):
  return _softmax_of_cosines(x, labels, proxies, scale, lambda c: c - margin)


def arcface(x, labels, proxies, margin, scale):
  def moved(c):
    angle = np.arccos(c)
    return np.cos(angle + margin) if getval(angle) <= math.pi - getval(margin) else c - margin * np.sin(margin)

  return _softmax_of_cosines(x, labels, proxies, scale, moved)


def proxy_nca(x, labels, proxies, x_scale, proxy_scale, include_positive=True):
  a, b = (scale * side / np.sqrt(np.sum(side**2, 1))[:, None] for side, scale in ((x, x_scale), (proxies, proxy_scale)))
  values = []
  for i, own in enumerate(labels):
    d = [np.sum((a[i] - p) ** 2) for p in b]
    kept = [k for k in range(len(b)) if include_positive or k != own]
    values.append((d[own] + np.log(sum(np.exp(-d[k]) for k in kept))) * (own >= 0))
  return np.stack(values)


def proxy_anchor(x, labels, proxies, alpha, delta):
  cosines = _cosines(x, proxies)
  first, second = [], []
  for k in range(len(proxies)):
    own = [i for i, label in enumerate(labels) if label == k]
    others = [i for i, label in enumerate(labels) if label not in (k, -1)]
    if own:
      first.append(np.log(1 + sum(np.exp(-alpha * (cosines[i, k] - delta)) for i in own)))
    second.append(np.log(1 + sum(np.exp(alpha * (cosines[i, k] + delta)) for i in others)))
  return sum(first) / max(len(first), 1) + sum(second) / len(second)
