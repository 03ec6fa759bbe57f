"""Every loss from its equation, by brute force in float64, with gradients by `autograd`: nothing here comes from JAX.

Each anchor's candidates and positives are written out as lists of index pairs; logarithms and exponentials are plain
(float64 holds e^700), so that no trick of the package is repeated. `temperature` may be a scalar or one per anchor.
"""

import autograd.numpy as np
from autograd.tracer import getval


def _similarities(z):
  """s[v, i, w, j] between view v of instance i and view w of instance j."""
  return np.einsum('vid,wjd->viwj', z, z)


def _anchors(z):
  return [(v, i) for v in range(z.shape[0]) for i in range(z.shape[1])]


def _of_anchor(temperature, v, i):
  """The temperature of one anchor: a scalar, one per instance, or one per view and instance."""
  index = {0: (), 1: (i,), 2: (v, i)}[np.ndim(temperature)]
  return temperature[index] if index else temperature


def _log_sum(logits):
  total = 0.0
  for logit in logits:
    total = total + np.exp(logit)
  return np.log(total)


def _grid(values, z):
  """Values in the order of `_anchors` as [V, B]."""
  return np.reshape(np.stack(values), z.shape[:2])


def nt_xent(z, temperature):
  s, values = _similarities(z), []
  for v, i in _anchors(z):
    tau = _of_anchor(temperature, v, i)
    logits = [s[v, i, w, j] / tau for w, j in _anchors(z) if (w, j) != (v, i)]
    positives = [s[v, i, w, i] / tau for w in range(z.shape[0]) if w != v]
    values.append(_log_sum(logits) - sum(positives) / len(positives))
  return _grid(values, z)


def queue_nce(x, y, queue, temperature, include_positive=True):
  values = []
  for i in range(len(x)):
    own = np.sum(x[i] * y[i]) / temperature
    logits = [np.sum(x[i] * queue[j]) / temperature for j in range(len(queue))]
    values.append(_log_sum(logits + [own] * include_positive) - own)
  return np.stack(values)


def sup_con(z, temperature, labels):
  s, values = _similarities(z), []
  for v, i in _anchors(z):
    tau = _of_anchor(temperature, v, i)
    others = [(w, j) for w, j in _anchors(z) if (w, j) != (v, i)]
    positives = [s[v, i, w, j] / tau for w, j in others if labels[j] == labels[i] and labels[i] >= 0]
    if not positives:
      values.append(0.0 * s[v, i, v, i])
      continue
    values.append(_log_sum([s[v, i, w, j] / tau for w, j in others]) - sum(positives) / len(positives))
  return _grid(values, z)


def decoupled(z, temperature, sigma=None):
  """With sigma the positives carry weights, which are constants."""
  s, values = _similarities(z), []
  weights = [1.0] * z.shape[1] if sigma is None else von_mises_fisher_weights(getval(z), sigma)
  for v, i in _anchors(z):
    tau = _of_anchor(temperature, v, i)
    negatives = [s[v, i, w, j] / tau for w, j in _anchors(z) if j != i]
    positives = [s[v, i, w, i] / tau for w in range(z.shape[0]) if w != v]
    values.append(_log_sum(negatives) - weights[i] * sum(positives) / len(positives))
  return _grid(values, z)


def von_mises_fisher_weights(z, sigma):
  each = [np.exp(np.dot(z[0, i], z[1, i]) / sigma) for i in range(z.shape[1])]
  return [2 - e / (sum(each) / len(each)) for e in each]


def mv_info_nce(z, temperature, include_same_view=True):
  s, views, values = _similarities(z) / temperature, range(z.shape[0]), []
  for i in range(z.shape[1]):
    positives = [s[v, i, w, i] for v in views for w in views if v != w]
    allowed = [
      s[v, i, w, j] for v in views for w, j in _anchors(z) if ((w, j) != (v, i) if include_same_view else w != v)
    ]
    values.append(_log_sum(allowed) - _log_sum(positives))
  return np.stack(values)


def mv_dhel(z, temperature):
  s, views, values = _similarities(z) / temperature, range(z.shape[0]), []
  for i in range(z.shape[1]):
    positives = [s[v, i, w, i] for v in views for w in views if v < w]
    uniformity = [_log_sum([s[v, i, v, j] for j in range(z.shape[1]) if j != i]) for v in views]
    values.append(sum(uniformity) - _log_sum(positives))
  return np.stack(values)


def _two_sided(x, y, x_id, y_id, x_mask, y_mask):
  """Ids (positions where None) and masks (True where None) of both sides, as lists."""
  made = []
  for rows, ids, mask in ((x, x_id, x_mask), (y, y_id, y_mask)):
    made.append(list(range(len(rows))) if ids is None else list(ids))
    made.append([True] * len(rows) if mask is None else list(mask))
  return made


def info_nce(x, y, temperature, x_id=None, y_id=None, x_mask=None, y_mask=None, label_smoothing=0.0):
  s, values = np.dot(x, y.T), []
  a, counted, b, exists = _two_sided(x, y, x_id, y_id, x_mask, y_mask)
  for i in range(len(x)):
    tau = _of_anchor(temperature, 0, i)
    candidates = [j for j in range(len(y)) if exists[j]]
    positives = [j for j in candidates if a[i] == b[j] and a[i] >= 0]
    if not positives or not counted[i]:
      values.append(0.0 * s[i, 0])
      continue
    target = {j: label_smoothing / len(candidates) for j in candidates}
    for j in positives:
      target[j] = target[j] + (1 - label_smoothing) / len(positives)
    log_sum = _log_sum([s[i, j] / tau for j in candidates])
    values.append(sum(target[j] * (log_sum - s[i, j] / tau) for j in candidates))
  return np.stack(values)


def info_nce_both(x, y, temperature, x_id=None, y_id=None, x_mask=None, y_mask=None, label_smoothing=0.0):
  forward = info_nce(x, y, temperature, x_id, y_id, x_mask, y_mask, label_smoothing)
  return forward, info_nce(y, x, temperature, y_id, x_id, y_mask, x_mask, label_smoothing)


def symmetric_info_nce(x, y, temperature, **more):
  forward, backward = info_nce_both(x, y, temperature, **more)
  return (forward + backward) / 2


def neg_clip(x, y, negatives, temperature, negatives_mask=None, x_id=None, y_id=None, x_mask=None, y_mask=None):
  """The columns of the images are the captions and, of no image's id, the negatives."""
  b, e, d = np.shape(negatives)
  a, counted, own, exists = _two_sided(x, y, x_id, y_id, x_mask, y_mask)
  there = [True] * (b * e) if negatives_mask is None else list(np.reshape(negatives_mask, b * e))
  columns = np.concatenate([y, np.reshape(negatives, (b * e, d))])
  to_text = info_nce(x, columns, temperature, a, own + [-1] * (b * e), counted, exists + there)
  return (to_text + info_nce(y, x, temperature, own, a, exists, counted)) / 2


def one_to_k(x, t, temperature, mask=None, divide_by=None, balanced=False):
  """The mean over images of the published sums, each image's captions averaged in the direction from texts."""
  b, k, _ = np.shape(t)
  there = [(i, l) for i in range(b) for l in range(k) if mask is None or mask[i, l]]
  s = np.einsum('id,jld->ijl', x, t) / temperature
  values = []
  for i in range(b):
    own = [l for j, l in there if j == i]
    if not own:
      values.append(0.0 * s[i, 0, 0])
      continue
    to_text = sum(_log_sum([s[i, j, m] for j, m in there]) - s[i, i, l] for l in own)
    to_image = sum(_log_sum([s[j, i, l] for j in range(b)]) - s[i, i, l] for l in own) / len(own)
    divisor = len(own) if divide_by is None else divide_by
    values.append((to_text / divisor + to_image / (1 if balanced else divisor)) / 2)
  return np.stack(values)


def sigmoid(x, y, temperature, bias, x_id=None, y_id=None, x_mask=None, y_mask=None):
  s, values = np.dot(x, y.T), []
  a, counted, b, exists = _two_sided(x, y, x_id, y_id, x_mask, y_mask)
  for i in range(len(x)):
    value = 0.0 * s[i, 0]
    for j in range(len(y)):
      if counted[i] and exists[j]:
        sign = 1 if a[i] == b[j] and a[i] >= 0 else -1
        value = value + np.log(1 + np.exp(-sign * (s[i, j] / _of_anchor(temperature, 0, i) + bias)))
    values.append(value)
  return np.stack(values)


def uniformity(x, t):
  pairs = [(i, j) for j in range(len(x)) for i in range(j)]
  return np.log(sum(np.exp(-t * np.sum((x[i] - x[j]) ** 2)) for i, j in pairs) / len(pairs))


def alignment(x, y, exponent=2):
  return sum(np.sum((x[i] - y[i]) ** 2) ** (exponent / 2) for i in range(len(x))) / len(x)


def align_uniform(z, t, align_weight=1.0, uniform_weight=1.0, exponent=2):
  views = range(z.shape[0])
  pairs = [alignment(z[v], z[w], exponent) for w in views for v in views if v < w]
  spread = [uniformity(z[v], t) for v in views]
  return align_weight * sum(pairs) / len(pairs) + uniform_weight * sum(spread) / len(spread)


def poly_view(z, temperature, aggregate='geometric', normalize_rest=False):
  s, values = _similarities(z), []
  for v, i in _anchors(z):
    tau, others = _of_anchor(temperature, v, i), [w for w in range(z.shape[0]) if w != v]
    negatives = [(w, j) for w, j in _anchors(z) if j != i]
    if aggregate == 'sufficient':
      rest = sum(z[w, i] for w in others) / len(others)
      rest = rest / np.sqrt(np.sum(rest**2)) if normalize_rest else rest
      positive = np.exp(np.dot(z[v, i], rest) / tau)
      total = sum(np.exp(np.dot(z[w, j], rest) / tau) for w, j in negatives)
      values.append(-np.log(positive / (positive + total)))
      continue
    total = sum(np.exp(s[v, i, w, j] / tau) for w, j in negatives)
    shares = [np.exp(s[v, i, w, i] / tau) / (np.exp(s[v, i, w, i] / tau) + total) for w in others]
    if aggregate == 'geometric':
      values.append(-sum(np.log(share) for share in shares) / len(shares))
    else:
      values.append(-np.log(sum(shares) / len(shares)))
  return _grid(values, z)


def _hardest(z, v, i, alpha):
  """The negatives of an anchor whose cosines are the largest; which they are is a constant."""
  negatives = [(w, j) for w, j in _anchors(z) if j != i]
  order = sorted(negatives, key=lambda at: -getval(np.dot(z[v, i], z[at])))
  return order[: max(1, round(alpha * len(negatives)))]


def hard_nce(z, temperature, alpha):
  s, values = _similarities(z) / temperature, []
  for v, i in _anchors(z):
    positives = [s[v, i, w, i] for w in range(z.shape[0]) if w != v]
    hard = [s[v, i, w, j] for w, j in _hardest(z, v, i, alpha)]
    values.append(_log_sum(positives + hard) - sum(positives) / len(positives))
  return _grid(values, z)


def simple_contrastive(z, weight, alpha=1.0):
  s, values = _similarities(z), []
  for v, i in _anchors(z):
    positives = [s[v, i, w, i] for w in range(z.shape[0]) if w != v]
    hard = [s[v, i, w, j] for w, j in _hardest(z, v, i, alpha)]
    values.append(weight * sum(hard) / len(hard) - sum(positives) / len(positives))
  return _grid(values, z)


def hardness_nce(z, temperature, beta, tau_plus):
  s, values = _similarities(z) / temperature, []
  for v, i in _anchors(z):
    negatives = [s[v, i, w, j] for w, j in _anchors(z) if j != i]
    weights = [np.exp(beta * each) for each in negatives]
    expected = sum(w * np.exp(each) for w, each in zip(weights, negatives, strict=True)) / sum(weights)
    terms = []
    for positive in (s[v, i, w, i] for w in range(z.shape[0]) if w != v):
      corrected = (expected - tau_plus * np.exp(positive)) / (1 - tau_plus)
      floor = np.exp(-1 / getval(temperature))
      corrected = corrected if getval(corrected) > floor else floor
      terms.append(np.log(np.exp(positive) + len(negatives) * corrected) - positive)
    values.append(sum(terms) / len(terms))
  return _grid(values, z)


def dhel(x, y, temperature, both_views=True):
  values = []
  for i in range(len(x)):
    value = -np.dot(x[i], y[i]) / temperature
    for side in (x, y)[: 1 + both_views]:
      value = value + _log_sum([np.dot(side[i], side[j]) / temperature for j in range(len(x)) if j != i])
    values.append(value)
  return np.stack(values)


def _kernel(name, a, b, p):
  square = np.sum((a - b) ** 2)
  return {
    'gaussian': lambda: np.exp(-p * square),
    'inverse_multiquadric': lambda: p / np.sqrt(p**2 + square),
    'riesz': lambda: np.sign(p) * np.sqrt(square) ** (-p),
    'logarithmic': lambda: -np.log(p * square + 1),
  }[name]()


def kcl(x, y, parameter, energy_weight, kernel='gaussian'):
  values, half = [], 0.5 if kernel == 'logarithmic' else 1.0
  for i in range(len(x)):
    others = [j for j in range(len(x)) if j != i]
    energy = sum(_kernel(kernel, side[i], side[j], parameter) for side in (x, y) for j in others) / len(others)
    values.append(-2 * _kernel(kernel, x[i], y[i], parameter) + energy_weight * half * energy)
  return np.stack(values)
