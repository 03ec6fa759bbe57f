"""The one line that says why a run has ended."""

import signal

import pytest

from launch import outcome

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: shapes differ\n'
JAX_NOTE = '--------------------\nFor simplicity, JAX has removed its internal frames from the traceback.\n'


@pytest.mark.parametrize(
  ('code', 'said', 'reason'),
  [
    (1, TRACEBACK, 'exit code 1: ValueError: shapes differ'),
    (1, TRACEBACK + JAX_NOTE, 'exit code 1: ValueError: shapes differ'),
    (2, "step 1\nerror: unknown key 'config.x'\n", "exit code 2: error: unknown key 'config.x'"),
    (1, 'step 1/2\rstep 2/2\rbroken\n', 'exit code 1: broken'),
    (3, '', 'exit code 3: it said nothing'),
    (-signal.SIGSEGV, 'step 4\n', 'killed by SIGSEGV: step 4'),
    (-signal.SIGKILL, 'step 4\n', 'killed by SIGKILL: step 4'),
    (1, 'Traceback\nMemoryError\n', 'out of memory: MemoryError'),
    (1, 'jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\n' + JAX_NOTE,
     'out of memory: jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.'),
    (-signal.SIGABRT, "terminate called: 'std::bad_alloc'\n", "out of memory: terminate called: 'std::bad_alloc'"),
    (1, 'OSError: [Errno 28] No space left on device\nRuntimeError: in flight\n',
     'disk full: OSError: [Errno 28] No space left on device'),
  ],
)  # fmt: skip
def test_a_failure_is_told_by_its_last_error(code, said, reason):
  assert outcome.reason(code, said) == reason


def test_a_run_that_the_system_has_killed_for_memory_is_told_from_one_that_a_person_has():
  assert outcome.reason(-signal.SIGKILL, 'step 4', out_of_memory=True) == 'out of memory: the system killed it'


def test_only_the_last_attempt_is_looked_at(tmp_path):
  log = tmp_path / 'log'
  log.write_text('MemoryError\n')
  begin = log.stat().st_size
  log.write_text('MemoryError\nValueError: now\n')
  assert outcome.tail(log, begin) == 'ValueError: now\n'
  assert outcome.tail(tmp_path / 'none') == ''
