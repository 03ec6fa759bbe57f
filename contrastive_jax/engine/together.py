"""Several runs that differ in numbers alone, trained as one program: every step is `vmap` of theirs.

Each run keeps its own loop, in a thread: its batches, evaluations, checkpoints and workdir are as if it were alone, so
it may have begun alone and may go on alone. Only the step is shared: it waits for all runs that are still going.
"""

import concurrent.futures
import inspect
import pathlib
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax.engine import loop, processes
from contrastive_jax.engine.parts import example, features
from contrastive_jax.engine.setup import Run
from contrastive_jax.types import Refusal

REPEATS = 5  # of the steps that are timed

Pair = tuple[Any, Any]  # train state and raw batch; train state and metrics


def check(runs: Sequence[Run]):
  """Refuses runs that no one program can train.

  Raises:
    Refusal: micro-batches, whose step is several programs; several devices or processes.
  """
  for run in runs:
    if run.options.microbatch is not None:
      raise Refusal('runs with config.train.microbatch cannot be trained as one program: their steps are several')
    if run.mesh.size > 1:
      raise Refusal(f'runs on {run.mesh.size} devices cannot be trained as one program: config.train.devices=1')


def stacked(step: Callable) -> Callable[[Sequence[Pair]], list[Pair]]:
  """`step` for several train states and raw batches at once; the states given are consumed."""

  def many(states, raws):
    states, raws = (jax.tree.map(lambda *xs: jnp.stack(xs), *trees) for trees in (states, raws))
    out = jax.vmap(inspect.unwrap(step))(states, raws)  # a compiled step may have options, which cannot be nested
    return [jax.tree.map(lambda x, i=i: x[i], out) for i in range(len(jax.tree.leaves(out)[0]))]

  compiled = jax.jit(many, donate_argnums=0)
  return lambda pairs: compiled(*zip(*pairs, strict=True))


class Meeting:
  """The shared step: calls of all members wait for each other, and the last to come makes it for all."""

  def __init__(self, step: Callable[[Sequence[Pair]], list[Pair]], members: int):
    self._step, self._going = step, set(range(members))
    self._came: dict[int, Pair] = {}
    self._made: dict[int, Pair | BaseException] = {}
    self._changed = threading.Condition()

  def step(self, member: int, state, raw) -> Pair:
    """The step of one member."""
    with self._changed:
      self._came[member] = state, raw
      self._make()
      self._changed.wait_for(lambda: member in self._made)
      found = self._made.pop(member)
    if isinstance(found, BaseException):
      raise RuntimeError('the shared step has failed') from found
    return found

  def leave(self, member: int):
    """One member takes no more steps."""
    with self._changed:
      self._going.discard(member)
      self._make()

  def _make(self):
    if not self._came or self._came.keys() < self._going:
      return
    members = sorted(self._came)
    try:
      made: Sequence[Any] = self._step([self._came[member] for member in members])
    except Exception as error:  # all of them must hear of it, or they wait for ever
      made = [error] * len(members)
    self._came.clear()
    self._made |= dict(zip(members, made, strict=True))
    self._changed.notify_all()


def fit(runs: Sequence[Run], paths: Sequence[pathlib.Path]) -> list[dict[str, float] | BaseException]:
  """Trains the runs in their workdirs, as `loop.fit` does each; returns their last scores, or what has ended them.

  A run that fails does not keep the others from going on.

  Raises:
    Refusal: they cannot be trained as one program.
  """
  check(runs)
  meeting = Meeting(stacked(runs[0].step), len(runs))

  def one(member: int, stopping) -> dict[str, float]:
    def step(state, raw):
      return meeting.step(member, state, raw)

    try:
      return loop.fit(runs[member]._replace(step=step), paths[member], stopping=stopping)
    finally:
      meeting.leave(member)

  with processes.stop_signals() as stopping, concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
    futures = [pool.submit(one, member, stopping) for member in range(len(runs))]
    concurrent.futures.wait(futures)
  return [future.exception() or future.result() for future in futures]


def seconds(runs: Sequence[Run]) -> tuple[float, float]:
  """Of one step of every run: one after another, and as one program (medians)."""
  raw, _ = example(runs[0], features(runs[0], *runs[0].abstract()))
  many = stacked(runs[0].step)

  def apart(states):
    return [runs[0].step(state, raw)[0] for state in states]

  def together(states):
    return [state for state, _ in many([(state, raw) for state in states])]

  return _median(apart, runs), _median(together, runs)


def _median(take: Callable, runs: Sequence[Run]) -> float:
  states, taken = jax.block_until_ready(take([run.fresh() for run in runs])), []
  for _ in range(REPEATS):
    began = time.perf_counter()
    states = jax.block_until_ready(take(states))
    taken.append(time.perf_counter() - began)
  return statistics.median(taken)
