"""Runs of a sweep as jobs of SLURM: one array, each element of which trains one run, on several nodes if it is to.

A job that reaches its time limit, or is preempted, saves and is queued again by submitit; its run continues from there.
What has become of a job that SLURM has ended otherwise is asked when the sweep is looked at.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from contrastive_jax.types import Refusal
from launch import folder, local, outcome
from launch.display import Display
from launch.folder import Run, State

POLL = 5.0  # seconds between looks at the queue
OWN = 60.0  # seconds in which the launcher must have written which job a run belongs to
GOING = ('queued', 'running')


class Job:
  """One process of a run, inside a task of SLURM. submitit pickles it, calls it, and asks it to checkpoint."""

  def __init__(self, root: pathlib.Path, run: Run):
    self._root, self._run = root, run

  def __call__(self) -> str:
    """Trains until the end, or until SLURM wants the job to stop; returns how the run stands then."""
    from submitit.core.utils import UncompletedJobError

    rank, tasks = int(os.environ['SLURM_PROCID']), int(os.environ['SLURM_NTASKS'])
    job = _own_job()
    if not _belongs(self._root, self._run, job):
      return 'another job has this run'
    said = folder.log(self._root, self._run)
    said = said.with_suffix(f'.{rank}.log') if rank else said
    before = folder.state(self._root, self._run)
    state = State('running', began=time.time(), attempts=before.attempts + 1, job=job)
    if rank == 0:
      folder.write_state(self._root, self._run, state)
    begin = said.stat().st_size if said.exists() else 0
    self._start(said, ['--distributed'] if tasks > 1 else [])
    stopping: list[int] = []
    # Preempted or cancelled: submitit only notes SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, _: (stopping.append(number), self._process.terminate()))
    try:
      while self._process.poll() is None:
        time.sleep(0.2)
    except UncompletedJobError as error:  # from submitit's handler of the time limit
      folder.write_state(self._root, self._run, state._replace(state='failed', reason=f'time limit: {error}'))
      raise
    state = local.judged(self._root, self._run, state, self._process.returncode, said, begin, stopping=bool(stopping))
    if rank == 0:
      folder.write_state(self._root, self._run, state)
    return state.state

  def _start(self, said: pathlib.Path, more: list[str]):
    said.parent.mkdir(parents=True, exist_ok=True)
    with said.open('ab') as file:
      self._process = subprocess.Popen(
        local.confined([*local.command(self._root, self._run), *more]),
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env=local.environment(self._root),
      )

  def checkpoint(self) -> Any:
    """Called in the first process of a job that is about to be ended: the run saves, in all its processes."""
    from submitit.helpers import DelayedSubmission

    self._process.terminate()
    # Not Popen.wait: this interrupts a call of Popen.poll, which may hold its lock.
    os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
    now = folder.state(self._root, self._run)
    folder.write_state(self._root, self._run, now._replace(state='queued'))
    return DelayedSubmission(Job(self._root, self._run))


def _own_job() -> str:
  array = os.environ.get('SLURM_ARRAY_JOB_ID')
  return f'{array}_{os.environ["SLURM_ARRAY_TASK_ID"]}' if array else os.environ['SLURM_JOB_ID']


def _belongs(root: pathlib.Path, run: Run, job: str) -> bool:
  """Whether this job is the one to train the run: not one whose launcher was killed before it could say so."""
  deadline = time.monotonic() + OWN
  while folder.state(root, run).job != job:
    if time.monotonic() > deadline:
      return False
    time.sleep(0.5)
  return True


# --- launching ---


def sweep(root: pathlib.Path, wanted: list[Run], given: argparse.Namespace) -> int:
  """Submits what is neither finished nor queued, and waits for all if asked to; returns the exit code."""
  from launch.sweep import summary

  root = root.resolve()
  try:
    with folder.launching(root):
      folder.write_manifest(root, folder.merged(root, wanted))
      now = settled(root, wanted)
      due = [run for run in wanted if now[run.name].state not in (*GOING, 'finished')]
      jobs = _submitted(root, due, given) if due else []
      for run, job in zip(due, jobs, strict=True):
        folder.write_state(root, run, State('queued', began=time.time(), attempts=now[run.name].attempts, job=job))
      going = sum(each.state in GOING for each in now.values())
      print(f'{len(wanted)} runs: {len(due)} submitted, {going} queued or running before', flush=True)
      states = _awaited(root, wanted) if given.wait else settled(root, wanted)
  except OSError as error:
    raise Refusal(f"workdir '{root}' cannot be used: {error}") from None
  return summary(root, wanted, states)


def _submitted(root: pathlib.Path, due: Sequence[Run], given: argparse.Namespace) -> list[str]:
  """The ids of the jobs of one array."""
  try:
    import submitit
  except ModuleNotFoundError:
    raise Refusal("--where=slurm needs submitit: pip install -e '.[launch]'") from None
  try:
    executor = submitit.SlurmExecutor(root / 'slurm', max_num_timeout=given.requeues)
    executor.update_parameters(**parameters(given, name=root.name))
    return [job.job_id for job in executor.submit_array([Job(root, run) for run in due])]
  except (RuntimeError, ValueError, OSError, submitit.core.utils.FailedJobError) as error:
    raise Refusal(f'SLURM takes no jobs: {error}') from None


def parameters(given: argparse.Namespace, *, name: str) -> dict[str, Any]:
  """What submitit is told of each job.

  Raises:
    Refusal: an option without a value.
  """
  further = dict(text.partition('=')[::2] for text in given.slurm)
  if not all(further.values()):
    raise Refusal('--slurm must be OPTION=VALUE, as in --slurm=account=lab')
  optional = dict(
    cpus_per_task=given.cpus,
    gpus_per_node=given.gpus,
    partition=given.partition,
    array_parallelism=given.at_once,
    mem=None if given.memory is None else f'{1000 * given.memory:.0f}MB',
  )
  return dict(
    job_name=name,
    time=given.minutes,
    nodes=given.nodes,
    ntasks_per_node=given.tasks,
    signal_delay_s=given.save_seconds,
    stderr_to_stdout=True,
    additional_parameters={key.lstrip('-'): value for key, value in further.items()},
  ) | {key: value for key, value in optional.items() if value is not None}


def _awaited(root: pathlib.Path, wanted: Sequence[Run]) -> dict[str, State]:
  """Shows how far all is until no job is left."""
  now = settled(root, wanted)
  going = [run for run in wanted if now[run.name].state in GOING]
  display, shown = Display(root, going), set()
  try:
    while going:
      time.sleep(POLL)
      now = settled(root, wanted)
      for run in going:
        if run.name not in shown and now[run.name].state != 'queued':
          shown.add(run.name)
          display.started(run)
        if now[run.name].state not in GOING:
          display.ended(run, now[run.name])
      going = [run for run in going if now[run.name].state in GOING]
      display.update([run for run in going if run.name in shown])
  finally:
    display.close()
  return now


# --- what has become of jobs ---


def settled(root: pathlib.Path, runs: Sequence[Run]) -> dict[str, State]:
  """How each run stands; those whose job SLURM no longer knows have failed, and this says why as far as it can.

  Raises:
    Refusal: SLURM does not answer.
  """
  queue = _queue() if any(folder.state(root, run).job for run in runs) else {}
  found = {}
  for run in runs:
    state = folder.state(root, run)  # after the queue: a job that has left it has said how it ended
    if state.job in queue and state.state not in ('finished', 'failed'):
      state = state._replace(state='running' if queue[state.job] == 'RUNNING' else 'queued')
    elif state.job and state.job not in queue and state.state in GOING:
      state = state._replace(state='failed', reason=_lost(root, run, state))
      folder.write_state(root, run, state)
    found[run.name] = state
  return found


def _queue() -> Mapping[str, str]:
  """State by job, of all that SLURM has not ended."""
  try:
    told = subprocess.run(['squeue', '-h', '-r', '-o', '%i %T'], capture_output=True, text=True, timeout=60, check=True)
  except (OSError, subprocess.SubprocessError) as error:
    raise Refusal(f'the queue of SLURM cannot be read: {error}') from None
  return dict(line.split() for line in told.stdout.splitlines())


def _lost(root: pathlib.Path, run: Run, state: State) -> str:
  """Why a job has ended before it could say so: in SLURM's own words, at the end of what it has written."""
  said = ''.join(outcome.tail(path) for path in sorted((root / 'slurm').glob(f'{state.job}_*_log.out')))
  told = outcome.reason(0, said + outcome.tail(folder.log(root, run))).removeprefix('exit code 0: ')
  return f'job {state.job} was ended by SLURM: {told}'
