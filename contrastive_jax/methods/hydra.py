"""`hydra`: any two classes are positives, in the subspace that a gate of their pair selects (Hydra, SimLAP)."""

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.losses.inputs import of_rows
from contrastive_jax.methods import towers
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder
from contrastive_jax.types import Refusal, nearest

GLOSSARY = {
  'positive_similarity': 'mean cosine of the first and the last view of an example, after the head and without a gate',
  'probe_accuracy': 'share of the batch that the linear probe, which learns beside the encoder, classifies correctly',
  'gate_mean': 'mean of the gates of the batch: near 1 where all features are compared, 0 where none is',
}
PAIRS = ('arbitrary', 'identical', 'distinct')
GATES = ('mean', 'product', 'none')


def partners(labels, key, *, pairs: str, num_classes: int):
  """The class that is positive for each row, `[n]`; -1 for rows of label -1.

  'arbitrary': a random permutation of the batch's labels; 'identical': the row's own; 'distinct': any other class.
  """
  if pairs == 'identical':
    return labels
  if pairs == 'arbitrary':
    other = jax.random.permutation(key, labels)
  else:
    other = (labels + jax.random.randint(key, labels.shape, 1, num_classes)) % num_classes
  return jnp.where(labels >= 0, other, -1)


def gates_of(network: Encoder, params, stats, labels, other, *, gate: str, like):
  """Gates `[n, d]` of pairs of classes, symmetric in the two, and the network's statistics; ones without a network."""
  if gate == 'none':
    return jnp.ones_like(like), stats
  a, b = (params['classes'][jnp.maximum(y, 0)] for y in (labels, other))
  x = (a + b) / 2 if gate == 'mean' else jnp.concatenate([a, b])
  logits, own = network.apply(params['predictor'], stats['predictor'], x, train=True)
  gates, stats = jax.nn.sigmoid(logits), {**stats, 'predictor': own}
  return gates if gate == 'mean' else gates[: len(a)] * gates[len(a) :], stats


def make(
  encoder: Encoder,
  head: Encoder,
  predictor: Encoder,
  info: Info,
  *,
  pairs: str = 'arbitrary',
  gate: str = 'mean',
  class_width: int | None = None,
  temperature: float = 0.1,
  renormalize: bool = False,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""Hydra: rows of class y have a partner class y', and are compared behind the gate of the two.

  .. math:: g = \sigma \Big( \phi \big( \tfrac12 (e_y + e_{y'}) \big) \Big) \quad \text{or} \quad
            g = \sigma(\phi(e_y)) \odot \sigma(\phi(e_{y'}))

  with an embedding e of each class. Beside it learns a linear probe of the encoder's features, which get no gradient
  of it.

  Args:
    encoder: backbone.
    head: projection head.
    predictor: phi, as wide as the head.
    info: of the run: how many classes there are.
    pairs: partner of a row: 'arbitrary' (permuted labels of the batch), 'identical' (its own class) or 'distinct' (any
      other class).
    gate: 'mean', 'product', or 'none', where all is compared: then phi is not used.
    class_width: of e; None is the width of the head.
    temperature: divides similarities.
    renormalize: cosines of the gated embeddings, as in the earlier release.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: an unknown kind of pairs or gate; data that name fewer than two classes; a predictor of another width than
      the head.

  Source: Wu et al., 2024, "Rethinking Positive Pairs in Contrastive Learning", whose phi has a ReLU and norm on e, too.
  """
  _check(pairs, gate, info)
  tower = towers.stack(encoder=encoder, head=head)
  options = dict(temperature=temperature, renormalize=renormalize, fold=fold, precision=precision)

  def encode(params, state, batch, *, key, step, train):
    own = {name: state['stats'][name] for name in tower.names}
    (h, g), stats = towers.of_crops(tower, params, own, batch, key=key, train=train)
    return {'h': h, 'g': g}, {**state, 'stats': {**state['stats'], **stats}}

  init = _init(tower, predictor, info, class_width=class_width, gated=gate != 'none')
  loss = _objective(predictor, info, pairs, gate, options)
  return Method(init, encode, loss, towers.embedding(tower), per_example=tower.per_example)


def _init(tower: towers.Tower, predictor: Encoder, info: Info, *, class_width: int | None, gated: bool):
  def init(key, batch):
    of_tower, of_gate = jax.random.split(key)
    params, stats = tower.init(of_tower, batch['view_0'])
    (h, g), _ = jax.eval_shape(tower.apply, params, stats, batch['view_0'])
    kernel, bias = (jnp.zeros(shape, h.dtype) for shape in ((h.shape[1], info.num_classes), info.num_classes))
    params['probe'] = {'kernel': kernel, 'bias': bias}
    if gated:
      width = g.shape[1] if class_width is None else class_width
      of_gate = _init_gate(of_gate, predictor, (info.num_classes, width), g)
      params, stats = params | of_gate[0], stats | of_gate[1]
    return params, {'stats': stats}

  return init


def _objective(predictor: Encoder, info: Info, pairs: str, gate: str, options: dict):
  def loss(params, state, features, batch, *, key, step):
    g = losses.unit(features['g'])
    x = g.reshape(-1, g.shape[2])  # instance-major: a batch split over devices stays split
    labels = of_rows(batch['label'], g.shape[1])
    other = partners(labels, key, pairs=pairs, num_classes=info.num_classes)
    gates, stats = gates_of(predictor, params, state['stats'], labels, other, gate=gate, like=x)
    h = jax.lax.stop_gradient(features['h']).reshape(len(x), -1)
    cost, accuracy = _probe(params['probe'], h, labels)
    values = losses.gated_pair_nce(x, gates, labels, other, **options)
    metrics = {'positive_similarity': towers.likeness(jnp.swapaxes(g, 0, 1), info.num_views), 'gate_mean': gates.mean()}
    return Output(values.mean() + cost, {**state, 'stats': stats}, {**metrics, 'probe_accuracy': accuracy})

  return loss


def _check(pairs: str, gate: str, info: Info):
  for name, value, known in (('pairs', pairs, PAIRS), ('gate', gate, GATES)):
    if value not in known:
      raise Refusal(f"unknown {name} '{value}'{nearest(str(value), known)}")
  if info.num_classes < 2:
    raise Refusal(f'pairs of classes need data that name at least two, but these name {info.num_classes}')


def _init_gate(key, network: Encoder, shape, like):
  """Embeddings of classes and the network, as parameters and statistics."""
  of_classes, of_network = jax.random.split(key)
  classes = jax.random.normal(of_classes, shape, like.dtype)
  params, stats = network.init(of_network, classes)
  out, _ = jax.eval_shape(network.apply, params, stats, classes)
  if out.shape[1] != like.shape[1]:
    raise Refusal(f'the predictor must be as wide as the head ({like.shape[1]}), but it is {out.shape[1]} wide')
  return {'classes': classes, 'predictor': params}, {'predictor': stats}


def _probe(params, h, labels):
  """Cross-entropy and accuracy of a linear classifier, of rows with a label."""
  logits = jax.nn.log_softmax(jnp.matmul(h, params['kernel'], precision='highest') + params['bias'])
  known = labels >= 0
  of_label = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
  return losses.mean(-of_label, known), losses.mean((logits.argmax(1) == labels).astype(logits.dtype), known)
