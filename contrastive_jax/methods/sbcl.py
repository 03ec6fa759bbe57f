"""`sbcl`: SupCon among subclasses of about the size of the rarest class, found anew every few epochs (SBCL)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from contrastive_jax import losses
from contrastive_jax.methods import subclassing, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = {
  'positive_similarity': 'mean cosine of the first and the last view of an example, after the head',
  'same_subclass': 'mean number of other examples of the batch that are of the subclass of an example',
  'class_temperature': 'mean over the batch of the temperatures of the term of the whole class',
}


@functools.partial(jax.jit, static_argnames='classes')
def _spread(z: Float[Array, 'n d'], label: Int[Array, ' n'], *, classes: int) -> Float[Array, ' c']:
  r"""The mean distance of a class from its centre over :math:`\log(n_c + 10)`; 0 of one without rows."""
  at = jnp.where(label < 0, classes, label)  # out of range: dropped
  count = jax.ops.segment_sum(jnp.ones(len(z)), at, classes)
  some = jnp.maximum(count, 1)
  centre = jax.ops.segment_sum(z, at, classes) / some[:, None]
  distance = jnp.linalg.norm(z - centre[label], axis=1)
  return jax.ops.segment_sum(distance, at, classes) / some / jnp.log(count + 10)


def class_scales(
  spread: Float[np.ndarray, ' c'], counts: tuple[int, ...], percentile: float
) -> Float[np.ndarray, ' c']:
  """tau_2 / tau_1 of each class: its spread, clipped to the percentiles, over the mean; 1 of those of one subclass."""
  there = np.asarray(counts) > 0
  low, high = np.percentile(spread[there], [percentile, 100 - percentile])
  clipped = np.clip(spread, low, high)
  return np.where(np.asarray(counts) > 1, clipped / clipped[there].mean(), 1).astype(np.float32)


def _scaling(info: Info, percentile: float):
  """What a refresh makes besides subclasses."""

  def scales(projection, label, counts):
    spread = np.asarray(_spread(projection, label, classes=info.num_classes))
    return {'class_scale': jnp.asarray(class_scales(spread, counts, percentile))}

  return scales


def _check(stages: subclassing.Stages, beta: float, percentile: float, of_class: float | None):
  subclassing.check(stages, beta)
  if not 0 <= percentile <= 50:
    raise Refusal(f'config.method.percentile must be from 0 to 50, but it is {percentile}')
  if of_class is not None and not of_class > 0:
    raise Refusal(f'config.method.class_temperature must be positive, or None for one a class, but it is {of_class}')


def _objective(
  stages: subclassing.Stages, temperature, class_temperature, base_temperature, beta: float, own_views: bool, folding
):
  """The `loss` slot: SupCon until the first subclasses are found, then SBCL."""

  def loss(params, state, features, batch, *, key, step):
    z, label = jnp.swapaxes(losses.unit(features['g']), 0, 1), batch['label']
    started = step >= stages.first_step
    subclass = jnp.where(started, state['per_sample']['subclass'][batch['index']], label)
    of_class = temperature * state['class_scale'][label] if class_temperature is None else class_temperature
    of_base = None if base_temperature is None else jnp.where(started, base_temperature, temperature)
    split = dict(beta=jnp.where(started, beta, 0.0), class_temperature=of_class, own_views=own_views)
    values = losses.sbcl(z, label, subclass, temperature=temperature, base_temperature=of_base, **split, **folding)
    same = jnp.maximum(subclassing.members(subclass, subclass) - 1, 0)
    metrics = {
      'positive_similarity': towers.likeness(z, stages.info.num_views),
      'same_subclass': same.mean(dtype=values.dtype),
      'class_temperature': jnp.mean(of_class),
    }
    return Output(values.mean(), state, metrics)

  return loss


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  temperature: float = 0.1,
  class_temperature: float | None = None,
  beta: float = 0.25,
  subclass_size: int = 10,
  warmup_epochs: int = 10,
  every_epochs: int = 10,
  percentile: float = 20.0,
  own_views: bool = True,
  base_temperature: float | None = 0.07,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""SBCL: `losses.sbcl` of subclasses that spherical k-means finds in each class, so that all are of about one size.

  Class c of n_c examples has :math:`\lfloor n_c / \max(\min_c n_c, M) \rfloor` subclasses. At first the loss is SupCon.
  Subclasses lie in `state['per_sample']`, by row of the data set; `state['class_scale']` is tau_2 / tau_1 of each
  class: the mean distance of its projections from their centre over log(n_c + 10), clipped, over the mean of classes.

  Args:
    encoder: backbone; its output is what evaluators probe.
    head: projection head.
    info: of the run: examples, classes, steps an epoch.
    temperature: tau_1.
    class_temperature: tau_2 of all classes, as in the official code for ImageNet-LT (0.12); None is that of each class.
    beta: weight of the term of the whole class.
    subclass_size: M, the least size of a subclass.
    warmup_epochs: of SupCon; then the first subclasses are found.
    every_epochs: after which they are found anew.
    percentile: tau_2 of classes is clipped between this percentile and 100 less it, before the mean is taken.
    own_views: as of `losses.sbcl`.
    base_temperature: as of `losses.sbcl`, after the warm-up.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: data that name no classes; a number out of range; what `losses.sbcl` refuses.

  Source: Hou et al., 2023, with the constants of its code for CIFAR.
  """
  stages = subclassing.Stages(info, subclass_size, warmup_epochs, every_epochs)
  _check(stages, beta, percentile, class_temperature)
  tower = towers.stack(encoder=encoder, head=head)

  def init(key, batch):
    params, stats = tower.init(key, batch['view_0'])
    return params, {'stats': stats, 'per_sample': subclassing.fresh(info), 'class_scale': jnp.ones(info.num_classes)}

  def encode(params, state, batch, *, key, step, train):
    (_, g), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    return {'g': g}, {**state, 'stats': stats}

  folding = dict(fold=fold, precision=precision)
  loss = _objective(stages, temperature, class_temperature, base_temperature, beta, own_views, folding)
  refresh = subclassing.refreshing(stages, _scaling(info, percentile))
  return Method(init, encode, loss, towers.embedding(tower), refresh=refresh, per_example=tower.per_example)
