"""Two-sided softmax losses of images with several captions: in several languages, or hard negatives."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from contrastive_jax.losses.inputs import (
  Ids,
  Mask,
  Temperature,
  check_array,
  check_floats,
  check_positive,
  check_sides,
  check_temperature,
  wide,
)
from contrastive_jax.losses.softmax import directions
from contrastive_jax.similarity import Fold, Similarity, logsumexp
from contrastive_jax.types import Refusal

__all__ = ['neg_clip', 'one_to_k']


def _flat(x, name: str, captions, mask):
  """The entries of the columns that the captions `[B, K, D]` of each image are, image-major."""
  check_floats(x=x, **{name: captions})
  if x.ndim != 2 or captions.ndim != 3 or (len(captions), captions.shape[2]) != x.shape:
    raise Refusal(
      f'x must be [B, D] and {name} [B, K, D] with one B and D, but they are {x.shape} and {captions.shape}'
    )
  entries = {'z': wide(captions).reshape(-1, captions.shape[2])}
  if mask is not None:
    check_array(f'the mask of {name}', mask, jnp.bool_, 'boolean')
    if mask.shape != captions.shape[:2]:
      raise Refusal(f'the mask of {name} must be {list(captions.shape[:2])}, but it is {list(mask.shape)}')
    entries['mask'] = jnp.asarray(mask).reshape(-1)
  return entries


def neg_clip(
  x: Float[Array, 'b d'],
  y: Float[Array, 'b d'],
  negatives: Float[Array, 'b e d'],
  *,
  negatives_mask: Bool[Array, 'b e'] | None = None,
  temperature: Temperature = 0.07,
  x_id: Ids = None,
  y_id: Ids = None,
  x_mask: Mask = None,
  y_mask: Mask = None,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""NegCLIP: the loss of CLIP with hard negative captions as further candidates of the images.

  .. math:: \ell_i = -\frac{x_i^\top y_i}{\tau} + \frac12 \log \Big( \sum_{j} e^{x_i^\top y_j / \tau}
            + \sum_{j, e} e^{x_i^\top n_{je} / \tau} \Big) + \frac12 \log \sum_{j} e^{x_j^\top y_i / \tau}

  An image meets the negatives of all images. A negative has no image, so it is no anchor. Hard negative images, which
  have captions, are further rows of x and y.

  Args:
    x: images `[B, D]`, unit norm.
    y: their captions `[B, D]`, unit norm.
    negatives: E captions of each image that are wrong in a detail, `[B, E, D]`, unit norm. E = 0 is CLIP.
    negatives_mask: `[B, E]`, False for negatives that do not exist.
    temperature: divides similarities; a scalar. Learnable.
    x_id: as in `info_nce`.
    y_id: as in `info_nce`.
    x_mask: as in `info_nce`.
    y_mask: as in `info_nce`.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per pair, `[B]`.

  Raises:
    ValueError: shapes that do not fit, a static temperature <= 0, an unknown fold or precision.

  Source: Yuksekgonul et al., 2023, "When and why vision-language models behave like bags-of-words, and what to do about
  it?", and its code for one device.
  """
  check_sides(x, y, equal=True)
  entries = _flat(x, 'negatives', negatives, negatives_mask)
  of_x, of_y = directions(
    x,
    y,
    temperature=temperature,
    x_id=x_id,
    y_id=y_id,
    x_mask=x_mask,
    y_mask=y_mask,
    fold=fold,
    precision=precision,
    negatives=entries if negatives.shape[1] else None,
  )
  return (of_x + of_y) / 2


def one_to_k(
  x: Float[Array, 'b d'],
  t: Float[Array, 'b k d'],
  *,
  mask: Bool[Array, 'b k'] | None = None,
  temperature: Temperature = 0.07,
  divide_by: float | None = None,
  balanced: bool = False,
  fold: Fold | str = 'auto',
  precision: str | None = None,
) -> Float[Array, ' b']:
  r"""1-to-K contrastive loss: an image against its captions in K languages, all of them positives in one softmax.

  .. math:: \ell_i = \frac{1}{2c} \Big( \sum_{k=1}^{K} -\log \frac{e^{x_i^\top t_{ik} / \tau}}
            {\sum_{j,l} e^{x_i^\top t_{jl} / \tau}} + \frac{w}{K} \sum_{k=1}^{K} -\log
            \frac{e^{x_i^\top t_{ik} / \tau}}{\sum_{j} e^{x_j^\top t_{ik} / \tau}} \Big)

  The K positives of an image compete, so its optimum is log K for each and not 0. The divisor c is K and w = 1 in the
  released code: the direction from texts to images, which is a mean already, is divided by K once more. With `balanced`
  w = c, so that only the sum over positives is divided. K = 1 is CLIP in both readings.

  Args:
    x: images `[B, D]`, unit norm.
    t: K captions of each image `[B, K, D]`, unit norm.
    mask: `[B, K]`, False for captions that do not exist: neither anchors nor candidates. K is then the number of the
      image's own captions.
    temperature: divides similarities; a scalar. Learnable; the paper starts at 0.07 and clamps it to [0.001, 0.5].
    divide_by: c; None for K.
    balanced: divides the direction from images to texts alone.
    fold: as in `info_nce`.
    precision: as in `info_nce`.

  Returns:
    One value per image, `[B]`, the mean over its captions; 0 for an image without captions, which stays a candidate.

  Raises:
    ValueError: shapes that do not fit, a static temperature or divisor <= 0, an unknown fold or precision.

  Source: Nie et al., 2024, "Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with 1-to-K Contrastive
  Learning", eq. 1 to 3, and its code.
  """
  entries = _flat(x, 't', t, mask)
  check_temperature(temperature)
  check_positive('divide_by', divide_by)
  x = wide(x) / jnp.asarray(temperature, wide(x).dtype)
  op = Similarity({'z': x}, entries, fold=fold, precision=precision)
  (of_x,), (of_t,) = op.reduce([logsumexp()], [logsumexp()])
  exists = jnp.ones(t.shape[:2], bool) if mask is None else jnp.asarray(mask)
  logits = (x[:, None] * wide(t)).sum(-1)
  count = exists.sum(1).astype(x.dtype)
  captions = jnp.maximum(count, 1)
  seen = jnp.where(count > 0, of_x, 0)[:, None]  # without any caption anywhere it is infinite
  to_text = jnp.where(exists, seen - logits, 0).sum(1)
  to_image = jnp.where(exists, of_t.reshape(t.shape[:2]) - logits, 0).sum(1) / captions
  divisor = captions if divide_by is None else divide_by
  return (to_text / divisor + (to_image if balanced else to_image / divisor)) / 2
