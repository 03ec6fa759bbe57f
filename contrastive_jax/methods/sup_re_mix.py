"""`sup_re_mix`: views -> encoder -> head, contrasted by the number that each example has (SupReMix)."""

import inspect

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import objective, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal

GLOSSARY = {'positive_similarity': 'mean cosine of the first and the last view of an example, after the head'}
_LOSS = 'sup_re_mix'


def options(**_) -> dict[str, inspect.Parameter]:
  """The hyper-parameters of the loss: config keys of `method` besides those of `make`."""
  return objective.options(_LOSS, (_LOSS,))


def _labels(batch, unit: float):
  """The number of each example, counted in units."""
  if 'target' not in batch:
    raise Refusal("the method learns from numbers, field 'target' of the data, as source 'diabetes' has them")
  if batch['target'].shape[1] != 1:
    raise Refusal(f"one number an example is needed, but field 'target' of the data has {batch['target'].shape[1]}")
  return jnp.round(batch['target'][:, 0] / unit)


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  unit: float = 1.0,
  fold='auto',
  precision: str | None = None,
  **hyper,
) -> Method:
  """`losses.sup_re_mix` of unit-norm views, whose labels are the raw field `target`, one number of each example.

  Examples of equal labels are positives of one another, so numbers that are measured finely are rounded first.

  Args:
    encoder: backbone; its output is what evaluators probe.
    head: projection head; the loss sees its output, scaled to unit norm.
    info: of the run: its views.
    unit: of the labels: numbers are rounded to multiples of it. Window and weights of the loss count these; 1, and so
      years of age, in the paper.
    fold: as of `pair`.
    precision: as of `pair`.
    **hyper: of the loss: `temperature`, `window`, `weight`, `mix_negative`, `mix_positive`, `beta`, `neighbours`.

  Raises:
    Refusal: a unit that is not positive; a hyper-parameter that the loss does not have or, by the first step, refuses;
      by the first step, data without numbers or with several.

  Source: Wu et al., 2023, "Mixup Your Own Pairs".
  """
  if not unit > 0:
    raise Refusal(f'config.method.unit must be > 0, but it is {unit}')
  of_arrays = objective.bound(_LOSS, (_LOSS,), hyper, fold=fold, precision=precision)
  tower = towers.stack(encoder=encoder, head=head)

  def init(key, batch):
    params, stats = tower.init(key, batch['view_0'])
    return params, {'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    (_, g), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    return {'g': g}, {**state, 'stats': stats}

  def of_batch(params, state, features, batch, *, key, step):
    z = losses.unit(jnp.swapaxes(features['g'], 0, 1))
    values = of_arrays(z, _labels(batch, unit), key=key)
    return Output(values.mean(), state, {'positive_similarity': towers.likeness(z, info.num_views)})

  return Method(init, encode, of_batch, towers.embedding(tower), per_example=tower.per_example)
