"""Where and how a similarity is folded: the choices a caller can name, and the rule that resolves them.

A fold never changes a value, only the memory, the time and the traffic that it takes; but `Local` leaves out instances.
"""

import math
from typing import NamedTuple

import jax
from jax.sharding import get_abstract_mesh

from contrastive_jax.types import Refusal, nearest

Axis = str | tuple[str, ...]

# Up to this many logits the materialised fold is as fast as any and its memory (4 MiB in float32) does not matter.
DENSE_LOGITS = 2**20

# With fewer columns on each device the tiles of a turn cannot hide the transfer of the next (990 TFLOP/s of products
# over 450 GB/s of link), so they are gathered, as long as that takes little memory.
RING_COLUMNS = 2048
GATHERED_BYTES = 2**26


class Dense(NamedTuple):
  """Materialises the logits, `n * m` floats; at full precision differentiable in forward mode too.

  On a mesh the compiler places them. Inside a caller's own `shard_map` or `pmap` the loss refuses it.
  """


class Chunked(NamedTuple):
  """Tiles of at most `rows x cols` logits; on a mesh, the columns are gathered once.

  Inside a caller's own `shard_map` or `pmap` the loss refuses it: `ring(axis)` or `local()` is meant there.

  Args:
    rows: most rows of a tile. Tiles are made equal, so that the last one wastes the least. Where the rows are the
      columns (one set of embeddings against itself) a tile on one device is square, `rows x rows`, and `cols` unused.
    cols: most columns of a tile.
    axis: name of the mesh axis along which instances are split, or names of several. None: that of the embeddings'
      explicit sharding, else the mesh's first.
    mesh: None: that of the embeddings' types (visible under `jit`), else the current one (`jax.set_mesh`), else this
      device alone. With one device along the axis nothing is gathered.

  The loss that is given the fold raises:
    Refusal: `rows` or `cols` is no positive integer, or the mesh has no such axis.
  """

  rows: int = 1024
  cols: int = 2048
  axis: Axis | None = None
  mesh: object | None = None


class Ring(NamedTuple):
  """Tiles of at most `rows x cols` logits; the columns travel around the mesh axis, no device holds them all.

  Inside a caller's own `shard_map` or `pmap` it brings the negatives of all devices to the local anchors.

  Args:
    axis: as of `Chunked`; inside a caller's own `shard_map` or `pmap` it must be given, and is an axis of that.
    mesh: as of `Chunked`; inside a caller's own `shard_map` or `pmap` it is ignored.
    rows: most rows of a tile, among one device's. Where the rows are the columns (one set of embeddings against itself)
      tiles are square, `rows x rows`, and `cols` unused; each pair of devices makes the tiles between them once.
    cols: most columns of a tile, among one device's.

  The loss that is given the fold raises:
    Refusal: `rows` or `cols` is no positive integer, the mesh has no such axis, or none is given where it must be.
  """

  axis: Axis | None = None
  mesh: object | None = None
  rows: int = 1024
  cols: int = 2048


class Local(NamedTuple):
  """Inside a caller's own `shard_map` or `pmap`: this device's rows and columns only, tiled.

  The other devices' negatives are left out, which changes the value: a config cannot ask for it. Outside it is
  `Chunked` without a mesh.

  Args:
    rows: as of `Chunked` on one device.
    cols: as of `Chunked` on one device.

  The loss that is given the fold raises:
    Refusal: `rows` or `cols` is no positive integer.
  """

  rows: int = 1024
  cols: int = 2048


Fold = Dense | Chunked | Ring | Local


# What a config or a flag can say.
_NAMES: dict[str, Fold] = {'dense': Dense(), 'chunked': Chunked(), 'ring': Ring(), 'local': Local()}


class Place(NamedTuple):
  """A resolved fold: its tiles, and the mesh axis along which instances are split (None: this device alone)."""

  kind: str  # 'dense', 'chunked' or 'ring'
  tile: tuple[int, int] = (1024, 2048)
  mesh: object | None = None  # None with an axis: the caller's own shard_map
  axis: Axis | None = None

  def on(self, mesh) -> 'Place':
    """The same place on another view of its mesh."""
    return self if self.mesh is None else self._replace(mesh=mesh)


def _size(mesh, axis: Axis) -> int:
  return math.prod(mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis))


def _mesh_of(fold: Fold, operands):
  """The fold's mesh, else the operands', else the current one, else None."""
  given = getattr(fold, 'mesh', None)
  found = [jax.typeof(z).sharding.mesh for z in operands] + [get_abstract_mesh()]
  meshes = [m for m in (given, *found) if m is not None and not m.empty]
  return meshes[0] if meshes else None


def _axis_of(fold: Fold, mesh, operands) -> Axis:
  """The fold's axis, else the batch axis of an explicit sharding, else the mesh's first."""
  axis = getattr(fold, 'axis', None)
  if axis is not None:
    unknown = [a for a in ((axis,) if isinstance(axis, str) else axis) if a not in mesh.axis_names]
    if unknown:
      raise Refusal(f"no mesh axis '{unknown[0]}'{nearest(unknown[0], mesh.axis_names)}")
    return axis
  explicit = [jax.typeof(z).sharding.spec for z in operands]
  leading = [spec[0] for spec in explicit if len(spec) and spec[0] is not None]
  return leading[0] if leading else mesh.axis_names[0]


def _inside(fold: Fold | str, operands) -> Place:
  """The two folds that mean something where the caller has split the batch itself."""
  if isinstance(fold, Local):
    return Place('chunked', (fold.rows, fold.cols))
  if isinstance(fold, Ring) and fold.axis is not None:
    axes = {fold.axis} if isinstance(fold.axis, str) else {*fold.axis}
    rows, columns = (jax.typeof(z).manual_axis_type.varying for z in (operands[0], operands[-1]))
    if axes & rows and not axes & columns:  # without check_vma no type says it
      raise Refusal(
        f'the columns are the same on every device along {fold.axis!r}, so a ring would count each of them once a '
        'device: split them over that axis, or take fold=losses.local()'
      )
    return Place('ring', (fold.rows, fold.cols), None, fold.axis)
  raise Refusal(
    f'a loss inside shard_map or pmap sees only the rows of one device, so fold={fold!r} would silently drop the '
    "other devices' negatives: choose fold=losses.ring(axis) for global negatives (the local anchors' values come "
    'back) or fold=losses.local() for the negatives of this device alone'
  )


def _check_tile(fold: Fold):
  if not isinstance(fold, Dense) and not all(isinstance(n, int) and n > 0 for n in (fold.rows, fold.cols)):
    raise Refusal(
      f'the tiles of fold {type(fold).__name__.lower()} need at least one row and one column, but they are '
      f'rows={fold.rows!r}, cols={fold.cols!r}'
    )


def crosses(fold: Fold | str) -> bool:
  """Whether a loss called inside the caller's own `shard_map` or `pmap` meets other devices' rows: by a ring only."""
  return isinstance(fold, Ring) and bool(get_abstract_mesh().manual_axes)


def resolve(fold: Fold | str, operands, sizes: tuple[int, int]) -> Place:
  """Turns a fold, or 'auto', into a Place for operands of `sizes` (rows, columns).

  Raises:
    Refusal: unknown fold or axis, tiles without rows or columns, or a fold that cannot be meant inside the caller's
      own `shard_map` or `pmap`.
  """
  fold = _NAMES.get(fold, fold) if isinstance(fold, str) else fold
  if not (fold == 'auto' or isinstance(fold, Dense | Chunked | Ring | Local)):
    raise Refusal(f"unknown fold {fold!r}: use 'auto', dense(), chunked(rows, cols), ring(axis) or local()")
  if not isinstance(fold, str):
    _check_tile(fold)
  if get_abstract_mesh().manual_axes:
    return _inside(fold, operands)
  auto = fold == 'auto'
  if isinstance(fold, str):
    fold = Dense() if sizes[0] * sizes[1] <= DENSE_LOGITS else Ring()
  if isinstance(fold, Dense):
    return Place('dense')
  here = Place('chunked', (fold.rows, fold.cols))
  mesh = None if isinstance(fold, Local) else _mesh_of(fold, operands)
  if mesh is None:
    return here
  axis = _axis_of(fold, mesh, operands)
  if _size(mesh, axis) == 1:
    return here
  gathers = isinstance(fold, Chunked) or (auto and _gather_pays(operands, sizes[1], _size(mesh, axis)))
  return here._replace(kind='chunked' if gathers else 'ring', mesh=mesh, axis=axis)


def _gather_pays(operands, columns: int, devices: int) -> bool:
  # Half a ring serves rows that are the columns with half the products, which no gather can.
  if len(operands) == 1:
    return False
  return columns < RING_COLUMNS * devices and columns * operands[1].shape[1] * 4 <= GATHERED_BYTES


def shards(place: Place) -> int:
  """Devices along the place's axis, in global view."""
  return 1 if place.mesh is None or place.axis is None else _size(place.mesh, place.axis)


def cast_varying(x, axes: set[str]):
  """Types an array as differing between the devices of `axes`; the transpose is the sum over them."""
  missing = tuple(sorted(axes - jax.typeof(x).manual_axis_type.varying))
  return jax.lax.pcast(x, missing, to='varying') if missing else x


def varying(tree, place: Place):
  """Inside a caller's shard_map every input must be typed as differing between devices, as the statistics will be."""
  axes: set[str] = set()
  if place.axis is not None and place.mesh is None:
    axes |= {place.axis} if isinstance(place.axis, str) else set(place.axis)
  for leaf in jax.tree.leaves(tree):
    axes |= jax.typeof(leaf).manual_axis_type.varying
  return jax.tree.map(lambda x: cast_varying(x, axes), tree)
