"""From text to images: what is learnt from embedded captions alone, tested on embedded images.

Two towers that were trained together leave a gap between their modalities. A model of captions bridges it if noise, and
a shift between the means, are added to the captions that it is trained on; images are never changed.

Reference: Gu et al., 2023, "I Can't Believe There's No Images! Learning Visual Tasks Using only Language Supervision"
(CLOSE), and its code.
"""

from typing import cast

import jax
import numpy as np
from jaxtyping import Array, Float

from contrastive_jax import losses
from contrastive_jax.evals import captions, evaluator, linear
from contrastive_jax.evals.evaluator import Embed, Evaluator
from contrastive_jax.types import Embedded, Refusal

GLOSSARY = {
  'close/accuracy': 'share of labelled test images that a linear probe of training captions classifies correctly',
  'close/noise_accuracy': 'the same, fitted on captions with noise',
  'close/shift_accuracy': 'the same, fitted on captions moved by the difference of the mean image and caption',
  'close/shift_noise_accuracy': 'the same, fitted on captions moved by that difference, with noise',
}
MORE_IS_BETTER = tuple(GLOSSARY)


def mean_shift(x: Float[Array, 'n d'], t: Float[Array, 'm d']) -> Float[Array, ' d']:
  """The mean image less the mean caption: what moves captions to where images are."""
  return x.mean(0) - t.mean(0)


def adapt(
  t: Float[Array, 'n d'],
  key: Array | None = None,
  *,
  sigma: float = 0.08,
  shift: Float[Array, ' d'] | None = None,
  scale: float = 1.0,
  train: bool = True,
) -> Float[Array, 'n d']:
  r"""Embedded captions as a model of images is to be trained on them.

  .. math:: \tilde t = n(t + c \, \delta + \sigma \xi), \qquad \xi \sim N(0, I), \qquad n(x) = x / \lVert x \rVert

  Args:
    t: captions `[n, d]`, unit norm.
    key: of the noise; needed if train and sigma > 0.
    sigma: standard deviation of the noise in each feature; the paper's are 0.04 to 0.12 in 768 of them, where 0.04
      makes a noise longer than the caption.
    shift: delta, as of `mean_shift`; None for none.
    scale: c.
    train: without, there is no noise and, as in the released code, the moved caption is not scaled to norm 1.

  Raises:
    Refusal: a negative sigma, noise without a key.
  """
  if sigma < 0:
    raise Refusal(f'sigma must be at least 0, but it is {sigma}')
  moved = t if shift is None else t + scale * shift
  if not train:
    return moved
  if sigma > 0:
    if key is None:
      raise Refusal('noise needs a key')
    moved = moved + sigma * jax.random.normal(key, t.shape, t.dtype)
  return losses.unit(moved)


_shift, _key = jax.jit(mean_shift), jax.jit(jax.random.key)
_adapt = jax.jit(adapt, static_argnames=('sigma', 'train'))


def make(
  *, sigma: float = 0.08, scale: float = 1.0, strengths: tuple[float, ...] = (1e-2, 1e-3, 1e-4), seed: int = 0
) -> Evaluator:
  """Every metric of `GLOSSARY`: linear probes of the first captions of split 'train', on the images of split 'test'.

  Args:
    sigma: of the noise, as of `adapt`, drawn once.
    scale: of the shift, as of `adapt`.
    strengths: of the penalty, chosen on held-out captions, as of `linear`.
    seed: of the noise and of the held-out rows.

  Raises:
    Refusal: here for options out of range; by `run` for splits without captions or labels and for embeddings that are
      not finite.
  """
  evaluator.check_seed(seed)
  if sigma < 0:
    raise Refusal(f'sigma must be at least 0, but it is {sigma}')
  probe = linear.make(strengths=strengths, representation='projection', normalise='none', seed=seed)

  def run(embed) -> dict[str, float]:
    train, test = embed('train'), embed('test')
    t, rows = captions.first_of(captions.texts_of(train, 'train', 'close'))
    images = [evaluator.unit(evaluator.rows(e, 'projection', s)) for e, s in ((train, 'train'), (test, 'test'))]
    key = _key(jax.device_put(np.uint32(seed)))
    shift, c = _shift(images[0], t), jax.device_put(np.float32(scale))
    still = jax.device_put(np.zeros(shift.shape, np.float32))
    found = {}
    for name, delta, noise in (
      ('', still, 0.0),
      ('noise_', still, sigma),
      ('shift_', shift, 0.0),
      ('shift_noise_', shift, sigma),
    ):
      made = _adapt(t, key, sigma=noise, shift=delta, scale=c)
      known = Embedded(made, made, np.asarray(train.label)[rows], np.asarray(train.index)[rows])
      splits = {'train': known, 'test': test._replace(projection=images[1])}
      found[f'close/{name}accuracy'] = probe.run(cast(Embed, splits.__getitem__))['linear/accuracy']
    return found

  return Evaluator(run)
