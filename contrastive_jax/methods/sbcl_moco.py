r"""`sbcl_moco`: SBCL's subclasses against a queue of a teacher's keys, which know their class and subclass (SBCL).

.. math:: \ell_q = -\frac{1}{|M|} \sum_{p \in M} \log \frac{e^{q^\top p / \tau_1}}
          {\sum_{c \in Q \cup \{k\}} e^{q^\top c / \tau_1}}
          - \frac{\beta}{|P|} \sum_{p \in P} \log \frac{e^{q^\top p / \tau_2}}
          {\sum_{c \in P \cup N} e^{q^\top c / \tau_2}}

With k the own key of the query q and Q the queue; M: k and the keys of Q of the query's subclass; P: k and the others
of its class; N: the keys of other classes.
"""

import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.losses.inputs import of_rows
from contrastive_jax.memory import queue
from contrastive_jax.methods import moco, subclassing
from contrastive_jax.methods.base import Info, Method, Output
from contrastive_jax.models.encoder import Encoder

GLOSSARY = moco.GLOSSARY | {
  'same_subclass': 'mean number of keys of the queue that are of the subclass of a query, during the warm-up of its '
  'class',
}


def _objective(warm_up: int, beta: float, options: dict):
  """The `loss` slot: SupCon against the queue for `warm_up` steps, then SBCL."""

  def loss(params, state, features, batch, *, key, step):
    q, positive, k = moco.sides(features)
    bank, started = state['queue'], step >= warm_up
    label, subclass = batch['label'], state['per_sample']['subclass'][batch['index']]
    classes, parts = bank.labels['class'], bank.labels['subclass']
    own, of_queue = jnp.where(started, subclass, label), jnp.where(started, parts, classes)
    of_query = [of_rows(x, len(q) // len(k)) for x in (label, own)]
    weight = jnp.where(started, beta, 0.0)
    values = losses.sbcl_queue(q, positive, bank.values, *of_query, classes, of_queue, beta=weight, **options)
    metrics = {
      'positive_similarity': (q * positive).sum(-1).mean(),
      'same_subclass': subclassing.members(own, of_queue).mean(dtype=values.dtype),
    }
    bank = queue.push(bank, k, **{'class': label, 'subclass': subclass})
    return Output(values.mean(), {**state, 'queue': bank}, metrics)

  return loss


def make(
  encoder: Encoder,
  head: Encoder,
  info: Info,
  *,
  temperature: float = 0.07,
  class_temperature: float = 0.12,
  beta: float = 0.2,
  momentum: float = 0.999,
  queue_size: int = 65536,
  subclass_size: int = 20,
  warmup_epochs: int = 200,
  every_epochs: int = 5,
  fold='auto',
  precision: str | None = None,
) -> Method:
  r"""SBCL on the host of MoCo v2: `losses.sbcl_queue` of queries, a teacher's keys and a queue that is labelled.

  Networks, views, teacher and queue are those of `moco`. With each key the queue keeps the class and the subclass that
  its example had when it went in. Subclasses are as of `sbcl`, of the student's projections, and one temperature serves
  all classes. During the warm-up the loss is SupCon against the queue, of classes.

  When subclasses are found anew, keys that are in the queue keep their former ones until they leave it, as in the
  official code. Those are of the same class, but of other examples of it. Keys from before the first subclasses have
  none: of the first term they are no positives, of the second they are where they are of the query's class.

  Args:
    encoder: backbone; the student's is what evaluators probe.
    head: projection head.
    info: of the run: examples, classes, steps an epoch.
    temperature: tau_1.
    class_temperature: tau_2 of all classes.
    beta: weight of the term of the whole class.
    momentum: of the teacher.
    queue_size: keys that are kept; at least a batch.
    subclass_size: M, the least size of a subclass.
    warmup_epochs: of SupCon; then the first subclasses are found.
    every_epochs: after which they are found anew.
    fold: as of `pair`.
    precision: as of `pair`.

  Raises:
    Refusal: data that name no classes; a number out of range; what `moco` and `losses.sbcl_queue` refuse.

  Source: Hou et al., 2023, with the constants of its code for ImageNet-LT. There each query of the warm-up has up to
  six positives of its class in the queue, drawn at random (KCL of Kang et al., 2021), where here all are positives; and
  subclasses are of the teacher's keys of augmented images, where here they are of the student's projections.
  """
  stages = subclassing.Stages(info, subclass_size, warmup_epochs, every_epochs)
  subclassing.check(stages, beta)
  host = moco.make(encoder, head, info, momentum=momentum, queue_size=queue_size)

  def init(key, batch):
    params, state = host.init(key, batch)
    bank = queue.labelled(state['queue'], 'class', 'subclass')
    return params, {**state, 'queue': bank, 'per_sample': subclassing.fresh(info)}

  of_loss = dict(temperature=temperature, class_temperature=class_temperature, fold=fold, precision=precision)
  loss = _objective(stages.first_step, beta, of_loss)
  return host._replace(init=init, loss=loss, refresh=subclassing.refreshing(stages))
