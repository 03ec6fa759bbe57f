"""The command line of every entry point: --config, overrides --config.KEY=VALUE, --workdir; refusals in one line."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable

from absl import app, flags

from contrastive_jax.types import Refusal

_CONFIG = flags.DEFINE_string('config', None, 'Config file, FILE.py or FILE.py:VARIANT.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Join the other processes of the run (docs/devices.md).')

# What the runtime says when a process it talks to is gone: a JaxRuntimeError, a ValueError, or quoted by the checkpoint
# library. RESOURCE_EXHAUSTED is not among them: memory of this process ran out.
_STATUS = re.compile(r'\b(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ')


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  """Separates `--config.KEY=VALUE` arguments, which no flag is defined for, from the rest.

  Raises:
    Refusal: one without a value.
  """
  rest, overrides = [], {}
  for argument in argv:
    name = argument.lstrip('-')
    if argument.startswith('-') and name.startswith('config.'):
      key, equals, value = name.removeprefix('config.').partition('=')
      if not equals:
        raise Refusal(f"'{argument}' needs a value: --config.{key}=VALUE")
      overrides[key] = value
    else:
      rest.append(argument)
  return rest, overrides


def run(main: Callable, *, config_from_workdir: bool = False, needs_workdir: bool = True):
  """Runs `main(config, workdir)`.

  A Refusal ends with its message, in one line, and exit code 2; a loss that is no number, or the loss of another
  process of the run, with exit code 1.

  Args:
    config_from_workdir: --config may be left out: the config is that of the run in --workdir.
    needs_workdir: --workdir must be given; otherwise one of the two, and `main` may get None for it.
  """
  overrides: dict[str, str] = {}

  def parse(argv):
    rest, found = split_overrides(argv)
    overrides.update(found)
    if not any(a.lstrip('-').startswith('verbosity') for a in rest):
      rest.insert(1, '--verbosity=-1')  # warnings only: the checkpoint library tells every step of its work
    return flags.FLAGS(rest)

  def start(argv):
    import jax

    from contrastive_jax.engine import processes, resolve
    from contrastive_jax.engine.reporter import NonFinite

    try:
      if len(argv) > 1:
        raise Refusal(f"unexpected argument '{argv[1]}'")
      if _WORKDIR.value is None and needs_workdir:
        raise Refusal('--workdir is needed: the directory of the run')
      if _CONFIG.value is None and not (config_from_workdir and _WORKDIR.value):
        raise Refusal('--config is needed: a config file, such as configs/ssl/simclr.py')
      if _DISTRIBUTED.value:
        processes.start()
      config = resolve.load(_CONFIG.value or _WORKDIR.value or '', overrides)
      main(config, _WORKDIR.value)
    except Refusal as refusal:
      _exit(refusal, 2)
    except NonFinite as problem:
      _exit(problem, 1)
    except KeyboardInterrupt:
      _exit(RuntimeError('interrupted'), 128 + signal.SIGINT)
    except Exception as problem:
      if jax.process_count() == 1:
        raise
      _leave(problem)

  try:
    app.run(start, flags_parser=parse)
  except Refusal as refusal:
    _exit(refusal, 2)
  except flags.Error as error:
    _exit(error, 2)


def _leave(problem: Exception):
  """Ends one process of several at an error of its own, or one that a lost process caused wherever it was met."""
  cause: BaseException | None = problem
  while cause is not None and not _STATUS.search(str(cause)):
    cause = cause.__context__
  if cause is None:
    traceback.print_exc()
    _exit(problem, 1)
  _exit(RuntimeError(f'another process of the run was lost; start all again to continue ({cause})'), 1)


def _exit(problem: Exception, code: int):
  print('error: ' + ' '.join(str(problem).split()), file=sys.stderr, flush=True)
  if flags.FLAGS.is_parsed() and _DISTRIBUTED.value:
    os._exit(code)  # leaving in order would wait for the others, who may be gone
  sys.exit(code)
