"""What losses that the laws cannot make are held to in tests of their own: tiles, meshes, agreement of two results."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses

TILES = {'dense': losses.dense(), 'chunked': losses.chunked(5, 7), 'ring': losses.ring(rows=3, cols=4)}
# Each fold on a mesh of one kind of axes, the ring on both.
PLACES = [
  ('dense', AxisType.Auto),
  ('chunked', AxisType.Explicit),
  ('ring', AxisType.Auto),
  ('ring', AxisType.Explicit),
]


def weighted(values, xp):
  """A scalar whose gradient tells the anchors apart."""
  return xp.sum(values * (1.5 + np.cos(np.arange(values.size))).reshape(values.shape))


def split(array, kind: AxisType, axis: int = 0):
  """The array with its instances, along the axis, split over eight devices."""
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  return jax.device_put(array, NamedSharding(mesh, P(*(None,) * axis, 'data')))


def assert_close(got, want, tolerance: float = 1e-5):
  """Equal up to the tolerance, relative to each array's largest entry."""
  for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
    assert g.shape == w.shape, (jax.tree_util.keystr(path), g.shape, w.shape)
    scale = max(np.abs(w).max(), 1e-2)
    assert np.abs(g - w).max() <= tolerance * scale, (jax.tree_util.keystr(path), np.abs(g - w).max() / scale)
