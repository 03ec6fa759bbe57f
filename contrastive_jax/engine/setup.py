"""A config made into the functions of a run."""

import functools
import inspect
import json
import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.data.imbalance import long_tail
from contrastive_jax.data.pipeline import sweep
from contrastive_jax.data.sampling import Plan, planned, steps_per_epoch
from contrastive_jax.data.source import labels
from contrastive_jax.data.sources import Source
from contrastive_jax.data.views import Views, draw_captions, expand
from contrastive_jax.engine import gradient, resolve, state, step, values
from contrastive_jax.engine.evaluation import Embedder, example_views, raw_pixels
from contrastive_jax.engine.options import Options
from contrastive_jax.evals.evaluator import Embed, Evaluator
from contrastive_jax.methods.base import Info, Method
from contrastive_jax.types import Refusal, nearest

# `local` is for a caller's own shard_map: in a run it would be `chunked`, or leave negatives out.
_FOLDS: dict[str, Callable] = {
  'auto': lambda: 'auto',
  'chunked': losses.chunked,
  'dense': losses.dense,
  'ring': losses.ring,
}
# Side of small views, as a share of the others': 96 of 224 pixels (Caron et al., 2020).
SMALL_SIDE = 3 / 7
# Bytes of the float32 pixels of both splits, up to which they are scored as a floor: CIFAR-10 has 0.7 GB, ImageNet 800.
MOST_PIXELS = 2**32
# Numbers that a compiled step takes as inputs, besides the seed: what sweeps go over.
NUMBERS = ('method.temperature', 'schedule.learning_rate')
# Seeds beyond 32 bits would give the same keys as smaller ones.
_SEEDS = 2**32


class Run(NamedTuple):
  """Everything a run needs, resolved: no config below this point."""

  options: Options
  seed: int
  batch_size: int
  info: Info
  mesh: Any
  sources: dict[str, Source]
  plan: Callable[[], Plan | None]  # which rows make batches, where the method's state does not say
  views: Views
  draw: Callable  # (raw batch, seed, step) -> batch with the captions of the step
  expand: Callable  # (raw batch, seed, step) -> the same with its views
  recipes: state.Recipes
  numbers: dict[str, Any]  # of the config, which a step takes as inputs
  method: Method
  evaluators: dict[str, Evaluator]
  step: Callable  # (train_state, raw batch) -> (train_state, metrics)
  embedder: Embedder
  pixels: Embedder
  glossary: dict[str, str]  # meanings of the scores

  def fresh(self) -> state.TrainState:
    """The train state before the first step."""
    return state.create(self.recipes, self.numbers, self.zeros(), mesh=self.mesh, rules=self.options.sharding)

  def zeros(self) -> dict[str, jax.Array]:
    """A batch of two examples, of which `Method.init` reads the shapes."""
    shapes = example_views(self.sources['train'], self.views)
    return {k: jnp.zeros(x.shape, x.dtype) for k, x in shapes.items()}

  def check(self):
    """Refuses what the first step would refuse, by tracing it: a run that cannot start writes nothing.

    Raises:
      Refusal: a batch that does not divide among the devices, too few views, a temperature of 0, ...
    """
    state.check_batch(self.batch_size, self.mesh)
    planned(self.plan(), seed=self.seed, num_examples=self.info.num_examples, batch_size=self.batch_size)
    train_state, raw = self.abstract()
    # To a step a temperature is an input, which may be anything.
    of_config = gradient.objective(lambda numbers: self.method, self.expand)
    jax.eval_shape(of_config, train_state.params, train_state, raw)
    jax.eval_shape(self.step, train_state, raw)

  def abstract(self) -> tuple[state.TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """The train state and a raw batch of a step: shapes with their shardings, to trace or compile for."""
    example = next(sweep(self.sources['train'], batch_size=1))
    shapes = {k: jax.ShapeDtypeStruct((self.batch_size, *v.shape[1:]), v.dtype) for k, v in example.items()}
    raw = state.placed(shapes, jax.tree.map(lambda _: state.batch_sharding(self.mesh), shapes))
    fresh = jax.eval_shape(self.fresh)
    return state.placed(fresh, state.shardings(fresh, self.mesh, self.options.sharding)), raw

  def floors(self, fresh: state.TrainState) -> dict[str, Embed]:
    """`embed` by the name of what training should surpass: the pixels, if they fit, and the encoder before training."""
    kind = self.sources['train'].input
    name = 'raw pixels' if kind == 'image' else f'raw {kind}'
    pixels: dict[str, Embed] = {name: self.pixels.at({}, {})} if _pixel_bytes(self) <= MOST_PIXELS else {}
    return pixels | {'random encoder': self.embedder.at(fresh.params, fresh.state)}

  def replicated(self):
    """The sharding of what every device holds whole."""
    return NamedSharding(self.mesh, P())


def sources(config) -> dict[str, Source]:
  """The splits of the config's data set; that of training thinned, where the config says how much."""
  found = {split: resolve.build(config.data.source, 'data.source', split=split) for split in ('train', 'test')}
  if 'imbalance' in config.data:
    how = dict(ratio=config.data.imbalance, largest=config.data.imbalance_largest, seed=config.data.imbalance_seed)
    found['train'] = long_tail(found['train'], **how)
  return found


def views(config, source: Source) -> Views:
  """The config's views of a source's images, normalised by its statistics."""
  return resolve.build(config.data.views, 'data.views', mean=source.mean, std=source.std)


def small_views(config, source: Source, views_: Views) -> Views | None:
  """The config's small views, where it has any; their side is a share of the others' unless the config says."""
  if 'small_views' not in config.data:
    return None
  shape, options = example_views(source, views_)['view_0'].shape[1:], config.data.small_views.to_dict()
  if len(shape) != 3:
    raise Refusal(f'small views are of images, but the views of these data are {list(shape)}; set num_small_views=0')
  if options['image_size'] is None:
    height, width, _ = shape
    options['image_size'] = max(1, round(SMALL_SIDE * min(height, width)))
  return resolve.build(options, 'data.small_views', mean=source.mean, std=source.std)


def method(config, info: Info, numbers: state.Numbers = MappingProxyType({})) -> Method:
  """The config's method, given the networks and whatever else its factory's signature names."""
  parts: dict[str, Any] = {'info': info}
  for name in [name for name in resolve.NETWORKS if name in config]:
    of_tokens: dict[str, Any] = {'vocab_size': info.vocabulary} if name == 'text_encoder' else {}
    parts[name] = resolve.build(config[name], name, **of_tokens)
  wanted = resolve.needs(config.method.name)
  section = _with_numbers(_with_fold(config.method), 'method', numbers)
  return resolve.build(section, 'method', *(parts[name] for name in wanted))


def numbers(config) -> dict[str, np.generic]:
  """What a step reads as inputs: the seed, and those of `NUMBERS` that the config has."""
  found: dict[str, np.generic] = {'seed': np.uint32(config.seed)}
  for path in NUMBERS:
    section, key = path.split('.')
    if isinstance(config[section].get(key), float):
      found[path] = np.float64(config[section][key])
  return found


def program(config) -> str:
  """A config as text without what its step reads as inputs: runs of one text can share a compiled step."""
  rest = json.loads(config.to_json())
  for path in numbers(config):
    *section, key = path.split('.')
    (rest[section[0]] if section else rest)[key] = 'input'
  return json.dumps(rest, sort_keys=True)


def _with_numbers(section, name: str, numbers: state.Numbers):
  """A section as a dict in which the given numbers stand in for its own."""
  return {**section, **{k: numbers[f'{name}.{k}'] for k in section if f'{name}.{k}' in numbers}}


def _recipes(config, info: Info) -> state.Recipes:
  own = numbers(config).keys()

  def recipe(numbers: state.Numbers) -> state.Recipe:
    if numbers and numbers.keys() != own:  # the config's own value would silently stand for one that is missing
      raise ValueError(f'a step that reads {sorted(own)} was given a train state of {sorted(numbers)}')
    section = _with_numbers(config.schedule, 'schedule', numbers)
    schedule = resolve.build(section, 'schedule', info.total_steps, config.data.batch_size)
    optimiser = resolve.build(config.optimiser, 'optimiser', schedule)
    return state.Recipe(method(config, info, numbers), optimiser, schedule)

  return recipe


def _with_fold(section):
  """A method section whose fold, a name or dict(name=..., ...), has become that fold; unchanged without one."""
  if 'fold' not in section:
    return section
  given = section.fold
  options = dict(given) if isinstance(given, ml_collections.ConfigDict) else {'name': given}
  name = options.pop('name', None)
  if name not in _FOLDS:
    raise Refusal(f"unknown fold '{name}' in config.method.fold{nearest(str(name), _FOLDS)}")
  known = {k: p for k, p in inspect.signature(_FOLDS[name]).parameters.items() if k != 'mesh'}  # the run's own mesh
  for key, value in options.items():
    if key not in known:
      raise Refusal(f"unknown key '{key}' in config.method.fold: {name} has no such option{nearest(key, known)}")
    options[key] = values.checked(f'config.method.fold.{key}', value, known[key])
  return section.to_dict() | {'fold': _FOLDS[name](**options)}


def build(
  config: ml_collections.ConfigDict, data: dict[str, Source] | None = None, *, trained_on: Mapping | None = None
) -> Run:
  """Resolves a completed config; `data` are the splits to use in place of those that it names.

  `trained_on` is the record of the training split of a run whose checkpoints are to fit; these data may be others.

  Raises:
    Refusal: what the config asks for cannot be had: data missing, a batch larger than them, an unknown name, ...
  """
  options = Options(**config.train)
  _check_intervals(options)
  data, mesh = sources(config) if data is None else data, state.data_mesh(options.devices)
  train, batch_size = data['train'], config.data.batch_size
  small = config.data.get('num_small_views', 0)
  _check_numbers_of_views(config.data.num_views, small)
  per_epoch = steps_per_epoch(train.num_examples, batch_size)
  total = round(options.epochs * per_epoch) if options.steps is None else options.steps
  if total < 1:
    raise Refusal(f'a run needs at least one step, but config.train asks for {total}')
  _check_best(options, config.evals)
  if not 0 <= config.seed < _SEEDS:
    raise Refusal(f'config.seed must be from 0 to {_SEEDS - 1}, but it is {config.seed}')
  captions = train.captions.vocabulary if train.captions else 0
  of_data = config.data.num_views, len(train.label_names), small, captions, config.data.get('per_class', 0)
  info = Info(train.num_examples, per_epoch, total, *of_data)
  if trained_on:
    names = trained_on['label_names']
    info = info._replace(num_examples=trained_on['num_examples'], num_classes=len(names))
  recipes, views_ = _recipes(config, info), views(config, train)
  how = recipes({}).method
  num_captions = config.data.get('num_captions', 1)
  draw = functools.partial(_draw, num_captions)
  if num_captions != 1 and not captions:
    raise Refusal(f"config.data.num_captions={num_captions}, but '{train.name}' has no captions")
  make_views = functools.partial(_expand, views_, small_views(config, train, views_), info, draw)
  raw_views = resolve.build(config.data.views, 'data.views', mean=(0.0,) * len(train.mean), std=(1.0,) * len(train.std))
  embedder = functools.partial(Embedder, mesh=mesh, batch_size=max(256, batch_size), seed=config.seed)
  of_texts = 'text_encoder' in resolve.needs(config.method.name)
  return Run(
    options=options,
    seed=config.seed,
    batch_size=batch_size,
    info=info,
    mesh=mesh,
    sources=data,
    plan=functools.partial(_plan, config, train),
    views=views_,
    draw=draw,
    expand=make_views,
    recipes=recipes,
    numbers=numbers(config),
    method=how,
    evaluators={k: resolve.build(section, 'evals', name=k) for k, section in config.evals.items()},
    step=step.make(recipes, make_views, mesh=mesh, microbatch=options.microbatch, rules=options.sharding),
    embedder=embedder(how.embed, data, views_, texts=of_texts),
    pixels=embedder(raw_pixels, data, raw_views),
    glossary=resolve.glossary(config),
  )


def _plan(config, train: Source) -> Plan | None:
  """Batches of so many examples of each class, where the config says so."""
  if 'per_class' not in config.data:
    return None
  return {'label': labels(train), 'per_class': config.data.per_class}


def _pixel_bytes(run: Run) -> int:
  view = example_views(run.sources['train'], run.views)['view_0']
  return sum(source.num_examples for source in run.sources.values()) * math.prod(view.shape[1:]) * view.dtype.itemsize


def _check_intervals(options: Options):
  for name in ('log_every', 'eval_every', 'checkpoint_every', 'keep_last', 'microbatch'):
    value = getattr(options, name)
    if value is not None and value < 1:
      raise Refusal(f'config.train.{name} must be at least 1, but it is {value}')
  if not 0 < options.epochs < math.inf:
    raise Refusal(f'config.train.epochs must be a positive number, but it is {options.epochs}')
  if options.keep_best < 0:
    raise Refusal(f'config.train.keep_best must be at least 0, but it is {options.keep_best}')


def _check_best(options: Options, evaluators: Collection[str]):
  """Refuses a `best` that no evaluator of the run measures, or that is lower for better encoders."""
  matters = options.keep_best and evaluators  # without evaluations no checkpoint is the best
  scores = resolve.best_scores(evaluators if matters else None)
  if options.best not in scores:
    raise Refusal(
      f"config.train.best='{options.best}' must be a score that config.evals measures and of which more is better"
      + nearest(options.best, scores)
    )


def _check_numbers_of_views(large: int, small: int):
  if large < 1:
    raise Refusal(f'config.data.num_views must be at least 1, but it is {large}')
  if small < 0:
    raise Refusal(f'config.data.num_small_views must be at least 0, but it is {small}')


def _draw(num_captions: int, batch, seed, step_):
  return draw_captions(batch, number=num_captions, seed=seed, step=step_) if 'caption' in batch else batch


def _expand(views_: Views, small: Views | None, info: Info, draw: Callable, batch, seed, step_):
  batch = draw(batch, seed, step_)
  counts = dict(num_views=info.num_views, num_small=info.num_small_views)
  return expand(batch, views_, small=small, seed=seed, step=step_, **counts)
