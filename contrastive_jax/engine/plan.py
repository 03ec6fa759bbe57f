"""What a run will cost each device, before it is trained, in products, bytes and seconds; and which flags make it fit.

Counts come from traces, memory from compilations, and seconds from the products at the rate that this machine reaches
for a large one. The seconds are a limit: no step can take less, and whatever is no product adds to them.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax

from contrastive_jax.engine import counting, limits, parts
from contrastive_jax.engine.counting import Counts, Visit
from contrastive_jax.engine.parts import Budget
from contrastive_jax.engine.setup import Run
from contrastive_jax.similarity.folds import DENSE_LOGITS

# Of a device's memory, the part that a plan may fill: allocators lose some between arrays.
FILLED = 0.9
# Arrays as large as a tile of logits that a backward pass holds at once: logits, exponentials, cotangents.
COPIES = 3


class Cost(NamedTuple):
  """Of one call, on each device.

  Attributes:
    flop: of products.
    transcendentals: exponentials, logarithms and the like.
    sent: bytes sent to other devices; None where the compiler decides.
    seconds: of the products at the measured rates, so a limit from below.
    memory: bytes, of a step with its train state and batch, of the loss beside its arguments; None: not compiled.
  """

  flop: int
  transcendentals: int
  sent: int | None
  seconds: float
  memory: int | None = None


class Advice(NamedTuple):
  """What to set, and what for.

  Attributes:
    limit: bytes that a device may use.
    fits: whether the step fits with these flags.
    microbatch: examples to embed at once over all devices; None: the whole batch.
    memory: bytes a device of the step with these flags.
    flags: of the command line, where they differ from the config.
    note: what decided, in words.
  """

  limit: int
  fits: bool
  microbatch: int | None
  memory: int
  flags: tuple[str, ...]
  note: str


class Plan(NamedTuple):
  """The costs of a run's step as its config stands, and what to change.

  Attributes:
    batch: B, examples a step over all devices.
    views: V of each example, small ones too.
    width: D, of what the loss compares.
    devices: over which the batch is split.
    device: their kind.
    fold: 'dense', or 'tiles'.
    tile: rows and columns of logits made at once.
    exchange: 'none', 'ring', 'half ring', 'columns gathered once', 'left to the compiler'.
    microbatch: of the config.
    rates: FLOP/s a device by kind of product (see `counting.Counts`).
    loss: of value and gradient, for given features.
    step: of all.
    exact: False where a loop was counted once because no trace tells its length.
    advice: None where nothing was compiled.
  """

  batch: int
  views: int
  width: int
  devices: int
  device: str
  fold: str
  tile: tuple[int, ...]
  exchange: str
  microbatch: int | None
  rates: dict[str, float]
  loss: Cost
  step: Cost
  exact: bool
  advice: Advice | None = None


def sketch(run: Run) -> Plan:
  """The plan without memory and advice: traces and measures for less than a second, and compiles nothing of the run."""
  devices = run.mesh.size
  train_state, raw = run.abstract()
  of_features = parts.features(run, train_state, raw)
  of_step = counting.count(jax.make_jaxpr(run.step)(train_state, raw), devices=devices)
  jaxpr = jax.make_jaxpr(parts.loss(run))(train_state, raw, of_features)
  visited = list(counting.visits(jaxpr, devices=devices))
  of_loss, rates = counting.total(visited), limits.rates(of_step, run.mesh)
  fold, tile = _tile(visited)
  exchange = _exchange(visited, devices)
  # No trace shows the sum of the gradients over the devices, which the compiler adds. Where parameters are split their
  # gathering and the scattering of the sums send as much.
  # Cached gradients are summed after every micro-batch.
  sums = 1 if run.options.microbatch is None else run.batch_size // run.options.microbatch
  summed = sums * 2 * (devices - 1) * parts.whole(train_state.params) // devices
  told = exchange != 'left to the compiler'
  return Plan(
    batch=run.batch_size,
    views=run.info.num_views + run.info.num_small_views,
    width=max((x.shape[-1] for x in jax.tree.leaves(of_features) if len(x.shape) > 1), default=1),
    devices=devices,
    device=run.mesh.local_devices[0].device_kind,
    fold=fold,
    tile=tile,
    exchange=exchange,
    microbatch=run.options.microbatch,
    rates=rates,
    loss=_cost(of_loss, rates, of_loss.sent if told else None),
    step=_cost(of_step, rates, of_step.sent + summed if told else None),
    exact=of_step.exact and of_loss.exact,
  )


def make(run: Run, memory: float | None = None, *, fold: str | None = 'auto') -> Plan:
  """The whole plan; compiles the loss at its size and the encoder for two small batches.

  Args:
    run: of a config that `Run.check` accepts.
    memory: bytes that a device may use; None: what it says, on a CPU its share of what is free.
    fold: the name of the config's; None where its method has none.
  """
  plan, budget = sketch(run), parts.budget(run)
  limit = limits.memory(run.mesh) if memory is None else int(memory)
  advice = advise(plan, budget, limit, per_example=run.method.per_example, fold=fold)
  of_step = _memory(budget, plan.microbatch, plan)
  return plan._replace(
    loss=plan.loss._replace(memory=budget.loss), step=plan.step._replace(memory=of_step), advice=advice
  )


def _cost(counts: Counts, rates, sent: int | None) -> Cost:
  return Cost(counts.flop, counts.transcendentals, sent, limits.seconds(counts, rates))


def _tile(visited: list[Visit]) -> tuple[str, tuple[int, ...]]:
  """How the logits are made: they are the first of the largest products."""
  products = [(equation, scope) for equation, scope in visited if counting.flop(equation)]
  if not products:
    return 'dense', ()
  largest, scope = max(products, key=lambda visit: counting.flop(visit[0]))
  return 'dense' if scope.loop is None else 'tiles', counting.array(largest.outvars[0]).shape[-2:]


def _exchange(visited: list[Visit], devices: int) -> str:
  names = {equation.primitive.name for equation, _ in visited}
  turns = {scope.loop for equation, scope in visited if equation.primitive.name == 'ppermute'}
  if turns:
    return 'ring' if devices in turns else 'half ring'
  if 'all_gather' in names:
    return 'columns gathered once'
  return 'none' if devices == 1 else 'left to the compiler'


# --- what fits ---


def pieces(batch: int, devices: int) -> Iterator[int]:
  """Micro-batches to try: powers of two times the devices, that divide the batch, the largest first."""
  size = devices
  while 2 * size < batch:
    size *= 2
  while size >= devices:
    if size < batch and batch % size == 0:
      yield size
    size //= 2


def _memory(budget: Budget, microbatch: int | None, plan: Plan) -> int:
  if microbatch is None:
    return budget.plain(plan.batch // plan.devices)
  return budget.cached(microbatch // plan.devices)


def advise(plan: Plan, budget: Budget, limit: int, *, per_example: bool, fold: str | None = 'auto') -> Advice:
  """The fastest step that fits into so many bytes a device: the whole batch at once, else the largest micro-batch.

  Where another fold is needed nothing is known of its memory, so that alone is advised, and to plan again.
  """
  room = FILLED * limit

  def advice(fits: bool, microbatch: int | None, note: str, *flags: str) -> Advice:
    changed = microbatch != plan.microbatch
    flag = (f'--config.train.microbatch={str(microbatch).lower()}',) if changed else ()
    return Advice(limit, fits, microbatch, _memory(budget, microbatch, plan), flag + flags, note)

  whole = _memory(budget, None, plan)
  if whole <= room:
    return advice(True, None, 'the whole batch fits')
  if fold == 'dense' and math.prod(plan.tile) > DENSE_LOGITS:
    note = 'does not fit with all logits at once; plan again with tiles'
    return advice(False, plan.microbatch, note, '--config.method.fold=auto')
  tried = list(pieces(plan.batch, plan.devices)) if per_example else []
  for size in tried:
    if _memory(budget, size, plan) <= room:
      return advice(True, size, f'the whole batch would take {amount(whole)}B; micro-batches fit')
  smaller = _smaller_tiles(plan, room) if fold is not None else ()
  again = '; plan again with smaller tiles' if smaller else ''
  if not per_example:
    return advice(
      False, None, f'does not fit, and encoders that mix examples (batch norm) allow no micro-batches{again}', *smaller
    )
  return advice(False, tried[-1] if tried else None, f'nothing fits{again}', *smaller)


def _smaller_tiles(plan: Plan, room: float) -> tuple[str, ...]:
  """The flag of tiles that fit, where those of the plan do not."""
  if plan.fold != 'tiles' or len(plan.tile) != 2 or 4 * COPIES * math.prod(plan.tile) <= room:
    return ()
  # Square: where the rows are the columns, tiles are as wide as they are high.
  edge = min(plan.tile)
  while 4 * COPIES * edge**2 > room and edge > 1:
    edge //= 2
  name = 'ring' if 'ring' in plan.exchange else 'chunked'
  return (f"""--config.method.fold="{{'name': '{name}', 'rows': {edge}, 'cols': {edge}}}" """.strip(),)


# --- words ---


def amount(value: float) -> str:
  """Three digits and a prefix: '12.3 G'."""
  value = float(f'{value:.3g}')  # first, or 999.9 would be '1e+03'
  for size, prefix in ((1e15, 'P'), (1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if value >= size:
      return f'{value / size:.3g} {prefix}'
  return f'{value:.3g} '


def duration(seconds: float) -> str:
  """'1.2 s', '35 ms' or '210 us'."""
  seconds = float(f'{seconds:.3g}')
  for size, unit in ((1.0, 's'), (1e-3, 'ms')):
    if seconds >= size:
      return f'{seconds / size:.3g} {unit}'
  return f'{seconds * 1e6:.3g} us'


def logits(plan: Plan) -> str:
  """'dense, 512 x 512 logits'."""
  if not plan.tile:
    return 'no products'
  return f'{plan.fold}, {" x ".join(map(str, plan.tile))} logits' + (' at a time' if plan.fold == 'tiles' else '')


def reached(plan: Plan) -> str:
  """'283 GFLOP/s of float32 products'."""
  names = {rate: _NAMES[kind] for kind, rate in plan.rates.items()}  # a CPU has one rate for two kinds
  return ', '.join(f'{amount(rate)}FLOP/s of {name} products' for rate, name in names.items())


_NAMES = {'float32': 'float32', 'default': 'fast float32', 'bfloat16': 'bfloat16'}


def as_text(plan: Plan) -> str:
  """The plan in aligned lines, with the flags to set."""
  rows = [('', 'FLOP', 'exp, log', 'sent', 'memory', 'at least')]
  for name, cost in (('loss', plan.loss), ('step', plan.step)):
    sent = '?' if cost.sent is None else f'{amount(cost.sent)}B'
    memory = '' if cost.memory is None else f'{amount(cost.memory)}B'
    rows.append((name, amount(cost.flop), amount(cost.transcendentals), sent, memory, duration(cost.seconds)))
  lines = [
    f'batch     {plan.batch} x {plan.views} views, width {plan.width}, on {plan.devices} x {plan.device}',
    *(f'{row[0]:<8s}' + ''.join(f'{cell:>12s}' for cell in row[1:]) for row in rows),
    '          (each device; "at least": the products at the rate below)',
    f'logits    {logits(plan)}; exchange: {plan.exchange}',
    f'rate      {reached(plan)} a device, measured',
  ]
  if not plan.exact:
    lines.append('counts    a loop whose length no trace tells is counted once')
  if plan.advice is not None:
    told = plan.advice
    lines += [
      f'memory    {amount(told.limit)}B a device: {told.note} ({amount(told.memory)}B)',
      f'set       {" ".join(told.flags) or "nothing: the config can stay as it is"}',
    ]
  return '\n'.join(lines)
