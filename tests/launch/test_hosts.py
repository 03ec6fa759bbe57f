"""One run on several hosts, with a shell of this machine in place of ssh."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from contrastive_jax.engine import metrics
from contrastive_jax.types import Refusal
from launch import hosts

ROOT = pathlib.Path(__file__).parents[2]
SSH = '#!/bin/sh\nshift\nexec sh -c "$1"\n'


def test_every_host_gets_its_number_and_the_address_of_the_first():
  found = hosts.commands(['a', 'b'], ['--config=x y'], port=5, activate='true', ssh='ssh -q')
  assert [command[:3] for command in found] == [['ssh', '-q', 'a'], ['ssh', '-q', 'b']]
  for i, command in enumerate(found):
    assert f'JAX_COORDINATOR_ADDRESS=a:5 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={i}' in command[3]
    assert "--distributed '--config=x y'" in command[3]


def test_hosts_and_flags_are_asked_for():
  for argv in ([], ['--hosts=a'], ['--', '--config=x']):
    with pytest.raises(Refusal, match='hosts and flags of training are needed'):
      hosts.main(argv)


@pytest.mark.parametrize('how', ['ends', 'stops', 'dies'])
def test_processes_end_with_the_launcher_told_to_save(tmp_path, how):
  """With a program of a few lines named python in place of training."""
  (tmp_path / 'ssh').write_text(SSH)
  (tmp_path / 'python').write_text(
    '#!/bin/sh\n'
    f'trap "echo $JAX_PROCESS_ID > {tmp_path}/saved$JAX_PROCESS_ID; exit 0" TERM\n'
    f'touch {tmp_path}/ready$JAX_PROCESS_ID\n' + ('exit 3\n' if how == 'ends' else 'while :; do sleep 0.05; done\n')
  )
  for name in ('ssh', 'python'):
    (tmp_path / name).chmod(0o755)
  command = [sys.executable, '-m', 'launch.hosts', '--hosts=one,two', f'--ssh={tmp_path}/ssh', '--activate=true']
  environment = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
  launcher = subprocess.Popen([*command, '--', '--config=x'], cwd=ROOT, env=environment)
  marks = [tmp_path / f'ready{i}' for i in range(2)]
  if how != 'ends':
    wait(lambda: all(mark.exists() for mark in marks))
    launcher.send_signal(signal.SIGINT if how == 'stops' else signal.SIGKILL)
    wait(lambda: all((tmp_path / f'saved{i}').exists() for i in range(2)))
  assert launcher.wait(60) == {'ends': 3, 'stops': 0, 'dies': -signal.SIGKILL}[how]


def wait(true):
  deadline = time.monotonic() + 60
  while not true():
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path):
  (tmp_path / 'ssh').write_text(SSH)
  (tmp_path / 'ssh').chmod(0o755)
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  command = [sys.executable, '-m', 'launch.hosts', '--hosts=localhost,localhost', f'--ssh={tmp_path}/ssh']
  command += [f'--port={port}', f'--activate=PATH={os.path.dirname(sys.executable)}:$PATH', '--']
  command += ['--config=configs/ssl/simclr.py:tiny', f'--workdir={tmp_path}/run']
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
  }
  ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
  assert ended.returncode == 0, ended.stdout + ended.stderr
  assert [line['step'] for line in metrics.read(tmp_path / 'run') if 'loss' in line] == [1, 2]
