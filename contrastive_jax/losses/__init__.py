"""Contrastive losses: pure functions of arrays, one value per anchor, exact and memory-bounded on any mesh.

    from contrastive_jax import losses
    z = losses.unit(embeddings)                           # [views, instances, features]
    loss = losses.nt_xent(z, temperature=0.1).mean()      # never makes the (V B) x (V B) matrix when it is large

Single-modality losses take `z: [V, B, D]`, two-sided losses `x: [B, D], y: [M, D]`. Rows are expected unit-norm.
`fold` says where the similarities are folded and never changes the value. Inside your own `shard_map` or `pmap` pass
`fold=losses.ring(axis)`; with `check_vma=True` differentiate `lax.pmean(loss.mean(), axis)`, with `check_vma=False` or
in `pmap` take `lax.pmean(grad(local mean), axis)`.
"""

import inspect

from contrastive_jax.losses import (
  adaptive,
  attraction,
  captions,
  cells,
  clustering,
  distillation,
  energy,
  gap,
  gated,
  global_clip,
  global_contrastive,
  graphs,
  hardness,
  kernels,
  lifts,
  margins,
  mixup,
  multiview,
  per_sample,
  polyview,
  proxies,
  queries,
  redundancy,
  separation,
  series,
  softmax,
  subclasses,
)
from contrastive_jax.losses import sigmoid as _sigmoid
from contrastive_jax.losses import symile as _symile
from contrastive_jax.losses import uniformity as _uniformity
from contrastive_jax.losses.adaptive import *  # noqa: F403
from contrastive_jax.losses.attraction import *  # noqa: F403
from contrastive_jax.losses.captions import *  # noqa: F403
from contrastive_jax.losses.cells import *  # noqa: F403
from contrastive_jax.losses.clustering import *  # noqa: F403
from contrastive_jax.losses.distillation import *  # noqa: F403
from contrastive_jax.losses.energy import *  # noqa: F403
from contrastive_jax.losses.gap import *  # noqa: F403
from contrastive_jax.losses.gated import *  # noqa: F403
from contrastive_jax.losses.global_clip import *  # noqa: F403
from contrastive_jax.losses.global_contrastive import *  # noqa: F403
from contrastive_jax.losses.graphs import *  # noqa: F403
from contrastive_jax.losses.hardness import *  # noqa: F403
from contrastive_jax.losses.health import Health, health
from contrastive_jax.losses.inputs import mean, unit
from contrastive_jax.losses.kernels import *  # noqa: F403
from contrastive_jax.losses.lifts import *  # noqa: F403
from contrastive_jax.losses.margins import *  # noqa: F403
from contrastive_jax.losses.mixup import *  # noqa: F403
from contrastive_jax.losses.multiview import *  # noqa: F403
from contrastive_jax.losses.per_sample import Running, inner_rate, running
from contrastive_jax.losses.polyview import *  # noqa: F403
from contrastive_jax.losses.proxies import *  # noqa: F403
from contrastive_jax.losses.queries import *  # noqa: F403
from contrastive_jax.losses.redundancy import *  # noqa: F403
from contrastive_jax.losses.separation import *  # noqa: F403
from contrastive_jax.losses.series import *  # noqa: F403
from contrastive_jax.losses.sigmoid import *  # noqa: F403
from contrastive_jax.losses.softmax import *  # noqa: F403
from contrastive_jax.losses.subclasses import *  # noqa: F403
from contrastive_jax.losses.symile import *  # noqa: F403
from contrastive_jax.losses.uniformity import *  # noqa: F403
from contrastive_jax.similarity import Chunked as chunked
from contrastive_jax.similarity import Dense as dense
from contrastive_jax.similarity import Local as local
from contrastive_jax.similarity import Ring as ring

# A module's own `__all__` says which losses it offers: a new one is written there and nowhere else.
_MODULES = (
  adaptive,
  attraction,
  captions,
  energy,
  gap,
  gated,
  global_clip,
  global_contrastive,
  hardness,
  kernels,
  margins,
  multiview,
  polyview,
  proxies,
  redundancy,
  separation,
  softmax,
  subclasses,
  _sigmoid,
  _uniformity,
)
_LOSSES = sorted({name for module in _MODULES for name in module.__all__})

# Losses of pairs, which have a fold: the law tests run each through the gauntlet.
PAIRWISE = tuple(name for name in _LOSSES if 'fold' in inspect.signature(globals()[name]).parameters)

# What can be trained: not the statistics of rows that are parts of others, nor what returns two values, nor what meets
# the key of one view with all others, nor N-pair, whose rows keep their norms and are of one pair a class (method
# `n_pair`). A method says which of these it has the arrays for.
_PARTS = (
  'alignment',
  'cacr_momentum',
  'cross_uniformity',
  'info_nce_both',
  'instance_energy',
  'kernel_negative_entropy',
  'n_pair',
  'uniformity',
)
OBJECTIVES = tuple(name for name in _LOSSES if name not in _PARTS)

# `health` has a fold but is no loss. Symile takes a sequence of modalities and SupReMix a key, which no law can make.
# Losses of clusters and of distillation take codes or a teacher's outputs, those of queries triplets that are given,
# those of graphs neighbours, those of series steps.
__all__ = [
  *_LOSSES,
  *cells.__all__,
  *clustering.__all__,
  *distillation.__all__,
  *graphs.__all__,
  *lifts.__all__,
  *mixup.__all__,
  *per_sample.__all__,
  *queries.__all__,
  *series.__all__,
  *_symile.__all__,
  'Health',
  'chunked',
  'dense',
  'health',
  'local',
  'mean',
  'ring',
  'unit',
]
