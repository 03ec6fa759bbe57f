"""A SLURM of one machine, in a folder of its own: munged, slurmctld and slurmd of Debian's packages, no systemd."""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

NEEDED = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'squeue', 'scontrol')
CORES = 4  # that the node claims to have: jobs may wait for each other, but not for ever

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


def missing() -> str:
  """Why no SLURM can be started here; '' where one can."""
  path = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin'])
  absent = [name for name in NEEDED if shutil.which(name, path=path) is None]
  return f'{", ".join(absent)} not found: apt-get install slurm-wlm munge' if absent else ''


@contextlib.contextmanager
def started(folder: pathlib.Path) -> Iterator[dict[str, str]]:
  """Yields the environment that SLURM's commands need; ends, by their ids, the processes that it has started."""
  host = socket.gethostname().partition('.')[0]
  for part in ('state', 'spool', 'munge'):
    (folder / part).mkdir(parents=True, mode=0o700)
  (folder / 'slurm.conf').write_text(
    CONFIG.format(folder=folder, host=host, user=getpass.getuser(), control=_port(), daemon=_port(), cores=CORES)
  )
  (folder / 'cgroup.conf').write_text(_without_cgroups(folder))
  environment = os.environ | {
    'SLURM_CONF': str(folder / 'slurm.conf'),
    'PATH': f'{os.environ["PATH"]}{os.pathsep}/usr/sbin',
  }
  processes: list[subprocess.Popen] = []

  def start(*command: str):
    with (folder / f'{command[0]}.out').open('wb') as said:
      processes.append(subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT))

  try:
    (folder / 'munge' / 'key').write_bytes(os.urandom(128))
    (folder / 'munge' / 'key').chmod(0o600)
    files = {'key-file': 'munge/key', 'socket': 'munge.socket', 'log-file': 'munge/log'}
    files |= {'pid-file': 'munge/pid', 'seed-file': 'munge/seed'}
    start('munged', '--foreground', '--force', *(f'--{option}={folder / name}' for option, name in files.items()))
    _wait(lambda: (folder / 'munge.socket').exists(), folder)
    start('slurmctld', '-D')
    start('slurmd', '-D', '-N', host)
    _wait(lambda: 'idle' in _said(environment, 'sinfo', '-h', '-o', '%T'), folder)
    yield environment
  finally:
    with contextlib.suppress(subprocess.SubprocessError, AssertionError):
      subprocess.run(['scancel', '--user', getpass.getuser()], env=environment, capture_output=True, timeout=30)
      # Its daemons end the jobs: they must not go first.
      _wait(lambda: not _said(environment, 'squeue', '-h'), folder, seconds=40)
    for process in reversed(processes):
      process.terminate()
    for process in processes:
      try:
        process.wait(20)
      except subprocess.TimeoutExpired:
        process.kill()


def _said(environment: dict[str, str], *command: str) -> str:
  return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout


def _without_cgroups(folder: pathlib.Path) -> str:
  """The lines that keep slurmd from control groups; before 23.02 they could not be disabled, only be elsewhere."""
  told = subprocess.run(['/usr/sbin/slurmd', '-V'], capture_output=True, text=True).stdout
  year, month = map(int, told.split()[-1].split('.')[:2])
  if (year, month) >= (23, 2):
    return 'CgroupPlugin=disabled\n'
  return f'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint={folder}/cgroup\n'


def _port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def _wait(ready, folder: pathlib.Path, seconds: float = 60):
  deadline = time.monotonic() + seconds
  while not ready():
    said = '\n'.join(path.read_text(errors='replace')[-2000:] for path in sorted(folder.glob('*.[ol]*')))
    assert time.monotonic() < deadline, f'SLURM does not start:\n{said}'
    time.sleep(0.2)
