"""Losses with class proxies: rows against one learnable vector a class, of which there may be a million.

Both sides are scaled to unit norm inside. On a mesh, and in a caller's `shard_map` with `ring(axis)`, where `proxies`
are the device's own part of the classes, a label is the number of its class among all of them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from contrastive_jax.losses import inputs
from contrastive_jax.losses.margins import check_above_zero, check_scalars, global_sums, one_more
from contrastive_jax.similarity import Fold, Similarity, logsumexp, size, total

__all__ = ['arcface', 'cosface', 'normface', 'proxy_anchor', 'proxy_nca']


def _check(x, labels, proxies, **above_zero):
  inputs.check_sides(x, proxies, names=('x', 'proxies'))
  inputs.check_entries(len(x), labels=labels)
  check_above_zero(**above_zero)


def _own(pair):
  """The candidate is the proxy of the anchor's class; a label of -1 is the class of none."""
  return pair.other['position'] == pair.anchor['label']


def _logits(x, labels, proxies, scale, fold, precision):
  """Of each row: the log-sum-exp of its logits with the other classes, that with its own, and whether both exist."""
  x, proxies = inputs.unit(inputs.wide(x)), inputs.unit(inputs.wide(proxies))
  rows = {'z': x * jnp.asarray(scale, x.dtype), 'label': labels.astype(jnp.int32)}
  op = Similarity(rows, {'z': proxies}, fold=fold, precision=precision)
  (others, own, count), _ = op.reduce([logsumexp(over=lambda pair: ~_own(pair)), total(over=_own), size(_own)])
  some = (count > 0) & ~jnp.isneginf(others)
  return jnp.where(some, others, 0), jnp.where(some, own, 0), some


def normface(
  x: Float[Array, 'b d'],
  labels: Int[Array, ' b'],
  proxies: Float[Array, 'k d'],
  *,
  scale: float | Float[Array, ''] = 20.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Normalised softmax, the loss of NormFace: the cross-entropy of the cosines with one proxy a class.

  .. math:: \ell_i = -s \cos(x_i, p_{y_i}) + \log \sum_k e^{s \cos(x_i, p_k)}

  Args:
    x: `[B, D]`, of any norm.
    labels: `[B]` integers, numbers of classes; -1 marks instances without one.
    proxies: `[K, D]`, of any norm: one learnable vector a class.
    scale: s, one over the temperature. Learned in the paper; a fixed one should grow with log K.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per row, `[B]`; 0 where the label is no number of a class.

  Raises:
    ValueError: shapes that do not fit, labels that are no integers, a static scale <= 0, an unknown fold or precision.

  Source: Wang et al., 2017, "NormFace: L2 Hypersphere Embedding for Face Verification".
  """
  _check(x, labels, proxies, scale=scale)
  others, own, some = _logits(x, labels, proxies, scale, fold, precision)
  return jnp.where(some, jax.nn.softplus(others - own), 0)


def cosface(
  x: Float[Array, 'b d'],
  labels: Int[Array, ' b'],
  proxies: Float[Array, 'k d'],
  *,
  margin: float | Float[Array, ''] = 0.35,
  scale: float | Float[Array, ''] = 64.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""CosFace: `normface` with a margin in cosine, :math:`\cos(x_i, p_{y_i}) - m` in place of the own class's cosine.

  Args:
    x: as in `normface`.
    labels: as in `normface`.
    proxies: as in `normface`.
    margin: m.
    scale: s.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per row, `[B]`; 0 where the label is no number of a class.

  Raises:
    ValueError: as in `normface`.

  Source: Wang et al., 2018, eq. 4.
  """
  _check(x, labels, proxies, scale=scale)
  check_scalars(margin=margin)
  others, own, some = _logits(x, labels, proxies, scale, fold, precision)
  return jnp.where(some, jax.nn.softplus(others - own + scale * margin), 0)


def arcface(
  x: Float[Array, 'b d'],
  labels: Int[Array, ' b'],
  proxies: Float[Array, 'k d'],
  *,
  margin: float | Float[Array, ''] = 0.5,
  scale: float | Float[Array, ''] = 64.0,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""ArcFace: `normface` with a margin in angle, :math:`\cos(\theta_i + m)` in place of the own class's cosine.

  Beyond :math:`\theta = \pi - m`, where that would rise again, it is :math:`\cos \theta - m \sin m`, as in the official
  code.

  Args:
    x: as in `normface`.
    labels: as in `normface`.
    proxies: as in `normface`.
    margin: m, in radians.
    scale: s.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per row, `[B]`; 0 where the label is no number of a class. A row that coincides with its proxy, or is
    opposite to it, up to rounding, has no gradient through its own class.

  Raises:
    ValueError: as in `normface`.

  Source: Deng et al., 2019, eq. 3.
  """
  _check(x, labels, proxies, scale=scale)
  check_scalars(margin=margin)
  others, own, some = _logits(x, labels, proxies, scale, fold, precision)
  # The angle has no derivative at a cosine of 1 or -1.
  most = 1 - jnp.finfo(own.dtype).eps
  cosine = jnp.clip(own / scale, -most, most)
  sine = jnp.sqrt((1 - cosine) * (1 + cosine))
  rising = cosine < -jnp.cos(margin)
  moved = jnp.where(rising, cosine - margin * jnp.sin(margin), cosine * jnp.cos(margin) - sine * jnp.sin(margin))
  return jnp.where(some, jax.nn.softplus(others - scale * moved), 0)


def proxy_nca(
  x: Float[Array, 'b d'],
  labels: Int[Array, ' b'],
  proxies: Float[Array, 'k d'],
  *,
  x_scale: float | Float[Array, ''] = 1.0,
  proxy_scale: float | Float[Array, ''] = 1.0,
  include_positive: bool = True,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""Proxy-NCA: each row must be nearer to the proxy of its class than to the others.

  .. math:: \ell_i = d_{i y_i} + \log \sum_k e^{-d_{ik}}, \qquad
            d_{ik} = \Big\lVert a \frac{x_i}{\lVert x_i \rVert} - b \frac{p_k}{\lVert p_k \rVert} \Big\rVert^2

  That is `normface` of scale 2ab. Without `include_positive` the sum leaves out the row's own class, as in the paper;
  it may then be negative, down to log(k - 1) - 4ab.

  Args:
    x: as in `normface`.
    labels: as in `normface`.
    proxies: as in `normface`.
    x_scale: a. Public codes have a = b = 1, a = b = 3, or 1 and 8.
    proxy_scale: b.
    include_positive: whether the own class is in the sum.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per row, `[B]`; 0 where the label is no number of a class, or there is no other class.

  Raises:
    ValueError: as in `normface`, of both scales.

  Source: Movshovitz-Attias et al., 2017, section 3; with the own class, Teh et al., 2020, "ProxyNCA++".
  """
  _check(x, labels, proxies, x_scale=x_scale, proxy_scale=proxy_scale)
  # The squared norms are a^2 and b^2 in every distance: they cancel.
  others, own, some = _logits(x, labels, proxies, 2 * x_scale * proxy_scale, fold, precision)
  return jnp.where(some, jax.nn.softplus(others - own) if include_positive else others - own, 0)


def proxy_anchor(
  x: Float[Array, 'b d'],
  labels: Int[Array, ' b'],
  proxies: Float[Array, 'k d'],
  *,
  alpha: float | Float[Array, ''] = 32.0,
  delta: float | Float[Array, ''] = 0.1,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, '']:
  r"""Proxy-Anchor: the proxies are the anchors, the rows of the batch their positives and negatives.

  .. math:: \ell = \frac{1}{|K^+|} \sum_{k \in K^+} \log \Big( 1 + \sum_{y_i = k} e^{-\alpha (s_{ik} - \delta)} \Big)
            + \frac1K \sum_k \log \Big( 1 + \sum_{y_i \ne k} e^{\alpha (s_{ik} + \delta)} \Big),
            \qquad s_{ik} = \cos(x_i, p_k)

  :math:`K^+` are the classes in the batch. Those that are absent have the second term alone.

  Args:
    x: as in `normface`.
    labels: as in `normface`; a row of label -1 is neither positive nor negative.
    proxies: as in `normface`.
    alpha: scale.
    delta: margin.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    A scalar. Inside a caller's `shard_map` with `ring(axis)`: that of all devices' rows and classes, on each device.

  Raises:
    ValueError: as in `normface`, of alpha.

  Source: Kim et al., 2020, eq. 4.
  """
  _check(x, labels, proxies, alpha=alpha)
  check_scalars(delta=delta)
  x, proxies = inputs.unit(inputs.wide(x)), inputs.unit(inputs.wide(proxies))
  candidates = {'z': x * jnp.asarray(alpha, x.dtype), 'label': labels.astype(jnp.int32)}

  def positive(pair):
    return pair.other['label'] == pair.anchor['position']

  def negative(pair):
    return ~positive(pair) & (pair.other['label'] >= 0)

  op = Similarity({'z': proxies}, candidates, fold=fold, precision=precision)
  found, _ = op.reduce([logsumexp(lambda pair: -pair.dot, positive), logsumexp(over=negative)])
  # Proxies do not move between devices, so each adds its 1 once.
  near, far = (one_more(lse, alpha * delta) for lse in found)
  present = (~jnp.isneginf(found[0])).astype(x.dtype)
  near, far, present, classes = global_sums(jnp.stack([near, far, present, jnp.ones_like(present)], 1), fold)
  return near / jnp.maximum(present, 1) + far / classes
