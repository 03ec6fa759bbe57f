"""A SLURM of one machine, in a folder of its own: munged, slurmctld and slurmd of Debian's packages, no systemd.

A keeper, this file as a program, starts it and ends it when its input ends: with the tests, or when they are killed.
"""

import contextlib
import ctypes
import getpass
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

NEEDED = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'squeue', 'scancel', 'sinfo', 'setpriv')
CORES = 4  # that the node claims to have: jobs may wait for each other, but not for ever
TRIES = 3  # to start: between its choice and its use another program may take a port
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={control}
SlurmdPort={daemon}
AuthType=auth/munge
# A job that is queued again may start only after its credentials have expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,defer_batch
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Unavailable(RuntimeError):
  """No SLURM can be started here: says why."""


@contextlib.contextmanager
def started(folder: pathlib.Path) -> Iterator[dict[str, str]]:
  """Yields the environment that SLURM's commands need.

  Raises:
    Unavailable: SLURM is not installed, or does not start.
  """
  path = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin', '/sbin'])
  absent = [name for name in NEEDED if shutil.which(name, path=path) is None]
  if absent:
    raise Unavailable(f'{", ".join(absent)} not found: apt-get install slurm-wlm munge')
  environment = os.environ | {'PATH': path}
  keeper = subprocess.Popen(
    [sys.executable, '-S', __file__, str(folder)],
    env=environment,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,  # Ctrl-C is for the tests
  )
  assert keeper.stdin and keeper.stdout
  try:
    told = json.loads(keeper.stdout.readline() or '{"why": "its keeper has died"}')
    if 'why' in told:
      raise Unavailable(f'SLURM does not start: {told["why"]}')
    yield environment | told
  finally:
    keeper.stdin.close()
    keeper.stdout.close()
    assert keeper.wait(120) == 0, 'processes of SLURM had to be killed'


# --- the keeper ---


def keep(folder: pathlib.Path) -> int:
  """Starts SLURM, says so, and ends it when the input has ended; returns how many processes had to be killed."""
  ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what its daemons leave behind becomes a child of this process
  with contextlib.ExitStack() as stack:
    # Whoever reads may be gone before anything is said.
    stack.enter_context(contextlib.suppress(BrokenPipeError))
    for i in range(TRIES):
      daemons: dict[str, subprocess.Popen] = {}
      stopping = stack.enter_context(contextlib.ExitStack())
      stopping.callback(_stop, daemons)
      try:
        environment = _start(folder / str(i), daemons)
      except Unavailable as error:
        why = str(error)
        stopping.close()
      else:
        stopping.callback(_cancel, os.environ | environment)
        print(json.dumps(environment), flush=True)
        sys.stdin.read()
        break
    else:
      print(json.dumps({'why': why}), flush=True)
  return _killed()


def _start(folder: pathlib.Path, daemons: dict[str, subprocess.Popen]) -> dict[str, str]:
  host = socket.gethostname().partition('.')[0]
  for part in ('state', 'spool', 'munge'):
    (folder / part).mkdir(parents=True, mode=0o700)
  control, daemon = _ports(2)
  (folder / 'slurm.conf').write_text(
    CONFIG.format(folder=folder, host=host, user=getpass.getuser(), control=control, daemon=daemon, cores=CORES)
  )
  (folder / 'cgroup.conf').write_text(_without_cgroups(folder))
  (folder / 'munge' / 'key').write_bytes(os.urandom(128))
  (folder / 'munge' / 'key').chmod(0o600)
  more = {'SLURM_CONF': str(folder / 'slurm.conf'), 'PATH': os.environ['PATH']}
  environment = os.environ | more

  def start(*command: str):
    with (folder / f'{command[0]}.out').open('wb') as said:
      # Should the keeper be killed, its daemons end.
      daemons[command[0]] = subprocess.Popen(
        ['setpriv', '--pdeathsig', 'TERM', *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
      )

  files = {'key-file': 'munge/key', 'socket': 'munge.socket', 'log-file': 'munge/log'}
  files |= {'pid-file': 'munge/pid', 'seed-file': 'munge/seed'}
  start('munged', '--foreground', '--force', *(f'--{option}={folder / name}' for option, name in files.items()))
  _wait(lambda: (folder / 'munge.socket').exists(), daemons, folder)
  start('slurmctld', '-D')
  start('slurmd', '-D', '-N', host)
  _wait(lambda: 'idle' in _said(environment, 'sinfo', '-h', '-o', '%T'), daemons, folder)
  return more


def _cancel(environment: dict[str, str]):
  """Ends the jobs; their daemons must not go first."""
  with contextlib.suppress(subprocess.SubprocessError):
    _said(environment, 'scancel', '--user', getpass.getuser())
    deadline = time.monotonic() + 40
    while _said(environment, 'squeue', '-h') and time.monotonic() < deadline:
      time.sleep(0.2)


def _stop(daemons: dict[str, subprocess.Popen]):
  for daemon in reversed(daemons.values()):
    daemon.terminate()
    try:
      daemon.wait(20)
    except subprocess.TimeoutExpired:
      daemon.kill()
      daemon.wait()


def _killed() -> int:
  """Waits for all processes that come from this one; kills those that do not end, and returns their number."""
  killed, deadline = set(), time.monotonic() + 20
  while True:
    try:
      ended, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
      return len(killed)
    if not ended and time.monotonic() > deadline:
      children = {int(pid) for pid in pathlib.Path('/proc/self/task', str(os.getpid()), 'children').read_text().split()}
      for pid in children - killed:
        os.kill(pid, signal.SIGKILL)
      killed |= children
    time.sleep(0 if ended else 0.1)


def _said(environment: dict[str, str], *command: str) -> str:
  return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout


def _without_cgroups(folder: pathlib.Path) -> str:
  """The lines that keep slurmd from control groups; before 23.02 they could not be disabled, only be elsewhere."""
  told = subprocess.run(['slurmd', '-V'], capture_output=True, text=True).stdout
  year, month = map(int, told.split()[-1].split('.')[:2])
  if (year, month) >= (23, 2):
    return 'CgroupPlugin=disabled\n'
  return f'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint={folder}/cgroup\n'


def _ports(number: int) -> list[int]:
  """Free ones, all different."""
  with contextlib.ExitStack() as stack:
    probes = [stack.enter_context(socket.socket()) for _ in range(number)]
    for probe in probes:
      probe.bind(('127.0.0.1', 0))
    return [probe.getsockname()[1] for probe in probes]


def _wait(ready: Callable[[], bool], daemons: dict[str, subprocess.Popen], folder: pathlib.Path):
  deadline = time.monotonic() + 60
  while True:
    ended = [name for name, daemon in daemons.items() if daemon.poll() is not None]
    if ended or time.monotonic() > deadline:
      said = {path.stem: path.read_text(errors='replace').strip() for path in sorted(folder.glob('*.out'))}
      raise Unavailable('; '.join(f'{name}: {said[name][-600:]}' for name in ended or said))
    if ready():
      return
    time.sleep(0.2)


if __name__ == '__main__':
  sys.exit(keep(pathlib.Path(sys.argv[1])))
