"""Runs of a sweep as processes of this machine: so many at a time, each with its share of cores, devices and memory."""

import collections
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TextIO

from launch import folder, machine, outcome
from launch.display import Display
from launch.folder import Run, State
from launch.machine import Slot

POLL = 0.2  # seconds
STOPS = (signal.SIGINT, signal.SIGTERM)


class _Going(NamedTuple):
  runs: Sequence[Run]  # that the process trains
  slot: Slot
  process: subprocess.Popen
  states: Sequence[State]
  log_begin: int
  killed_for_memory: int


def command(root: pathlib.Path, run: Run) -> list[str]:
  """What trains a run."""
  overrides = [f'--config.{key}={value}' for key, value in run.overrides.items()]
  where = [f'--config={run.config}', f'--workdir={folder.workdir(root, run)}']
  return [sys.executable, '-m', 'contrastive_jax.train', *where, *overrides]


def together(root: pathlib.Path, group: Sequence[Run], *, always: bool = False) -> list[str]:
  """What trains several runs as one program."""
  names = [run.name for run in group]
  return [sys.executable, '-m', 'launch.together', str(root), *names, *(['--always'] if always else [])]


def environment(root: pathlib.Path) -> dict[str, str]:
  """Of every run: one cache of compiled code for all, and output as it is made."""
  cache = {
    'JAX_COMPILATION_CACHE_DIR': str((root / 'cache').resolve()),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
  }
  return cache | os.environ | {'PYTHONUNBUFFERED': '1'}


# --- running ---


def train(
  root: pathlib.Path,
  runs: Sequence[Run],
  shares: Sequence[Slot],
  *,
  held: int | None = None,
  stream: TextIO | None = None,
  command: Callable[[pathlib.Path, Run], list[str]] = command,
  groups: Sequence[Sequence[Run]] | None = None,
  always: bool = False,
) -> tuple[dict[str, State], bool]:
  """Trains the runs, in order, as many at a time as there are slots; a run that fails does not keep others from it.

  Ctrl-C and SIGTERM are passed on to the runs, which save and end; a second Ctrl-C kills them.

  Args:
    held: an open file that the runs inherit, so that its lock lasts as long as they do.
    stream: where progress is shown; None is standard output.
    command: what trains a run.
    groups: the same runs, those that one process is to train as one program beside each other; None: each alone.
    always: whether or not that is faster.

  Returns:
    How each run stands by name, and whether a signal has stopped them.
  """
  alone = [[run] for run in runs] if groups is None else groups
  waiting, free, going = collections.deque(alone), list(shares), list[_Going]()
  states: dict[str, State] = {}
  asked = False
  with _stops() as came, contextlib.closing(Display(root, runs, stream=stream)) as display:
    while going or (waiting and not came):
      while waiting and free and not came:
        group, slot = waiting.popleft(), free.pop(0)
        try:
          told = command(root, group[0]) if len(group) == 1 else together(root, group, always=always)
          going.append(_started(root, group, slot, held, told))
          for run in group:
            display.started(run)
        except OSError as error:
          for run in group:
            _settle(root, run, State('failed', outcome.of_launcher(error), time.time()), states, display)
          free.insert(0, slot)
      for each in [each for each in going if each.process.poll() is not None]:
        going.remove(each)
        free.insert(0, each.slot)
        for run, state in zip(each.runs, each.states, strict=True):
          _settle(root, run, _ended(root, each, run, state, stopping=bool(came)), states, display)
      if came and going:
        _stop(going, asked, kill=came.count(signal.SIGINT) > 1, display=display)
        asked = True
      display.update([run for each in going for run in each.runs])
      time.sleep(POLL)
  return states, bool(came)


def _started(root: pathlib.Path, group: Sequence[Run], slot: Slot, held: int | None, command: Sequence[str]) -> _Going:
  log = folder.log(root, group[0])  # of all that the process trains
  log.parent.mkdir(parents=True, exist_ok=True)
  states = [State('running', began=time.time(), attempts=folder.state(root, run).attempts + 1) for run in group]
  for run, state in zip(group, states, strict=True):
    folder.write_state(root, run, state)
  with log.open('ab') as said:
    begin = said.tell()
    process = subprocess.Popen(
      confined(command, slot.cores, slot.memory),
      stdin=subprocess.DEVNULL,
      stdout=said,
      stderr=subprocess.STDOUT,
      env=environment(root) | slot.environment,
      start_new_session=True,  # Ctrl-C reaches the launcher alone, which asks the runs to save
      pass_fds=() if held is None else (held,),
    )
  return _Going(group, slot, process, states, begin, machine.killed_for_memory())


def confined(command: Sequence[str], cores: Sequence[int] = (), memory: int | None = None) -> list[str]:
  """The command, with these cores and so many bytes at most; it gets SIGTERM when its starter dies."""
  program = pathlib.Path(__file__).with_name('confine.py')
  return [sys.executable, '-S', str(program), ','.join(map(str, cores)), str(memory or 0), *command]


def _ended(root: pathlib.Path, each: _Going, run: Run, state: State, *, stopping: bool) -> State:
  if len(each.runs) > 1:
    told = folder.state(root, run)  # of several runs the process itself says which have failed
    if told.state == 'failed' or folder.finished(root, run):
      return told._replace(
        state=told.state if told.state == 'failed' else 'finished', seconds=time.time() - state.began
      )
  return judged(
    root,
    run,
    state,
    each.process.returncode,
    folder.log(root, each.runs[0]),
    each.log_begin,
    stopping=stopping,
    out_of_memory=machine.killed_for_memory() > each.killed_for_memory,
  )


def judged(
  root: pathlib.Path,
  run: Run,
  state: State,
  code: int,
  log: pathlib.Path,
  begin: int,
  *,
  stopping: bool,
  out_of_memory: bool = False,
) -> State:
  """How a run that was `state` stands, now that its process has ended.

  Args:
    code: its exit code.
    log: what it has said, from the byte `begin` on.
    stopping: whether it was asked to stop.
    out_of_memory: whether the system has ended processes for memory in the meantime.
  """
  state = state._replace(seconds=time.time() - state.began)
  if code == 0:  # one that SIGTERM stops ends with code 0, too
    return state._replace(state='finished' if folder.finished(root, run) else 'stopped')
  if stopping and code in (-signal.SIGTERM, -signal.SIGKILL):  # before it could hear the signal
    return state._replace(state='stopped')
  why = outcome.reason(code, outcome.tail(log, begin), out_of_memory=out_of_memory)
  return state._replace(state='failed', reason=why)


def _settle(root: pathlib.Path, run: Run, state: State, states: dict[str, State], display: Display):
  """Keeps how a run has ended; on a full disk in memory alone, which the next command makes up for."""
  states[run.name] = state
  try:
    folder.write_state(root, run, state)
  except OSError as error:
    display.message(f'the state of {run.name} cannot be kept: {error}')
  display.ended(run, state)


# --- stopping ---


@contextlib.contextmanager
def _stops() -> Iterator[list[int]]:
  """Yields a list of the signals that have asked to stop."""
  came: list[int] = []
  before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in STOPS}
  try:
    yield came
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _stop(going: Sequence[_Going], told: bool, *, kill: bool, display: Display):
  """Asks the runs to save and end, once; or kills them."""
  if not told:
    display.message('stopping: the runs save (Ctrl-C again kills them); the same command continues')
  for each in going:
    if kill:
      each.process.kill()
    elif not told:
      each.process.terminate()
