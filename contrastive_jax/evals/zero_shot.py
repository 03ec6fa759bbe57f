"""Zero-shot classification: an image belongs to the class whose name, in sentences, it is the most similar to.

The classifier of a class is the mean of the unit embeddings of its sentences, one for each template, scaled to norm 1
(Radford et al., 2021). A class wins only if no other is as similar: ties are mistakes, so equal embeddings classify
nothing. With `frechet`, classes are besides predicted by their Fréchet mean under a metric: see `loki`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from contrastive_jax.evals import captions, evaluator, loki
from contrastive_jax.evals.evaluator import Embed, Evaluator
from contrastive_jax.types import Refusal

GLOSSARY = {
  'zero_shot/accuracy': 'share of labelled images that are more similar to the name of their class than to any other',
  'zero_shot/mean_per_class': 'the same, as the mean over classes of the share in each',
  'zero_shot/squared_distance': 'mean squared distance between the most similar class and that of the image',
  'zero_shot/frechet_accuracy': 'share of labelled images whose class is the Fréchet mean of the classes',
  'zero_shot/frechet_squared_distance': 'mean squared distance between that Fréchet mean and the class of the image',
}
MORE_IS_BETTER = ('zero_shot/accuracy', 'zero_shot/mean_per_class')

ROWS = 1024  # images whose similarities to all classes are held at a time


def classifier(embed: Embed, templates: tuple[str, ...]) -> Float[np.ndarray, 'c p']:
  """The unit embedding of each class.

  Raises:
    Refusal: classes without names, a method without text tower.
  """
  names = embed.label_names
  if not names:
    raise Refusal('the zero_shot evaluator needs names of classes, but the data set has none')
  strings = [template.replace('{}', name) for name in names for template in templates]
  rows = np.asarray(jax.device_get(embed.texts(strings)), np.float32)
  found = jax.device_get(evaluator.unit(jax.device_put(rows)))
  return jax.device_get(evaluator.unit(jax.device_put(found.reshape(len(names), len(templates), -1).mean(1))))


@functools.partial(jax.jit, static_argnames='frechet')
def _predict(x, classes, label, distances, temperature, *, frechet: bool):
  """Of each image: whether its own class wins, the most similar class, and the Fréchet mean."""

  def one(row: Float[Array, ' p'], own: Int[Array, '']):
    cosine = jnp.matmul(classes, row, precision='highest')
    others = jnp.where(jnp.arange(len(cosine)) == own, -jnp.inf, cosine)
    won = cosine[own] > others.max() + captions.TIE
    if not frechet:
      return won, cosine.argmax(), cosine.argmax()
    shares = jax.nn.softmax(cosine / temperature)
    return won, cosine.argmax(), loki.frechet(shares[None], distances)[0]

  return jax.lax.map(lambda pair: one(*pair), (x, label), batch_size=min(ROWS, x.shape[0]))


def _check(templates, temperature):
  if not templates or any('{}' not in template for template in templates):
    raise Refusal(f'templates must be sentences with {{}} in the place of the name, but they are {tuple(templates)}')
  if temperature <= 0:
    raise Refusal(f'temperature must be positive, but it is {temperature}')


def _metric(distances, classes: Float[np.ndarray, 'c p']) -> Float[np.ndarray, 'c c']:
  """The metric of the classes that is given, else the Euclidean distance between the embeddings of their names."""
  if distances is None:
    return np.linalg.norm(classes[:, None] - classes[None], axis=-1).astype(np.float32)
  metric = np.asarray(distances, np.float32)
  if metric.shape != (len(classes),) * 2:
    raise Refusal(f'distances must be between the {len(classes)} classes, but they are {list(metric.shape)}')
  return metric


def make(
  *,
  split: str = 'test',
  templates: tuple[str, ...] = ('{}',),
  frechet: bool = False,
  distances: tuple[tuple[float, ...], ...] | None = None,
  temperature: float = 0.01,
) -> Evaluator:
  """Every metric of `GLOSSARY`, those of distances only with `frechet`.

  Args:
    split: 'train' or 'test'.
    templates: sentences in which {} stands for the name of a class, 'a photo of a {}.'; their embeddings are averaged.
    frechet: predict by the Fréchet mean too.
    distances: of the classes to each other; None: between the unit embeddings of their names.
    temperature: of the softmax over cosines that the Fréchet mean takes for probabilities.

  Rows of label -1 do not count.

  Raises:
    Refusal: here for options out of range; by `run` for a split without labels, classes without names, a method without
      text tower and embeddings that are not finite.
  """
  _check(templates, temperature)

  def run(embed) -> dict[str, float]:
    embedded = embed(split)
    x = evaluator.unit(evaluator.rows(embedded, 'projection', split))
    label = evaluator.labels(embedded, split, 'zero_shot').astype(np.int32)
    classes = classifier(embed, tuple(templates))
    if not np.isfinite(classes).all():
      raise Refusal('the names of the classes have embeddings that are not finite')
    metric = _metric(distances, classes)
    arrays = jax.device_put((classes, np.maximum(label, 0), metric, np.float32(temperature)))
    won, first, mean = (np.asarray(each) for each in captions.fetch(_predict(x, *arrays, frechet=frechet)))
    known = label >= 0
    shares = [won[label == each].mean() for each in np.unique(label[known])]
    found = {'accuracy': won[known].mean(), 'mean_per_class': np.mean(shares)}
    if frechet:
      found['frechet_accuracy'] = (mean == label)[known].mean()
      found['squared_distance'] = loki.mean_squared_distance(first, label, metric)
      found['frechet_squared_distance'] = loki.mean_squared_distance(mean, label, metric)
    return {f'zero_shot/{name}': float(value) for name, value in found.items()}

  return Evaluator(run)
