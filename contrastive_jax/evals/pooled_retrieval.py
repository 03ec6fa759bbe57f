"""Retrieval among all captions of all images, as image-caption sets with several captions of each image score it.

An image looks for any of its captions among all captions, and has found one at the rank of its best; every caption
looks for its image among all images. This is the protocol of COCO and Flickr30k with five captions an image; of slots
that are languages, `retrieval` looks in each by itself.

Ties are counted as `retrieval` counts them, and ranks over tiles: no matrix of images and captions is made.

Reference: Karpathy and Fei-Fei, 2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions".
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from contrastive_jax import similarity as sim
from contrastive_jax.evals import captions, evaluator
from contrastive_jax.evals.evaluator import Evaluator

_ASKED = {'t2i': ('captions', 'image'), 'i2t': ('images', 'first own caption')}
GLOSSARY = {
  f'pooled_retrieval/{direction}_{figure}': meaning.format(*names)
  for direction, names in _ASKED.items()
  for figure, meaning in {
    'r1': 'share of {0} whose {1} is found first, among all captions of all images or all images',
    'r5': 'share of {0} whose {1} is among the first 5 of them',
    'r10': 'share of {0} whose {1} is among the first 10 of them',
    'median_rank': 'median rank of the {1} that {0} look for; 1 is best',
  }.items()
}
MORE_IS_BETTER = tuple(f'pooled_retrieval/{direction}_r{k}' for direction in _ASKED for k in (1, 5, 10))


@jax.jit
def _ahead(x: Float[Array, 'n d'], t: Float[Array, 'm d'], image: Int[Array, ' m'], mask: Bool[Array, ' m']):
  """Of each image the captions of others that are not behind its best, of each caption the other images."""
  cosine = jnp.where(mask, (x[image] * t).sum(-1), -jnp.inf)
  best = jax.ops.segment_max(cosine, image, len(x))

  def closer(pair):
    other = sim.valid(pair) & (pair.anchor['image'] != pair.other['image'])
    return other & (pair.dot + captions.TIE >= pair.anchor['own'])

  there = jnp.isfinite(best)
  rows = {'z': x, 'own': best, 'image': jnp.arange(len(x)), 'mask': there}
  cols = {'z': t, 'own': cosine, 'image': image, 'mask': mask}
  (of_images,), (of_captions,) = sim.Similarity(rows, cols).reduce([sim.size(closer)], [sim.size(closer)])
  return of_images, of_captions, there


def ranks(
  x: Float[Array, 'n d'], t: Float[Array, 'n k d'], mask: Bool[np.ndarray, 'n k']
) -> dict[str, Int[np.ndarray, ' q']]:
  """Ranks from 1 of what is looked for, by direction; images without captions neither look nor can be found.

  Args:
    x: images, of unit norm.
    t: their captions, of unit norm.
    mask: which captions there are.
  """
  image = np.repeat(np.arange(len(mask), dtype=np.int32), mask.shape[1])
  flat = jax.device_put(mask.reshape(-1))
  of_images, of_captions, there = captions.fetch(
    _ahead(x, t.reshape(-1, t.shape[2]), jax.device_put(image), flat),
  )
  return {'t2i': 1 + of_captions[mask.reshape(-1)].astype(np.int64), 'i2t': 1 + of_images[there].astype(np.int64)}


def make(*, split: str = 'test') -> Evaluator:
  """R@1, R@5, R@10 and the median rank in both directions, over all captions together.

  Args:
    split: 'train' or 'test'.

  Raises:
    Refusal: by `run` for a split without captions and for embeddings that are not finite.
  """

  def run(embed) -> dict[str, float]:
    embedded = embed(split)
    texts = captions.texts_of(embedded, split, 'pooled_retrieval')
    x = evaluator.unit(evaluator.rows(embedded, 'projection', split))
    found = ranks(x, evaluator.unit(jax.device_put(texts.projection)), texts.mask)
    metrics: dict[str, float] = {}
    for direction, rank in found.items():
      metrics |= {f'pooled_retrieval/{direction}_r{k}': float((rank <= k).mean()) for k in (1, 5, 10)}
      metrics[f'pooled_retrieval/{direction}_median_rank'] = float(np.median(rank))
    return metrics

  return Evaluator(run)
