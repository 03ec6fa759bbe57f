"""`sep_clr_supervised`: SepCLR whose salient coordinates follow attributes that are known, one each."""

from typing import Any

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import sep_clr
from contrastive_jax.methods.base import Info, Method
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal, nearest

GLOSSARY = sep_clr.GLOSSARY


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  info: Info,
  *,
  background: tuple[int, ...] = (-1,),
  attributes: tuple[str, ...] = ('label',),
  width: tuple[float, ...] = (1e-5,),
  background_width: tuple[float, ...] = (1.0,),
  variance: float = 0.5,
  salient_weight: float = 100.0,
  joint_weight: float = 10.0,
  space: str = 'encoder',
  fold='auto',
  precision: str | None = None,
) -> Method:
  """Supervised SepCLR: the salient head has an output for each attribute, such as the class of what targets alone have.

  As published the salient head learns from one view and the common one from all of them.

  Args:
    encoder: backbone.
    head: the common head; its output is scaled to unit norm.
    predictor: the salient head, as wide as there are attributes. Its output goes to 0 on the background, so no norm
      should end it.
    info: of the run: classes.
    background: as of `sep_clr`.
    attributes: fields of the data: `label`, or what a source has besides. A class is one attribute, its number; a field
      of several numbers is as many.
    width: of each attribute, as of `losses.sep_clr_supervised`: 1e-5 of a class, 0.05 of a number between 0 and 1.
    background_width: likewise: 1.0 of a class, 0.05 of a number.
    variance: of the Gaussian kernel, t of `losses.sep_clr`.
    salient_weight: as of `losses.sep_clr_supervised`.
    joint_weight: as of `losses.sep_clr_supervised`.
    space: as of `sep_clr`.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: as of `sep_clr`; no attributes; by the first step, fields that the data have not or that are no numbers of
      an example, another number of attributes than of widths or of the predictor's outputs.

  Source: Louiset et al., 2024, "Separating common from salient patterns with Contrastive Representation Learning".
  """
  if not attributes:
    raise Refusal('config.method.attributes must name a field of the data at least, but it is ()')
  options: dict[str, Any] = dict(
    variance=variance,
    width=width,
    background_width=background_width,
    salient_weight=salient_weight,
    joint_weight=joint_weight,
  )

  def values(c, s, target, batch):
    y = _side_by_side(batch, attributes)
    return losses.sep_clr_supervised(c, s[:1], y, target, **options, fold=fold, precision=precision)

  return sep_clr.separated(encoder, head, predictor, info, values, background=background, space=space)


def _side_by_side(batch, attributes: tuple[str, ...]):
  """The numbers of these fields, `[B, K]`."""
  found = []
  for name in attributes:
    if name not in batch:
      raise Refusal(f"the data have no field '{name}' for config.method.attributes{nearest(name, batch)}")
    if batch[name].ndim > 2:
      raise Refusal(f"field '{name}' of the data is {batch[name].shape[1:]} an example and no attribute")
    found.append(batch[name].reshape(len(batch[name]), -1).astype(jnp.float32))
  return jnp.concatenate(found, axis=1)
