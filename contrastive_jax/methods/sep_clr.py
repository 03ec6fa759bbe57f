"""`sep_clr`: a common and a salient head, on instances of a background and of a target set (contrastive analysis)."""

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.methods import forked, towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal, nearest

GLOSSARY = {
  'positive_similarity': 'mean cosine of the first and the last view of an example, after the common head',
  'target_norm': 'mean squared norm of salient embeddings of the target set',
  'background_norm': 'mean squared norm of salient embeddings of the background: 0 where they carry nothing',
}
SPACES = ('encoder', 'common', 'salient')


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  background: tuple[int, ...] = (-1,),
  variance: float = 0.5,
  salient_weight: float = 1000.0,
  background_weight: float = 1000.0,
  joint_weight: float = 10.0,
  space: str = 'encoder',
  fold='auto',
  precision: str | None = None,
) -> Method:
  """SepCLR: what both sets have goes to the common head, what only targets have to the salient one.

  Args:
    encoder: backbone.
    head: projection head; there are two of it, and the common one's output is scaled to unit norm. The salient one's
      goes to 0 on the background, so no norm should end it.
    info: of the run: classes.
    background: labels of the background set; examples of all others are targets. -1 is an example without label.
    variance: of the Gaussian kernel, t of `losses.sep_clr`.
    salient_weight: as of `losses.sep_clr`.
    background_weight: as of `losses.sep_clr`.
    joint_weight: as of `losses.sep_clr`.
    space: what evaluators see as features: 'encoder', or the output of the 'common' or the 'salient' head. The
      projection is that of the common head, or of the salient one where that is the space.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: an unknown space; a background of no, all or unknown labels; a variance <= 0; fewer than two views.

  Source: Louiset et al., 2024, "Separating common from salient patterns with Contrastive Representation Learning".
  """
  if space not in SPACES:
    raise Refusal(f"unknown space '{space}'{nearest(str(space), SPACES)}")
  _check_background(background, info.num_classes)
  tower = forked.fork(encoder, {'head': head, 'salient': head})
  options = dict(
    variance=variance, salient_weight=salient_weight, background_weight=background_weight, joint_weight=joint_weight
  )

  def init(key, batch):
    params, stats = tower.init(key, batch['view_0'])
    return params, {'stats': stats}

  def encode(params, state, batch, *, key, step, train):
    (_, c, s), stats = towers.of_crops(tower, params, state['stats'], batch, key=key, train=train)
    return {'common': c, 'salient': s}, {**state, 'stats': stats}

  def loss(params, state, features, batch, *, key, step):
    c, s = (jnp.swapaxes(features[name], 0, 1) for name in ('common', 'salient'))
    c = losses.unit(c)
    target = (batch['label'][:, None] != jnp.array(background, jnp.int32)).all(1)
    values = losses.sep_clr(c, s, target, **options, fold=fold, precision=precision)
    return Output(values.mean(), state, _metrics(c, s, target, info.num_views))

  return Method(init, encode, loss, _embedding(tower, space), per_example=tower.per_example)


def _check_background(background: tuple[int, ...], num_classes: int):
  """Refuses labels of which it is certain that they split no data in two."""
  labels, known = set(background), set(range(-1, num_classes))
  if not labels or not labels < known:
    raise Refusal(
      f'config.method.background must be some but not all of the labels from -1 (none) to {num_classes - 1}, but it is '
      f'{tuple(background)}'
    )


def _metrics(c, s, target, views: int):
  norms = jnp.square(s).sum(-1).mean(0)
  return {
    'positive_similarity': towers.likeness(c, views),
    'target_norm': losses.mean(norms, target),
    'background_norm': losses.mean(norms, ~target),
  }


def _embedding(tower: towers.Tower, space: str):
  def embed(params, state, batch):
    (h, c, s), _ = tower.apply(params, state['stats'], batch['view_0'])
    c = losses.unit(c)
    seen = {'encoder': (h, c), 'common': (c, c), 'salient': (s, losses.unit(s))}[space]
    return {'features': seen[0], 'projection': seen[1]}

  return embed
