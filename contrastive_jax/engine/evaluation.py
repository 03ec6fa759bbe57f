"""Embedding whole splits, and running evaluators on them and on their floors."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from contrastive_jax import losses
from contrastive_jax.data.pipeline import sweep
from contrastive_jax.data.sources import Source
from contrastive_jax.data.views import Views
from contrastive_jax.engine import processes
from contrastive_jax.engine.state import batch_sharding
from contrastive_jax.evals.evaluator import Embed, Evaluator
from contrastive_jax.types import Embedded, Params, Refusal, State, Texts, input_of

# Augmented views for evaluators come from a stream of their own, the same at every evaluation.
VIEW_STEP = 2**31 - 2
_OF_SOME = ('caption', 'caption_mask', 'concept', 'target')  # fields that a source may have


class Embedder:
  """`embed(split, view=None) -> Embedded` of fixed parameters, each split and view computed once.

  Compiled once for a run: `at(params, state)` binds parameters to the same compiled function.
  """

  def __init__(
    self,
    embed: Callable,
    sources: Mapping[str, Source],
    views: Views,
    *,
    mesh,
    batch_size: int,
    seed: int,
    texts: bool = False,
  ):
    """`embed` is that of a method; `texts`: it embeds captions too."""
    self.sources, self._mesh, self._seed, self._has_texts = sources, mesh, seed, texts
    self._batch_size = -(-batch_size // mesh.size) * mesh.size

    def plain(params, state, image):
      return embed(params, state, {'view_0': jax.vmap(views.plain)(image)})

    def augmented(params, state, image, index, seed, view, kind):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), VIEW_STEP), view)
      keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
      made = jax.vmap(lambda key, image: views.augment(key, image, kind))(keys, image)
      return embed(params, state, {'view_0': made})

    self._kinds = views.kinds
    self._plain, self._augmented = jax.jit(plain), jax.jit(augmented, static_argnames='kind')
    self._texts = jax.jit(
      lambda params, state, tokens: embed(params, state, {'caption': tokens[:, None]})['texts'][:, 0]
    )

  def at(self, params: Params, state: State, *, on_host: bool = False) -> 'Bound':
    """`embed` of these parameters, for evaluators: its rows lie on the mesh, so that all devices share their work.

    With `on_host` they stay NumPy arrays.
    """
    return Bound(self, params, state, on_host)

  def of_seed(self, seed: int) -> 'Embedder':
    """The same compiled functions, with augmented views of another seed."""
    other = copy.copy(self)
    other._seed = seed
    return other

  def placed(self, embedded: Embedded) -> Embedded:
    """The rows of images on the mesh; those that do not divide among the devices are whole on each of them."""
    divides = len(embedded.index) % self._mesh.size == 0
    sharding = batch_sharding(self._mesh) if divides else NamedSharding(self._mesh, P())
    features, projection = processes.put((embedded.features, embedded.projection), sharding)
    return embedded._replace(features=features, projection=projection)

  def split(self, params: Params, state: State, split: str, view: int | None) -> Embedded:
    """A split, on the host."""
    parts: list[dict[str, np.ndarray]] = []
    sharding = batch_sharding(self._mesh)
    for batch in sweep(self.sources[split], batch_size=self._batch_size):
      image = processes.put(batch[input_of(batch)], sharding)
      if view is None:
        out = self._plain(params, state, image)
      else:
        index = processes.put(batch['index'], sharding)
        numbers = processes.put((np.uint32(self._seed), np.int32(view)), NamedSharding(self._mesh, P()))
        out = self._augmented(params, state, image, index, *numbers, kind=view % self._kinds)
      kept = {k: np.asarray(v)[batch['mask']] for k, v in processes.fetch(out).items()}
      absent = np.full(len(batch['index']), -1, np.int32)
      kept |= {k: np.asarray(batch.get(k, absent))[batch['mask']] for k in ('label', 'index')}
      parts.append(kept | {k: np.asarray(batch[k])[batch['mask']] for k in _OF_SOME if k in batch})
    whole = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    texts = self._of_captions(params, state, split, whole) if self._has_texts else None
    names = ('features', 'projection', 'label', 'index', 'concept', 'target')
    return Embedded(texts=texts, **{k: whole[k] for k in names if k in whole})

  def _of_captions(self, params, state, split: str, whole) -> Texts:
    captions, tokens, mask = self.sources[split].captions, whole['caption'], whole['caption_mask']
    assert captions is not None, 'a method with a text tower is made for data with captions'

    def project():
      found = self.tokens(params, state, tokens[mask])
      out = np.zeros((*mask.shape, found.shape[1]), found.dtype)
      out[mask] = found
      return out

    return cast(Texts, Later(project, mask, captions.slots))

  def strings(self, params: Params, state: State, strings: Sequence[str]) -> Float[np.ndarray, 'n p']:
    """Any strings through the text tower.

    Raises:
      Refusal: there is no text tower.
    """
    captions = self.sources['train'].captions
    if not self._has_texts or captions is None:
      raise Refusal('the method embeds no texts: it has no text tower')
    return self.tokens(params, state, captions.encode(strings))

  def tokens(self, params: Params, state: State, tokens: Int[np.ndarray, 'n l']) -> Float[np.ndarray, 'n p']:
    """Tokens of texts through the text tower, in batches."""
    sharding, parts = batch_sharding(self._mesh), []
    for start in range(0, max(1, len(tokens)), self._batch_size):
      piece = tokens[start : start + self._batch_size]
      padded = np.concatenate([piece, np.zeros((self._batch_size - len(piece), tokens.shape[1]), np.int32)])
      out = processes.fetch(self._texts(params, state, processes.put(padded, sharding)))
      parts.append(np.asarray(out)[: len(piece)])
    return np.concatenate(parts)


class Later:
  """`types.Texts` whose projection is made when it is first read: few evaluators look at the captions of a split."""

  def __init__(self, project: Callable[[], np.ndarray], mask: np.ndarray, slots: tuple[str, ...]):
    self._project, self.mask, self.slots = project, mask, slots

  @functools.cached_property
  def projection(self) -> np.ndarray:
    """As of `types.Texts`."""
    return self._project()


class Bound:
  """What evaluators get of an `Embedder`: `evals.evaluator.Embed`."""

  def __init__(self, embedder: Embedder, params: Params, state: State, on_host: bool):
    self._embedder, self._at, self._on_host = embedder, (params, state), on_host
    self._made: dict[tuple[str, int | None], Embedded] = {}
    self.label_names = next(iter(embedder.sources.values())).label_names

  def __call__(self, split: str, view: int | None = None) -> Embedded:
    """A split, embedded once."""
    if (split, view) not in self._made:
      self._made[split, view] = self._embedder.split(*self._at, split, view)
    found = self._made[split, view]
    return found if self._on_host else self._embedder.placed(found)

  def texts(self, strings: Sequence[str]) -> Float[np.ndarray, 'n p']:
    """Any strings through the text tower, unit norm."""
    return self._embedder.strings(*self._at, strings)


def raw_pixels(params, state, batch) -> dict[str, jax.Array]:
  """The `embed` of a method that is no method: the floor that any representation should pass."""
  del params, state
  pixels = batch['view_0'].reshape(batch['view_0'].shape[0], -1)
  return {'features': pixels, 'projection': losses.unit(pixels)}


def scores(evaluators: Mapping[str, Evaluator], embed: Embed) -> dict[str, float]:
  """The scores of all evaluators, in one dictionary."""
  found: dict[str, float] = {}
  for evaluator in evaluators.values():
    found |= evaluator.run(embed)
  return found


def possible(
  evaluators: Mapping[str, Evaluator], embeds: Mapping[str, Embed]
) -> tuple[dict[str, Evaluator], dict[str, dict[str, float]]]:
  """The evaluators that the data allow for any `embed`, and the scores of each; says which are left out and why."""
  usable: dict[str, Evaluator] = {}
  found: dict[str, dict[str, float]] = {name: {} for name in embeds}
  for name, evaluator in evaluators.items():
    refused: list[Refusal] = []
    for key, embed in embeds.items():
      try:
        found[key] = found[key] | evaluator.run(embed)
      except Refusal as refusal:  # pixels, say, have no captions beside them
        refused.append(refusal)
    if len(refused) == len(embeds):
      print(f'evaluation {name} is left out: {refused[0]}', flush=True)
    else:
      usable[name] = evaluator
  return usable, found


def example_views(source: Source, views: Views) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of views and captions, for `Method.init`."""
  image = jax.ShapeDtypeStruct(source.input_shape, jnp.uint8 if source.input == 'image' else jnp.float32)
  view = jax.eval_shape(views.plain, image)
  of_captions = {'caption': jax.ShapeDtypeStruct((2, 1, source.captions.length), jnp.int32)} if source.captions else {}
  return of_captions | {
    'view_0': jax.ShapeDtypeStruct((2, *view.shape), view.dtype),
    'index': jax.ShapeDtypeStruct((2,), jnp.int32),
    'label': jax.ShapeDtypeStruct((2,), jnp.int32),
  }
