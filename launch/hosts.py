"""One run on several hosts over ssh: `python -m launch.hosts --hosts=node1,node2 -- --config=FILE --workdir=DIR`.

Every host needs this folder at the same path and a workdir that all of them see. Ctrl-C or SIGTERM saves and stops all;
the same command continues. What the processes say comes through.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from contrastive_jax.types import Refusal

PORT = 9911
ACTIVATE = '. .venv/bin/activate'
# The host's own end of a process: it gets SIGTERM when the input from here ends, because it is told to stop, or because
# this program or the connection is gone.
REMOTE = """cd {folder} && {activate} && export {variables} || exit 1
exec 3<&0
python -m contrastive_jax.train --distributed {flags} </dev/null & process=$!
{{ cat >/dev/null; kill -TERM $process; }} <&3 2>/dev/null & watch=$!
wait $process; code=$?
kill $watch 2>/dev/null
exit $code"""


def commands(hosts: Sequence[str], flags: Sequence[str], *, port: int, activate: str, ssh: str) -> list[list[str]]:
  """What starts the process of each host."""
  found = []
  for i, host in enumerate(hosts):
    variables = f'JAX_COORDINATOR_ADDRESS={hosts[0]}:{port} JAX_NUM_PROCESSES={len(hosts)} JAX_PROCESS_ID={i}'
    remote = REMOTE.format(
      folder=shlex.quote(os.getcwd()), activate=activate, variables=variables, flags=shlex.join(flags)
    )
    found.append([*shlex.split(ssh), host, remote])
  return found


def train(started: Sequence[Sequence[str]]) -> int:
  """Runs the processes until all have ended; returns 0 if all have ended well."""
  # Sessions of their own: Ctrl-C must not end the connections before the run is saved.
  processes = [subprocess.Popen(each, stdin=subprocess.PIPE, start_new_session=True) for each in started]

  def stop(*_):
    print('stopping: the run saves; the same command continues', file=sys.stderr, flush=True)
    for process in processes:
      if process.stdin is not None:
        process.stdin.close()

  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
  return max(abs(process.wait()) for process in processes)


def main(argv: Sequence[str]) -> int:
  """The command; returns its exit code.

  Raises:
    Refusal: no host, or no flags of training.
  """
  parser = argparse.ArgumentParser('python -m launch.hosts', description=(__doc__ or '').partition('\n')[0])
  parser.add_argument('--hosts', default='', help='names, the first is where the processes meet: node1,node2')
  parser.add_argument('--port', type=int, default=PORT, help='that is free on the first host')
  parser.add_argument('--activate', default=ACTIVATE, help='command that makes `python` the right one on a host')
  parser.add_argument('--ssh', default='ssh', help='program that runs a command on a host')
  parser.add_argument('flags', nargs='*', help='of contrastive_jax.train, after --')
  given = parser.parse_args(argv)
  hosts = [host for host in given.hosts.split(',') if host]
  if not hosts or not given.flags:
    raise Refusal('hosts and flags of training are needed: --hosts=node1,node2 -- --config=FILE --workdir=DIR')
  return train(commands(hosts, given.flags, port=given.port, activate=given.activate, ssh=given.ssh))


if __name__ == '__main__':
  try:
    sys.exit(main(sys.argv[1:]))
  except Refusal as refusal:
    print(f'error: {refusal}', file=sys.stderr)
    sys.exit(2)
