"""Becomes a command that may use certain cores and so much memory: `confine.py CORES BYTES COMMAND...`.

CORES is '0,1', or '' for all; BYTES is 0 for no limit. The command gets SIGTERM when the process that has started it
dies. A program of its own, since a process with threads, as a launcher that has used JAX is, must not run Python
between fork and exec.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(cores: str, memory: str, *command: str):
  """Limits this process, then replaces it."""
  # SLURM announces the end of a job to all of its processes. The launcher's own answers, and tells the run to save.
  signal.signal(signal.SIGUSR1, signal.SIG_IGN)
  signal.signal(signal.SIGUSR2, signal.SIG_IGN)
  if sys.platform == 'linux':
    if cores:
      os.sched_setaffinity(0, map(int, cores.split(',')))  # XLA makes as many threads as it may use cores
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
  if int(memory):
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
  os.execvp(command[0], command)


if __name__ == '__main__':
  main(*sys.argv[1:])
