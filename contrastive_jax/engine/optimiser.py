"""Optimisers and schedules from optax, with decay and learning rates by parameter path."""

import math
import re
from collections.abc import Callable

import jax
import optax

from contrastive_jax.engine.state import path_name
from contrastive_jax.models.options import pattern
from contrastive_jax.types import Refusal, nearest

Rates = tuple[tuple[str, float], ...]
Turns = tuple[tuple[str, int], ...]

# Biases and the scales of norms are neither decayed nor, under LARS, rescaled.
NO_DECAY = r'.*(bias|scale|temperature)|proxies'

_SCALINGS: dict[str, Callable[[float], float]] = {
  'none': lambda batch_size: 1.0,
  'linear': lambda batch_size: batch_size / 256,
  'sqrt': lambda batch_size: (batch_size / 256) ** 0.5,
}


def _peak(learning_rate, scaling: str, batch_size: int, warmup: float):
  """The peak of a schedule; a rate that is traced is not checked."""
  if not isinstance(learning_rate, jax.core.Tracer) and not 0 <= learning_rate < math.inf:
    raise Refusal(f'config.schedule.learning_rate must be a number of at least 0, but it is {learning_rate}')
  if not 0 <= warmup <= 1:
    raise Refusal(f'config.schedule.warmup is a share of the steps, from 0 to 1, but it is {warmup}')
  if scaling not in _SCALINGS:
    raise Refusal(f"unknown scaling '{scaling}' in config.schedule{nearest(scaling, _SCALINGS)}")
  return learning_rate * _SCALINGS[scaling](batch_size)


def cosine(
  total_steps: int,
  batch_size: int,
  *,
  learning_rate: float = 0.3,
  scaling: str = 'linear',
  warmup: float = 0.1,
  final: float = 0.0,
) -> optax.Schedule:
  """Linear warm-up over the first `warmup` share of the steps, then half a cosine down to `final` times the peak.

  The peak is `learning_rate` times (batch size / 256) to the power 1 ('linear'), 0.5 ('sqrt') or 0 ('none').
  """
  peak = _peak(learning_rate, scaling, batch_size, warmup)
  if not 0 <= final <= 1:
    raise Refusal(f'config.schedule.final is a share of the peak, from 0 to 1, but it is {final}')
  rising = round(warmup * total_steps)
  first = 0.0 if rising else 1.0
  share = optax.warmup_cosine_decay_schedule(first, 1.0, rising, max(total_steps, rising + 1), final)
  return lambda step: peak * share(step)


def constant(
  total_steps: int, batch_size: int, *, learning_rate: float = 0.3, scaling: str = 'linear', warmup: float = 0.0
) -> optax.Schedule:
  """Linear warm-up over the first `warmup` share of the steps, then the peak of `cosine` throughout."""
  peak = _peak(learning_rate, scaling, batch_size, warmup)
  rising = round(warmup * total_steps)
  share = optax.warmup_constant_schedule(0.0 if rising else 1.0, 1.0, rising)
  return lambda step: peak * share(step)


def _decayed(no_decay: str):
  """The mask of parameters whose path does not match, as optax wants it."""
  pattern('config.optimiser.no_decay', no_decay)

  def mask(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: not re.fullmatch(no_decay, path_name(path)), params)

  return mask


def _check(weight_decay: float, clip_norm: float | None, **momenta: float):
  if not weight_decay >= 0:
    raise Refusal(f'config.optimiser.weight_decay must be at least 0, but it is {weight_decay}')
  if clip_norm is not None and not clip_norm > 0:
    raise Refusal(f'config.optimiser.clip_norm must be positive, or None for no clipping, but it is {clip_norm}')
  for name, value in momenta.items():
    if not 0 <= value < 1:
      raise Refusal(f'config.optimiser.{name} must be at least 0 and below 1, but it is {value}')


def _positive(name: str, value: float):
  if not value > 0:
    raise Refusal(f'config.optimiser.{name} must be positive, but it is {value}')


def _first(pairs, name: str, default):
  """The value of the first pair whose regular expression a path matches."""
  return next((value for regex, value in pairs if re.fullmatch(regex, name)), default)


def _check_groups(rates: Rates, every: Turns):
  for regex, rate in rates:
    if not rate >= 0:
      raise Refusal(f"config.optimiser.rates has the factor {rate} for '{regex}', but at least 0 is needed")
    pattern('config.optimiser.rates', regex)
  for regex, turn in every:
    if not (isinstance(turn, int) and turn >= 1):
      raise Refusal(f"config.optimiser.every has {turn} for '{regex}', but a whole number of at least 1 is needed")
    pattern('config.optimiser.every', regex)


def _assemble(
  rule_of: Callable[[optax.Schedule], optax.GradientTransformation],
  schedule: optax.Schedule,
  clip_norm: float | None,
  rates: Rates,
  every: Turns,
):
  """Clipping before the rule, learning rates by path after it; a rate of 0 freezes parameters and their moments.

  What takes part in every nth step alone has moments and a count of its own, which rest in between; its learning rate
  is that of the step all the same.
  """
  _check_groups(rates, every)

  def label(rate: float, turn: int) -> str:
    return str(float(rate)) if turn == 1 else f'{float(rate)} every {turn}'

  def labels(params):
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for key, pairs in (('rates', rates), ('every', every)):
      for regex, _ in pairs:
        if not any(re.fullmatch(regex, name) for name in names):
          raise Refusal(
            f"'{regex}' of config.optimiser.{key} matches no parameter; the first are {', '.join(names[:3])}"
          )

    def of_path(path, _):
      name = path_name(path)
      return label(_first(rates, name, 1.0), _first(every, name, 1))

    return jax.tree_util.tree_map_with_path(of_path, params)

  def group(rate: float, turn: int) -> optax.GradientTransformation:
    if not rate:
      return optax.set_to_zero()
    rule = rule_of(schedule if turn == 1 else lambda count: schedule(count * turn))
    rule = rule if rate == 1 else optax.chain(rule, optax.scale(rate))
    return rule if turn == 1 else optax.conditionally_mask(rule, lambda step: step % turn == 0)

  rule = rule_of(schedule)
  if rates or every:
    kinds = {(rate, turn) for rate in (1.0, *(r for _, r in rates)) for turn in (1, *(n for _, n in every))}
    rule = optax.multi_transform({label(*kind): group(*kind) for kind in kinds}, labels)
  return rule if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), rule)


def sgd(
  schedule: optax.Schedule,
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 1e-4,
  no_decay: str = NO_DECAY,
  clip_norm: float | None = None,
  rates: Rates = (),
  every: Turns = (),
) -> optax.GradientTransformation:
  """SGD with momentum; the decay is added to the gradient, as in PyTorch.

  Args:
    schedule: learning rate by step.
    momentum: of the gradients, decay included.
    nesterov: Nesterov's form.
    weight_decay: coupled L2 decay.
    no_decay: regular expression over whole parameter paths ('encoder/stem/bias') that are not decayed.
    clip_norm: largest global norm of the gradients; None for no clipping.
    rates: (regular expression over whole paths, factor on the learning rate) pairs; 0 freezes.
    every: (regular expression over whole paths, n) pairs: what it matches is trained in steps 0, n, 2 n, ... alone.
  """
  _check(weight_decay, clip_norm, momentum=momentum)
  decay = optax.add_decayed_weights(weight_decay, _decayed(no_decay))

  def rule(schedule):
    return optax.chain(decay, optax.sgd(schedule, momentum, nesterov))

  return _assemble(rule, schedule, clip_norm, rates, every)


def adamw(
  schedule: optax.Schedule,
  *,
  beta1: float = 0.9,
  beta2: float = 0.999,
  epsilon: float = 1e-8,
  weight_decay: float = 1e-4,
  no_decay: str = NO_DECAY,
  clip_norm: float | None = None,
  rates: Rates = (),
  every: Turns = (),
) -> optax.GradientTransformation:
  """AdamW (Loshchilov and Hutter, 2019), decay decoupled; `no_decay`, `clip_norm`, `rates` and `every` as in `sgd`."""
  _check(weight_decay, clip_norm, beta1=beta1, beta2=beta2)
  _positive('epsilon', epsilon)
  mask = _decayed(no_decay)

  def rule(schedule):
    return optax.adamw(schedule, beta1, beta2, epsilon, weight_decay=weight_decay, mask=mask)

  return _assemble(rule, schedule, clip_norm, rates, every)


def lion(
  schedule: optax.Schedule,
  *,
  beta1: float = 0.9,
  beta2: float = 0.99,
  weight_decay: float = 1e-3,
  no_decay: str = NO_DECAY,
  clip_norm: float | None = None,
  rates: Rates = (),
  every: Turns = (),
) -> optax.GradientTransformation:
  r"""Lion (Chen et al., 2023): the sign of a momentum, decay decoupled; one moment where AdamW keeps two.

  .. math:: \theta \leftarrow \theta - \eta \big( \mathrm{sign}(\beta_1 m + (1 - \beta_1) g) + \lambda \theta \big),
            \qquad m \leftarrow \beta_2 m + (1 - \beta_2) g

  Every step moves every parameter by the learning rate, so the paper takes a third to a tenth of AdamW's, and a decay
  larger by as much. `no_decay`, `clip_norm`, `rates` and `every` as in `sgd`.
  """
  _check(weight_decay, clip_norm, beta1=beta1, beta2=beta2)
  mask = _decayed(no_decay)

  def rule(schedule):
    return optax.lion(schedule, beta1, beta2, weight_decay=weight_decay, mask=mask)

  return _assemble(rule, schedule, clip_norm, rates, every)


def lars(
  schedule: optax.Schedule,
  *,
  momentum: float = 0.9,
  trust: float = 0.001,
  weight_decay: float = 1e-6,
  no_decay: str = NO_DECAY,
  clip_norm: float | None = None,
  rates: Rates = (),
  every: Turns = (),
) -> optax.GradientTransformation:
  """LARS (You et al., 2017) as SimCLR uses it: parameters that match `no_decay` are not rescaled either."""
  _check(weight_decay, clip_norm, momentum=momentum)
  _positive('trust', trust)
  mask = _decayed(no_decay)

  def rule(schedule):
    return optax.lars(
      schedule,
      weight_decay,
      weight_decay_mask=mask,
      trust_coefficient=trust,
      trust_ratio_mask=mask,
      momentum=momentum,
    )

  return _assemble(rule, schedule, clip_norm, rates, every)
