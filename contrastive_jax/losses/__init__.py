"""Contrastive losses: pure functions of arrays, one value per anchor, exact and memory-bounded on any mesh.

    from contrastive_jax import losses
    z = losses.unit(embeddings)                           # [views, instances, features]
    loss = losses.nt_xent(z, temperature=0.1).mean()      # never makes the (V B) x (V B) matrix when it is large

Single-modality losses take `z: [V, B, D]`, two-sided losses `x: [B, D], y: [M, D]`. Rows are expected unit-norm.
`fold` says where the similarities are folded and never changes the value. Inside your own `shard_map` or `pmap` pass
`fold=losses.ring(axis)`; with `check_vma=True` differentiate `lax.pmean(loss.mean(), axis)`, with `check_vma=False` or
in `pmap` take `lax.pmean(grad(local mean), axis)`.
"""

from contrastive_jax.losses.inputs import mean, unit
from contrastive_jax.losses.multiview import decoupled, mv_dhel, mv_info_nce, nt_xent, sup_con
from contrastive_jax.losses.sigmoid import sigmoid
from contrastive_jax.losses.softmax import info_nce, info_nce_both, symmetric_info_nce
from contrastive_jax.losses.uniformity import align_uniform, alignment, uniformity
from contrastive_jax.similarity import Chunked as chunked
from contrastive_jax.similarity import Dense as dense
from contrastive_jax.similarity import Local as local
from contrastive_jax.similarity import Ring as ring

# What the law tests run through the gauntlet, and what a config of `pair` can name.
PAIRWISE = (
  'align_uniform',
  'decoupled',
  'info_nce',
  'info_nce_both',
  'mv_dhel',
  'mv_info_nce',
  'nt_xent',
  'sigmoid',
  'sup_con',
  'symmetric_info_nce',
  'uniformity',
)

__all__ = [*PAIRWISE, 'alignment', 'chunked', 'dense', 'local', 'mean', 'ring', 'unit']
