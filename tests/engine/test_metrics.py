"""Metrics on disk stay valid through kills and resumes; the progress display says what it should."""

import io
import json
import math
import sys

import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from contrastive_jax.engine import metrics
from contrastive_jax.types import Refusal


def written(workdir, steps, start_step=0, **values):
  writer = metrics.Writer(workdir, start_step=start_step)
  for step in steps:
    writer.write(step, {'loss': 1.0 / (step + 1), **values})
  writer.close()


def strict(line):
  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  return json.loads(line, parse_constant=refuse)


def events(workdir):
  """Events of every file, oldest file first: length, checksum, payload, checksum."""
  found = []
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')
      found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def test_a_line_is_strict_json_even_when_the_loss_is_not_finite(tmp_path):
  writer = metrics.Writer(tmp_path, start_step=0)
  writer.write(1, {'loss': jnp.float32(float('nan')), 'up': math.inf, 'down': -math.inf, 'lr': 0.5})
  line = strict((tmp_path / 'metrics.jsonl').read_text())  # flushed before close
  writer.close()
  assert {name: line[name] for name in ('step', 'loss', 'up', 'down', 'lr')} == {
    'step': 1,
    'loss': 'nan',
    'up': 'inf',
    'down': '-inf',
    'lr': 0.5,
  }
  (back,) = metrics.read(tmp_path)
  assert math.isnan(back['loss']) and back['up'] == math.inf and back['down'] == -math.inf


def test_a_resumed_run_drops_lines_beyond_its_checkpoint_and_appends(tmp_path):
  written(tmp_path, range(1, 6))
  written(tmp_path, [4], start_step=3)
  assert [line['step'] for line in metrics.read(tmp_path)] == [1, 2, 3, 4]
  assert not list(tmp_path.glob('*.tmp'))


def test_a_new_run_drops_everything(tmp_path):
  written(tmp_path, range(0, 4))
  written(tmp_path, [0])
  assert [line['step'] for line in metrics.read(tmp_path)] == [0]


@pytest.mark.parametrize('torn', ['{"step": 3, "lo', '{"step": 3}garbage', '\x00\x00', '3', '[]', '{"loss": 1}'])
def test_a_torn_last_line_is_neither_read_nor_glued_to_the_next(tmp_path, torn):
  written(tmp_path, [1, 2])
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write(torn)
  assert [line['step'] for line in metrics.read(tmp_path)] == [1, 2]
  written(tmp_path, [3], start_step=2)
  assert [strict(line)['step'] for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()] == [1, 2, 3]


def test_tensorboard_gets_the_scalars_and_a_purge_at_the_resumed_step(tmp_path):
  written(tmp_path, [1, 2, 3])
  written(tmp_path, [3, 4], start_step=2)
  found = events(tmp_path)
  scalars = [(event.step, value.simple_value) for event in found for value in event.summary.value]
  assert scalars == [(1, 0.5), (2, pytest.approx(1 / 3)), (3, 0.25), (3, 0.25), (4, pytest.approx(0.2))]
  starts = [event.step for event in found if event.HasField('session_log')]
  assert starts[-1] == 3  # TensorBoard drops what came before with this step or a later one


def test_the_glossary_explains_training_metrics_and_those_it_is_given(tmp_path):
  metrics.Writer(tmp_path, start_step=0, glossary={'knn/accuracy': 'share of test rows'}).close()
  glossary = json.loads((tmp_path / 'glossary.json').read_text())
  assert glossary['knn/accuracy'] == 'share of test rows'
  for name in ('loss', 'lr', 'grad_norm', 'steps_per_second', 'examples_per_second', 'wait_share'):
    assert glossary[name] == metrics.GLOSSARY[name] and '\n' not in glossary[name]


def mirrored(workdir):
  """What the files of Weights & Biases hold, oldest first: a header of 7 bytes; checksum, length, type, payload."""
  from wandb.proto.wandb_internal_pb2 import Record

  found = []
  for path in sorted(workdir.glob('wandb/offline-run-*/*.wandb')):
    data = path.read_bytes()[7:]
    while data:
      size = int.from_bytes(data[4:6], 'little')
      found.append(Record.FromString(data[7 : 7 + size]))
      data = data[7 + size :]
  return found


def test_weights_and_biases_gets_every_line_in_one_run_that_continues(tmp_path, monkeypatch):
  pytest.importorskip('wandb', reason="Weights & Biases is not installed: pip install -e '.[wandb]'")
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  (tmp_path / 'config.json').write_text('{"train": {"steps": 3}}')
  for start, steps in ((0, [1, 2]), (1, [2, 3])):
    writer = metrics.Writer(tmp_path, start_step=start, project='tests')
    for step in steps:
      writer.write(step, {'loss': jnp.float32(1 / step), 'knn/accuracy': math.nan})
    writer.close()
  found = mirrored(tmp_path)
  lines = [
    {'/'.join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
    for record in found
    if record.HasField('history')
  ]
  assert [(line['step'], line['loss']) for line in lines] == [(step, pytest.approx(1 / step)) for step in (1, 2, 2, 3)]
  assert all(math.isnan(line['knn/accuracy']) for line in lines)
  runs = [record.run for record in found if record.HasField('run')]
  assert {(run.project, run.display_name) for run in runs} == {('tests', tmp_path.name)}
  assert len({run.run_id for run in runs}) == 1
  assert {item.key for item in runs[0].config.update} >= {'train'}


def test_without_weights_and_biases_the_way_to_install_it_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(Refusal, match=r"pip install -e '\.\[wandb\]'"):
    metrics.Writer(tmp_path, start_step=0, project='tests')


def test_no_metrics_read_as_an_empty_list(tmp_path):
  assert metrics.read(tmp_path) == []


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


def test_plain_progress_prints_a_line_every_ten_seconds_and_the_last(tmp_path):
  clock, stream = Clock(), io.StringIO()
  progress = metrics.Progress(600, 60, stream=stream, clock=clock)
  measured = {'loss': jnp.float32(3.412), 'steps_per_second': 35.1, 'examples_per_second': 17_900, 'wait_share': 0.004}
  for step in range(61, 601):
    clock.now += 0.2
    progress.update(step, measured)
  progress.message('done [red]')
  progress.close()
  lines = stream.getvalue().splitlines()
  assert lines[0] == 'step 110/600  18%  loss 3.412  35.1 steps/s  17.9k examples/s  waiting 0.4%  left 0:14'
  assert lines[-2] == 'step 600/600  100%  loss 3.412  35.1 steps/s  17.9k examples/s  waiting 0.4%'
  assert lines[-1] == 'done [red]' and len(lines) == 12


def test_plain_progress_measures_the_rate_itself_but_not_over_compilation():
  clock, stream = Clock(), io.StringIO()
  progress = metrics.Progress(100_000, stream=stream, clock=clock)
  for step in (1, 51):
    clock.now += 10
    progress.update(step, {})
  assert stream.getvalue() == 'step 1/100000  0%\nstep 51/100000  0%  5.0 steps/s  left 5:33:10\n'


def test_a_terminal_gets_a_bar_and_messages_above_it():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  clock, stream = Clock(), Terminal()
  progress = metrics.Progress(10, stream=stream, clock=clock)
  clock.now += 1
  progress.update(5, {'loss': 2.0})
  progress.message('saved [b]step[/b] 5')
  progress.close()
  assert 'step 5/10  50%  loss 2.000' in stream.getvalue() and 'saved [b]step[/b] 5' in stream.getvalue()
