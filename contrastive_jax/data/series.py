"""Views of series that keep their length: factors, offsets and noise, drawn once for a series or at every step."""

import jax
from jaxtyping import Array, Float

from contrastive_jax.data import preset
from contrastive_jax.data.preset import Colours, Views


def series(
  *,
  mean: Colours,
  std: Colours,
  image_size: int | None = None,
  scaling: float = 0.5,
  shift: float = 0.5,
  jitter: float = 0.5,
  chance: float = 0.5,
) -> Views:
  r"""The augmentations of CoST (Woo et al., 2022), of normalised series, each applied with a chance of its own.

  .. math:: v_{tf} = (1 + a \epsilon_f) \, x_{tf} + b \epsilon'_f + c \epsilon''_{tf}, \qquad \epsilon \sim N(0, 1)

  A vector [f] is a series of one step.

  Args:
    mean: of every feature, by which a series is normalised.
    std: likewise.
    image_size: None: series are not resized.
    scaling: a, the spread of a factor on every feature of a series.
    shift: b, the spread of what is added to it.
    jitter: c, the spread of the noise of every step.
    chance: of each of the three.

  Raises:
    Refusal: a spread below 0, a chance outside of [0, 1], an image_size; of `augment`, inputs with another number
      of features than the statistics.
  """
  preset.check_sizes(scaling=scaling, shift=shift, jitter=jitter)
  preset.check_fractions(chance=chance)
  plain = preset.plain(mean, std, image_size)

  def augment(key, raw, view=0) -> Float[Array, '*t f']:
    x = plain(raw)
    of_chance, *keys = jax.random.split(key, 4)
    factor, offset, noise = (
      spread * draw
      for spread, draw in zip(
        (scaling, shift, jitter),
        (jax.random.normal(k, shape) for k, shape in zip(keys, (x.shape[-1:], x.shape[-1:], x.shape), strict=True)),
        strict=True,
      )
    )
    taken = jax.random.uniform(of_chance, (3,)) < chance
    return x * (1 + taken[0] * factor) + taken[1] * offset + taken[2] * noise

  return Views(augment, plain)
