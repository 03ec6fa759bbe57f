"""The options of a training run that belong to no function, each with its default and its type."""

from typing import NamedTuple


class Seed(NamedTuple):
  """At the top of a config."""

  seed: int = 0  # of parameters, order of the data, views and dropout


class Data(NamedTuple):
  """The `data` section, besides its source and its views."""

  num_views: int = 2  # views made of each example at each step
  # Besides them, small views, made as section `data.small_views` says. A config without any holds neither.
  num_small_views: int = 0
  # Captions of each example at each step, drawn from those of the source. A config of 1 says nothing of it.
  num_captions: int = 1
  batch_size: int = 256  # examples a step, over all devices
  # Batches of so many examples of each of batch_size / per_class classes, drawn anew at every step, in place of passes
  # over all examples. A config of 0 passes over all, and says nothing of this.
  per_class: int = 0
  # The training split is thinned to a long tail: the most frequent class has so many times the examples of the rarest.
  # A config of 1 without `imbalance_largest` takes all examples, and says nothing of this.
  imbalance: float = 1.0
  imbalance_largest: int | None = None  # examples of the most frequent class; None: as many as there can be
  imbalance_seed: int | None = None  # of the order of the classes and the choice of examples; None: by number, 0


class Options(NamedTuple):
  """The `train` section: what the loop needs besides data, models, method, optimiser and evaluators."""

  epochs: float = 100.0  # passes over the training set, where `steps` is None
  steps: int | None = None  # optimiser steps
  log_every: int = 10  # steps between lines of metrics.jsonl
  # Steps between evaluations; None: a fifth of the run. The last step is always evaluated.
  eval_every: int | None = None
  # Steps between checkpoints; None: a tenth of the run. Evaluated steps are saved too where the best are kept.
  checkpoint_every: int | None = None
  keep_last: int = 2  # newest checkpoints kept
  keep_best: int = 1  # best checkpoints kept, by the score below; 0 where no score is to choose
  best: str = 'knn/accuracy'  # a score of `evals` of which more is better
  microbatch: int | None = None  # examples embedded at once by cached gradients; None: the whole batch
  devices: int | None = None  # None: all
  # (regular expression over paths of the train state, 'largest' or (mesh axis or None, ...)) pairs; the first that
  # matches counts, what none matches is replicated.
  sharding: tuple[tuple[str, str | tuple[str | None, ...]], ...] = ()
  init_from: str | None = None  # workdir of another run, or a .safetensors file, whose parameters to start from
  init_skip: str | None = None  # regular expression of parameter paths that `init_from` leaves fresh ('head/.*')
  report: bool = True  # report.html at the end
  wandb: str | None = None  # project of Weights & Biases that also gets what metrics.jsonl does
