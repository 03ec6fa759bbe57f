"""Why a run has ended as it did, from its exit code and the last of what it said."""

import errno
import os
import pathlib
import re
import signal

DISK_FULL = re.compile(r'No space left on device|Disk quota exceeded|\[Errno (28|122)\]')
OUT_OF_MEMORY = re.compile(
  r'RESOURCE_EXHAUSTED|MemoryError|bad_alloc|[Oo]ut of memory|Cannot allocate memory|oom[_-]kill|OutOfMemory'
)
# The line that names an exception. JAX writes some more below it.
ERROR = re.compile(r'^(error: |[\w.]*(Error|Exception|Interrupt|Refusal|NonFinite)\b(:|$))')
TAIL = 65536  # bytes at the end of a log in which the reason is looked for
LONGEST = 300  # letters of a reason


def tail(log: pathlib.Path, begin: int = 0) -> str:
  """The end of a log, from the byte `begin` at the earliest; '' where there is none."""
  try:
    with log.open('rb') as file:
      file.seek(max(begin, os.fstat(file.fileno()).st_size - TAIL))
      return file.read().decode(errors='replace')
  except OSError:
    return ''


def reason(code: int, said: str, *, out_of_memory: bool = False) -> str:
  """Why a run has failed, in one line.

  Args:
    code: its exit code; a negative one is a signal.
    said: the end of its log.
    out_of_memory: whether the system has ended processes for memory in the meantime.
  """
  # A progress bar ends its lines with a carriage return.
  lines = [line.strip() for line in re.split(r'[\r\n]+', said) if line.strip()]
  named = [line for line in lines if ERROR.match(line)]
  last = (named or lines or ['it said nothing'])[-1][:LONGEST]
  if found := _last(DISK_FULL, lines):
    return f'disk full: {found}'
  if found := _last(OUT_OF_MEMORY, lines):
    return f'out of memory: {found}'
  if code == -signal.SIGKILL and out_of_memory:
    return 'out of memory: the system killed it'
  if code < 0:
    return f'killed by {_name(-code)}: {last}'
  return f'exit code {code}: {last}'


def of_launcher(error: OSError) -> str:
  """Why a run could not even be started."""
  full = error.errno in (errno.ENOSPC, errno.EDQUOT)
  return f'{"disk full" if full else "cannot be started"}: {error}'


def _last(pattern: re.Pattern, lines: list[str]) -> str:
  return next((line[:LONGEST] for line in reversed(lines) if pattern.search(line)), '')


def _name(number: int) -> str:
  return signal.Signals(number).name if number in signal.valid_signals() else f'signal {number}'
