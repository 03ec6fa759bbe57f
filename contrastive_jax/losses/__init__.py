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

from contrastive_jax.losses import hardness, kernels, lifts, multiview, polyview, redundancy, softmax
from contrastive_jax.losses import sigmoid as _sigmoid
from contrastive_jax.losses import uniformity as _uniformity
from contrastive_jax.losses.hardness import *  # noqa: F403
from contrastive_jax.losses.health import Health, health
from contrastive_jax.losses.inputs import mean, unit
from contrastive_jax.losses.kernels import *  # noqa: F403
from contrastive_jax.losses.lifts import *  # noqa: F403
from contrastive_jax.losses.multiview import *  # noqa: F403
from contrastive_jax.losses.polyview import *  # noqa: F403
from contrastive_jax.losses.redundancy import *  # noqa: F403
from contrastive_jax.losses.sigmoid import *  # noqa: F403
from contrastive_jax.losses.softmax import *  # noqa: F403
from contrastive_jax.losses.uniformity import *  # noqa: F403
from contrastive_jax.similarity import Chunked as chunked
from contrastive_jax.similarity import Dense as dense
from contrastive_jax.similarity import Local as local
from contrastive_jax.similarity import Ring as ring

# A module's own `__all__` says which losses it offers: a new one is written there and nowhere else.
_MODULES = (hardness, kernels, multiview, polyview, redundancy, softmax, _sigmoid, _uniformity)
_LOSSES = sorted({name for module in _MODULES for name in module.__all__})

# Losses of pairs, which have a fold: the law tests run each through the gauntlet.
PAIRWISE = tuple(name for name in _LOSSES if 'fold' in inspect.signature(globals()[name]).parameters)

# What a config of `pair` can name: not the statistics of rows that are their parts, nor what returns two values.
OBJECTIVES = tuple(name for name in _LOSSES if name not in ('alignment', 'info_nce_both', 'uniformity'))

# `health` has a fold but is no loss.
__all__ = [*_LOSSES, *lifts.__all__, 'Health', 'chunked', 'dense', 'health', 'local', 'mean', 'ring', 'unit']
