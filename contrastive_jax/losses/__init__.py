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

from contrastive_jax.losses import multiview, softmax
from contrastive_jax.losses import sigmoid as _sigmoid
from contrastive_jax.losses import uniformity as _uniformity
from contrastive_jax.losses.health import Health, health
from contrastive_jax.losses.inputs import mean, unit
from contrastive_jax.losses.multiview import *  # noqa: F403
from contrastive_jax.losses.sigmoid import *  # noqa: F403
from contrastive_jax.losses.softmax import *  # noqa: F403
from contrastive_jax.losses.uniformity import *  # noqa: F403
from contrastive_jax.similarity import Chunked as chunked
from contrastive_jax.similarity import Dense as dense
from contrastive_jax.similarity import Local as local
from contrastive_jax.similarity import Ring as ring

# A module's own `__all__` says which losses it offers: a new one is written there and nowhere else.
_LOSSES = sorted({*multiview.__all__, *softmax.__all__, *_sigmoid.__all__, *_uniformity.__all__})

# Losses of pairs, which have a fold: the law tests run each through the gauntlet, and a config of `pair` can name it.
PAIRWISE = tuple(name for name in _LOSSES if 'fold' in inspect.signature(globals()[name]).parameters)

# `health` has a fold but is no loss.
__all__ = [*_LOSSES, 'Health', 'chunked', 'dense', 'health', 'local', 'mean', 'ring', 'unit']
