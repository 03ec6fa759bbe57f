"""Health of embeddings for contrastive training: what NT-Xent of several temperatures sees of two views of a split.

`losses.health` computes and defines all of it, streamed over tiles, in one pass.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from contrastive_jax import losses
from contrastive_jax.evals import evaluator
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Refusal

TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0)
BINS = 10


def glossary(temperatures: tuple[float, ...] = TEMPERATURES, bins: int = BINS) -> dict[str, str]:
  """One-line meanings of the metrics of these options: names hold temperatures, or the middles of bins, after an @."""
  found = {
    'uniformity': 'log mean exp(-t |x - y|^2) over pairs of views, of one image or two; 0 is collapse',
    'positive_cosine': 'mean cosine between two views of one image',
    'false_negatives': 'share of pairs of images that have one label: negatives that are none',
  }
  for name in (f'{temperature:g}' for temperature in temperatures):
    found |= {
      f'nt_xent@{name}': f'NT-Xent of two views of the whole split at temperature {name}',
      f'penalty_entropy@{name}': f'at temperature {name}: 1 if all negatives repel alike, 0 if the hardest does alone',
      f'false_negative_weight@{name}': f'share of the repulsion at temperature {name} that falls on false negatives',
    }
  for name in _middles(bins):
    found[f'cosines@{name}'] = f'share of cosines between views of two images that lie within {1 / bins:g} of {name}'
  return {f'health/{name}': meaning for name, meaning in found.items()}


def _middles(bins: int) -> list[str]:
  return [f'{(2 * place + 1 - bins) / bins:g}' for place in range(bins)]


GLOSSARY = glossary()
# None: a softer or a harder softmax is not a better encoder.
MORE_IS_BETTER = ()


@functools.partial(jax.jit, static_argnames=('temperatures', 't', 'bins'))
def _health(a: Float[Array, 'n d'], b: Float[Array, 'n d'], labels: Int[Array, ' n'] | None, *, temperatures, t, bins):
  return losses.health(jnp.stack([a, b]), labels, temperatures=temperatures, t=t, bins=bins)


def make(
  *,
  temperatures: tuple[float, ...] = TEMPERATURES,
  bins: int = BINS,
  t: float = 2.0,
  representation: str = 'projection',
) -> Evaluator:
  """Every metric of `glossary` on views 0 and 1 of split 'test'; those of false negatives where labels are known.

  At the defaults it takes as long as NT-Xent's value does some twenty times.

  Args:
    temperatures: of the losses and the softmaxes over negatives.
    bins: of the histogram of cosines, over [-1, 1].
    t: of the Gaussian kernel in uniformity.
    representation: 'features' or 'projection'; rows are scaled to norm 1 in either case.

  Raises:
    Refusal: here for options out of range; by `run` for fewer than two rows and for embeddings that are not finite.
  """
  evaluator.check_representation(representation)
  diagnose = functools.partial(_health, temperatures=tuple(temperatures), t=t, bins=bins)
  # Options that cannot be meant are refused where the statistics are made: there they are asked for without embeddings.
  example = jax.ShapeDtypeStruct((2, 1), np.float32)
  jax.eval_shape(diagnose, example, example, None)

  def run(embed) -> dict[str, float]:
    views = [embed('test', view=view) for view in (0, 1)]
    a, b = (evaluator.unit(evaluator.rows(view, representation, 'test')) for view in views)
    if a.shape[0] < 2:
      raise Refusal(f"the health evaluator needs two rows or more, but split 'test' has {a.shape[0]}")
    label = np.asarray(views[0].label)
    known = bool((label >= 0).any())
    labels = jax.device_put(label.astype(np.int32)) if known else None
    found = jax.device_get(diagnose(a, b, labels))
    names = [f'{temperature:g}' for temperature in temperatures]
    metrics = {'uniformity': found.uniformity, 'positive_cosine': found.positive}
    metrics |= {f'nt_xent@{name}': value for name, value in zip(names, found.loss, strict=True)}
    metrics |= {f'penalty_entropy@{name}': value for name, value in zip(names, found.entropy, strict=True)}
    metrics |= {f'cosines@{name}': value for name, value in zip(_middles(bins), found.histogram, strict=True)}
    if known:
      metrics['false_negatives'] = found.false_negatives
      weights = zip(names, found.false_negative_weight, strict=True)
      metrics |= {f'false_negative_weight@{name}': value for name, value in weights}
    return {f'health/{name}': float(value) for name, value in metrics.items()}

  return Evaluator(run)
