"""Embedding whole splits, and running evaluators on them and on their floors."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.data.pipeline import sweep
from contrastive_jax.data.sources import Source
from contrastive_jax.data.views import Views
from contrastive_jax.engine import processes
from contrastive_jax.engine.state import batch_sharding
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.types import Embedded, Params, Refusal, State

# Augmented views for evaluators come from a stream of their own, the same at every evaluation.
VIEW_STEP = 2**31 - 2


class Embedder:
  """`embed(split, view=None) -> Embedded` of fixed parameters, each split and view computed once.

  Compiled once for a run: `at(params, state)` binds parameters to the same compiled function.
  """

  def __init__(self, embed: Callable, sources: Mapping[str, Source], views: Views, *, mesh, batch_size: int, seed: int):
    self._sources, self._mesh = sources, mesh
    self._batch_size = -(-batch_size // mesh.size) * mesh.size

    def plain(params, state, image):
      return embed(params, state, {'view_0': jax.vmap(views.plain)(image)})

    def augmented(params, state, image, index, view, kind):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), VIEW_STEP), view)
      keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
      made = jax.vmap(lambda key, image: views.augment(key, image, kind))(keys, image)
      return embed(params, state, {'view_0': made})

    self._kinds = views.kinds
    self._plain, self._augmented = jax.jit(plain), jax.jit(augmented, static_argnames='kind')

  def at(self, params: Params, state: State, *, on_host: bool = False) -> Callable[..., Embedded]:
    """`embed` of these parameters, for evaluators: its rows lie on the mesh, so that all devices share their work.

    With `on_host` they stay NumPy arrays.
    """
    made: dict[tuple[str, int | None], Embedded] = {}

    def embed(split: str, view: int | None = None) -> Embedded:
      if (split, view) not in made:
        made[split, view] = self._embed(params, state, split, view)
      return made[split, view] if on_host else self._placed(made[split, view])

    return embed

  def _placed(self, embedded: Embedded) -> Embedded:
    # Arrays cannot be split unevenly: rows that do not divide among the devices are whole on each of them.
    divides = len(embedded.index) % self._mesh.size == 0
    sharding = batch_sharding(self._mesh) if divides else NamedSharding(self._mesh, P())
    features, projection = processes.put((embedded.features, embedded.projection), sharding)
    return embedded._replace(features=features, projection=projection)

  def _embed(self, params, state, split: str, view: int | None) -> Embedded:
    parts: list[dict[str, np.ndarray]] = []
    sharding = batch_sharding(self._mesh)
    for batch in sweep(self._sources[split], batch_size=self._batch_size):
      image = processes.put(batch['image'], sharding)
      if view is None:
        out = self._plain(params, state, image)
      else:
        index = processes.put(batch['index'], sharding)
        view_ = processes.put(np.int32(view), NamedSharding(self._mesh, P()))
        out = self._augmented(params, state, image, index, view_, kind=view % self._kinds)
      kept = {k: np.asarray(v)[batch['mask']] for k, v in processes.fetch(out).items()}
      absent = np.full(len(batch['index']), -1, np.int32)
      parts.append(kept | {k: np.asarray(batch.get(k, absent))[batch['mask']] for k in ('label', 'index')})
    return Embedded(*(np.concatenate([p[k] for p in parts]) for k in Embedded._fields))


def raw_pixels(params, state, batch) -> dict[str, jax.Array]:
  """The `embed` of a method that is no method: the floor that any representation should pass."""
  del params, state
  pixels = batch['view_0'].reshape(batch['view_0'].shape[0], -1)
  return {'features': pixels, 'projection': losses.unit(pixels)}


def scores(evaluators: Mapping[str, Evaluator], embed: Callable[..., Embedded]) -> dict[str, float]:
  """The scores of all evaluators, in one dictionary."""
  found: dict[str, float] = {}
  for evaluator in evaluators.values():
    found |= evaluator.run(embed)
  return found


def possible(
  evaluators: Mapping[str, Evaluator], embeds: Mapping[str, Callable[..., Embedded]]
) -> tuple[dict[str, Evaluator], dict[str, dict[str, float]]]:
  """The evaluators that the data allows, and the scores of each `embed`; says which are left out and why."""
  usable: dict[str, Evaluator] = {}
  found: dict[str, dict[str, float]] = {name: {} for name in embeds}
  for name, evaluator in evaluators.items():
    try:
      of_one = {key: evaluator.run(embed) for key, embed in embeds.items()}
    except Refusal as refusal:
      print(f'evaluation {name} is left out: {refusal}', flush=True)
      continue
    usable[name] = evaluator
    found = {key: found[key] | of_one[key] for key in found}
  return usable, found


def example_views(source: Source, views: Views) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of views, for `Method.init`."""
  image = jax.ShapeDtypeStruct(source.image_shape, jnp.uint8)
  view = jax.eval_shape(views.plain, image)
  return {
    'view_0': jax.ShapeDtypeStruct((2, *view.shape), view.dtype),
    'index': jax.ShapeDtypeStruct((2,), jnp.int32),
    'label': jax.ShapeDtypeStruct((2,), jnp.int32),
  }
