"""`pix_contrast`: a cell of one view finds a teacher's cells of another view at its place among all of its cells."""

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.memory import ema
from contrastive_jax.methods import cells, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder

GLOSSARY = cells.GLOSSARY


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  temperature: float = 0.3,
  threshold: float = 0.7,
  momentum: float = 0.99,
) -> Method:
  r"""PixContrast: InfoNCE of cells within an image, positives by place, keys of a teacher.

  .. math:: \mathcal{L} = \frac{1}{V(V-1)} \sum_{v \ne w} \mathrm{mean}_{b, i: P_{bi} \ne \emptyset} \;
            \ell_{bi}(q_v, k_w)

  With :math:`\ell` of `losses.pix_contrast`, q the student's projected cells and k those of the teacher, an exponential
  moving average of the student's encoder and head.

  Args:
    encoder: backbone with a map; its pooled features are what evaluators probe.
    head: projector, of every cell.
    info: of the run: the momentum rises to 1 over its steps.
    temperature: tau.
    threshold: greatest distance of positives, in diagonals of the larger cells.
    momentum: of the teacher at the first step; rises to 1 along half a cosine.

  Raises:
    Refusal: an encoder without a map; views that do not tell where they were cut; fewer than two; a threshold or a
      temperature <= 0; a momentum outside [0, 1].

  Source: Xie et al., 2021, section 3.1.
  """
  ema.check_momentum(momentum)
  cells.check_positive(threshold=threshold)
  tower = cells.tower(encoder, dict(head=head))

  def init(key, batch):
    params, stats = tower.init(key, batch['view_0'])
    return params, {'stats': stats, 'teacher': towers.teacher_of(tower, params, stats)}

  def encode(params, state, batch, *, key, step, train):
    (_, g), stats = towers.of_views(tower, params, state['stats'], batch, key=key, train=train)
    (_, target), teacher = towers.taught(tower, state['teacher'], batch, key=key, train=train)
    return {'prediction': g, 'target': target}, {**state, 'stats': stats, 'teacher': teacher}

  def loss(params, state, features, batch, *, key, step):
    pairs = cells.compared(features['prediction'], features['target'], batch, threshold=threshold)
    values = [losses.mean(losses.pix_contrast(*pair, temperature=temperature), pair.mask.any(-1)) for pair in pairs]
    return Output(jnp.stack(values).mean(), state, cells.metrics(pairs))

  def update(params, state, *, step):
    return params, towers.followed(state, params, ema.cosine_momentum(momentum, step, info.total_steps))

  return Method(init, encode, loss, cells.embedding(encoder, tower), update=update, per_example=tower.per_example)
