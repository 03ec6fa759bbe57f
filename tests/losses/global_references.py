"""Losses with a state for each example as their official code computes them: loops in float64, exponentials first.

Surrogates are differentiable by `autograd`, with constant weights. Two modalities carry a running maximum b, so that a
running denominator is s e^b; one modality carries s itself.
"""

import autograd.numpy as np
from autograd.tracer import getval


def _blended(old, new, gamma, visited):
  return (1 - gamma) * old + gamma * new if visited else new


def of_views(z, s, tau, gamma, visited):
  """(Surrogates `[V, B]`, the views' running denominators, gradients of tau without rho)."""
  count, b = z.shape[:2]
  values, denominators, gradients = [], [], []
  for v in range(count):
    for i in range(b):
      negatives = [np.dot(z[v, i], z[w, j]) for w in range(count) for j in range(b) if j != i]
      positives = [np.dot(z[v, i], z[w, i]) for w in range(count) if w != v]
      exponentials = [np.exp(getval(each) / tau[i]) for each in negatives]
      denominator = _blended(s[i], sum(exponentials) / len(negatives), gamma, visited[i])
      weights = [each / denominator / len(negatives) for each in exponentials]
      values.append(sum(w * n for w, n in zip(weights, negatives, strict=True)) - sum(positives) / len(positives))
      denominators.append(denominator)
      expected = sum(w * getval(n) / tau[i] for w, n in zip(weights, negatives, strict=True))
      gradients.append(np.log(denominator) - expected)
  return tuple(np.reshape(np.stack(each), (count, b)) for each in (values, denominators, gradients))


def of_side(x, y, s, maximum, tau, gamma, *, diagonal):
  """Of the rows of x among those of y: (surrogates, s, maxima, gradients of tau without rho), each `[B]`."""
  b, found = len(x), []
  for i in range(b):
    differences = [np.dot(x[i], y[j]) - np.dot(x[i], y[i]) for j in range(b)]
    scaled = [getval(each) / tau[i] for each in differences]
    largest = max(maximum[i], *scaled)
    some = [j for j in range(b) if diagonal or j != i]
    exponentials = {j: np.exp(scaled[j] - largest) for j in some}
    of_batch = sum(exponentials.values()) / (b - 1)
    denominator = (1 - gamma) * s[i] * np.exp(maximum[i] - largest) + gamma * of_batch
    weights = {j: exponentials[j] / denominator / (b - 1) for j in some}
    value = sum(weights[j] * differences[j] for j in some)
    gradient = np.log(denominator) + largest - sum(weights[j] * scaled[j] for j in some)
    found.append((value, denominator, largest, gradient))
  return tuple(np.stack(each) for each in zip(*found, strict=True))


def ratio(x, y, u, tau, gamma, eps):
  """Of one side of FastCLIP: g / (u + eps) with the new u constant, differentiable in x, y and tau; and that u."""
  b, ratios, denominators = len(x), [], []
  for i in range(b):
    g = sum(np.exp((np.dot(x[i], y[j]) - np.dot(x[i], y[i])) / tau) for j in range(b) if j != i) / (b - 1)
    denominators.append((1 - gamma) * u[i] + gamma * getval(g))
    ratios.append(g / (denominators[-1] + eps))
  return np.stack(ratios), np.stack(denominators)


def by_devices(x, y, u, tau, devices):
  """FastCLIP's G as each of several devices differentiates it: averaged partial losses, each with one side constant.

  Anchors of the device among candidates of all, which are constant; and constant anchors of all among its candidates.
  """
  b = len(x)
  mine, total = b // devices, 0.0
  for device in range(devices):
    here = range(device * mine, (device + 1) * mine)
    partial = [0.0, 0.0]
    for side, (rows, cols) in enumerate(((x, y), (y, x))):
      fixed_rows, fixed_cols = getval(rows), getval(cols)
      for i in here:
        own = np.dot(rows[i], cols[i])
        g = sum(np.exp((np.dot(rows[i], fixed_cols[j]) - own) / tau) for j in range(b) if j != i) / (b - 1)
        partial[0] = partial[0] + g / u[side][i] / mine
      for i in range(b):
        own = np.dot(fixed_rows[i], fixed_cols[i])
        g = sum(np.exp((np.dot(fixed_rows[i], cols[j]) - own) / tau) for j in here if j != i) / (mine * (b - 1) / b)
        partial[1] = partial[1] + g / u[side][i] / b
    total = total + (partial[0] + partial[1]) / 2 / devices
  return total


def adam(tau, momentum, square, gradient, rate, epoch):
  """One step of FastCLIP v2's temperatures."""
  beta, beta_square = (0.9, 0.999) if epoch else (0.0, 0.0)
  momentum = beta * momentum + (1 - beta) * gradient
  square = beta_square * square + (1 - beta_square) * gradient**2
  direction = momentum / (1 - beta ** (epoch + 1)) / (np.sqrt(square / (1 - beta_square ** (epoch + 1))) + 1e-8)
  return np.clip(tau - rate * direction, 0.01, 1.0), momentum, square
