"""Using a trained run: one of its checkpoints as a function of images, and of texts."""

import pathlib
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Float, UInt8

from contrastive_jax.data import identity
from contrastive_jax.data.cache import checksum
from contrastive_jax.data.sources import Source
from contrastive_jax.engine import resolve, setup
from contrastive_jax.engine.checkpoint import restore_params
from contrastive_jax.engine.state import batch_sharding
from contrastive_jax.engine.workdir import read_config, read_data
from contrastive_jax.models.load import save_safetensors
from contrastive_jax.types import Embedded, Refusal

# Keys of config.data that choose a part of the data set.
_THINNED = ('imbalance', 'imbalance_largest', 'imbalance_seed')


def restore(run: setup.Run, workdir: str | pathlib.Path, checkpoint: int | str = 'newest'):
  """Parameters, method state and step of a checkpoint: 'newest', 'best' or a step, as `restore_params` reads them.

  Raises:
    Refusal: there is none such, or it is of another model.
  """
  shapes = jax.eval_shape(lambda key: run.method.init(key, run.zeros()), jax.random.key(0))
  like = {'params': shapes[0], 'state': shapes[1], 'step': jax.ShapeDtypeStruct((), np.int32)}
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=run.replicated()), like)
  found = restore_params(pathlib.Path(workdir, 'checkpoints'), like=like, checkpoint=checkpoint)
  return found['params'], found['state'], int(found['step'])


def sources(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Source]:
  """The splits that a config names, for a trained run: normalised by the statistics of the data it was trained on.

  Raises:
    Refusal: the data are missing; the config names those of the run and they have changed (what differs is named), or
      it names others, whose images have other channels.
  """
  found, record = setup.sources(config), read_data(workdir)
  if not record:
    return found
  changed = identity.differences(record, identity.describe(found)) if _of_the_run(config, workdir) else []
  if changed:
    raise Refusal(f"the data are not those that the run in '{workdir}' was trained on: {'; '.join(changed)}")
  trained = record['train']
  for source in found.values():
    if source.input_shape[-1] != trained['input_shape'][-1]:
      raise Refusal(
        f"'{source.name}' has {source.input}s of {list(source.input_shape)}, but the run in '{workdir}' was trained on "
        f'{trained["input_shape"]}: as many channels are needed'
      )
  return {k: source._replace(mean=tuple(trained['mean']), std=tuple(trained['std'])) for k, source in found.items()}


def _of_the_run(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> bool:
  """Whether a config names the data that the run was trained on: the same set, and the same part of it."""
  trained = resolve.load(str(workdir)).data
  return all(config.data.get(key) == trained.get(key) for key in ('source', *_THINNED))


def build(config: ml_collections.ConfigDict, data: dict[str, Source], workdir: str | pathlib.Path) -> setup.Run:
  """The run of a config on data that need not be those of training: a checkpoint keeps the shapes of these."""
  return setup.build(config, data, trained_on=read_data(workdir).get('train'))


class Model:
  """A trained encoder.

  Attributes:
    step: steps that its parameters were trained.
    params: nested dict of parameters.
    sources: the splits of its data set, opened when rows are first read.
  """

  def __init__(self, run: setup.Run, workdir: str | pathlib.Path, checkpoint: int | str = 'newest'):
    self._run, self.sources = run, run.sources
    self.params, self._state, self.step = restore(run, workdir, checkpoint)
    self._embed = jax.jit(self._applied)

  def _applied(self, params, state, images):
    return self._run.method.embed(params, state, {'view_0': jax.vmap(self._run.views.plain)(images)})

  def apply(self, params, images: UInt8[Array, 'n h w c'] | Float[Array, 'n ...']) -> dict[str, Float[Array, 'n d']]:
    """What `embed_both` gives, as a pure function of the parameters: for a caller's own `jit`, `grad` and `vmap`.

    Args:
      params: as `self.params`, or what training on made of them. Batch statistics stay those of the checkpoint.
      images: uint8 [n, h, w, c], or what else the run was trained on.
    """
    return self._applied(params, self._state, images)

  def embed_both(self, images: np.ndarray, *, batch_size: int = 256) -> dict[str, Float[np.ndarray, 'n d']]:
    """`features` (before the head) and `projection` (unit norm) of uint8 images [n, h, w] or [n, h, w, c].

    Raises:
      Refusal: images of another type or shape than the model was trained on.
    """
    shape, kind = self._run.sources['train'].input_shape, self._run.sources['train'].input
    images, wanted = np.asarray(images), np.uint8 if kind == 'image' else np.float32
    if kind == 'image' and images.ndim == 3 and shape[2] == 1:
      images = images[..., None]
    if images.dtype != wanted or images.shape[1:] != shape:
      needed = f'{np.dtype(wanted)} [n, {", ".join(map(str, shape))}]'
      raise Refusal(f'{kind}s must be {needed}, but they are {images.dtype} {images.shape}')
    devices = self._run.mesh.size
    size = max(1, min(batch_size, len(images)) // devices) * devices
    parts = []
    for start in range(0, len(images), size):
      piece = images[start : start + size]
      padded = np.concatenate([piece, np.zeros((size - len(piece), *shape), wanted)])
      out = self._embed(self.params, self._state, jax.device_put(padded, batch_sharding(self._run.mesh)))
      parts.append({k: np.asarray(v)[: len(piece)] for k, v in out.items()})
    if not parts:
      raise Refusal('there are no images to embed')
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}

  def embed(self, images: np.ndarray) -> Float[np.ndarray, 'n d']:
    """The features of uint8 images [n, h, w] or [n, h, w, c], one row an image."""
    return self.embed_both(images)['features']

  def embed_texts(self, strings: Sequence[str]) -> Float[np.ndarray, 'n p']:
    """Any texts through the text tower, unit norm: their cosines with projections of images are `texts @ images.T`.

    Args:
      strings: the texts; what is longer than the captions that the run was trained on is cut.

    Raises:
      Refusal: the method has no text tower; there are no texts, or one text in place of several.
    """
    if isinstance(strings, str) or not all(isinstance(each, str) for each in strings):
      raise Refusal(f'texts must be a list of strings, but they are {strings!r:.80}')
    found = self._run.embedder.at(self.params, self._state).texts(list(strings))
    if not len(found):
      raise Refusal('there are no texts to embed')
    return np.asarray(found)

  def embed_split(self, split: str) -> Embedded:
    """A split ('train' or 'test') of the data set that the run was trained on.

    Raises:
      Refusal: an unknown split; the data set is missing, or is another by now.
    """
    if split not in self._run.sources:
      raise Refusal(f"unknown split '{split}' (known: {', '.join(self._run.sources)})")
    return self._run.embedder.at(self.params, self._state, on_host=True)(split)

  def checksum(self) -> str:
    """Of parameters and method state: two models that differ in any bit of them have two."""
    named = jax.tree_util.tree_leaves_with_path((self.params, self._state))
    return checksum(*(part for path, x in named for part in (jax.tree_util.keystr(path), np.asarray(x).tobytes())))

  def save_safetensors(self, path: str | pathlib.Path):
    """Writes parameters and batch statistics to a .safetensors file, from which `config.train.init_from` can start."""
    save_safetensors(path, self.params, stats=self._state.get('stats'))


def load(
  workdir: str | pathlib.Path,
  config: ml_collections.ConfigDict | None = None,
  *,
  checkpoint: int | str = 'newest',
) -> Model:
  """The trained model of a run. Its data set need not be there: only `embed_split` reads it.

  Args:
    workdir: directory given to `contrastive_jax.train`.
    config: in place of the run's own; rarely needed. Another data set that it names is opened at once.
    checkpoint: 'newest', 'best' (the highest score of `config.train.best` that was kept with one) or a step. Of the
      first two, damaged ones are passed over with a warning.

  Raises:
    Refusal: no run there, or no usable checkpoint; a step that is not there or is damaged.
  """
  read_config(workdir)  # refuses what holds no run
  given, record = resolve.load(str(workdir)) if config is None else config, read_data(workdir)
  if record and _of_the_run(given, workdir):
    data = identity.promised(record, lambda: sources(given, workdir))
  else:
    data = sources(given, workdir)
  return Model(build(given, data, workdir), workdir, checkpoint)
