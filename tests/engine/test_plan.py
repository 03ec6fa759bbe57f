"""The plan of a run: what it reads from traces, what it advises, what it says before and after training."""

import functools
import json
import pathlib
import sys
import time
from unittest import mock

import jax
import pytest
from absl import flags

import contrastive_jax.plan as entry
from contrastive_jax import losses
from contrastive_jax.engine import command, limits, measured, metrics, parts, plan, resolve, setup
from contrastive_jax.engine.counting import Counts
from contrastive_jax.engine.parts import Budget
from contrastive_jax.engine.plan import Cost, Plan
from contrastive_jax.types import Refusal

TINY = f'{pathlib.Path(__file__).parents[2]}/configs/ssl/simclr.py:tiny'
RATES = {'float32': 1e9, 'default': 2e9}
MB = 10**6
# 10 MB held, 1 of parameters, 1 of features, 3 for the loss, 2 for the encoder and 0.1 for each example.
BUDGET = Budget(held=10 * MB, parameters=MB, features=MB, loss=3 * MB, fixed=2 * MB, each=MB / 10)


@pytest.fixture(autouse=True)
def given(monkeypatch):
  """Rates are given, not measured."""
  monkeypatch.setattr(limits, 'rates', lambda counts, mesh: RATES)


@functools.cache
def run(**overrides) -> setup.Run:
  options = dict(data__views__name='weak', train__devices='1') | overrides
  return setup.build(resolve.load(TINY, {key.replace('__', '.'): str(value) for key, value in options.items()}))


def planned(**changes) -> Plan:
  """A plan of 64 examples on 2 devices, by hand."""
  cost = Cost(flop=10, transcendentals=1, sent=0, seconds=1.0)
  fields = dict(batch=64, views=2, width=16, devices=2, device='cpu', fold='tiles', tile=(128, 128), exchange='ring')
  return Plan(**(fields | dict(microbatch=None, rates=RATES, loss=cost, step=cost, exact=True) | changes))


# --- what is read from traces ---


def test_sizes_come_from_the_run_and_products_from_its_trace():
  found = plan.sketch(run())
  n, d = 64, 16
  assert (found.batch, found.views, found.width, found.devices) == (32, 2, d, 1)
  assert (found.fold, found.tile, found.exchange) == ('dense', (n, n), 'none')
  assert found.loss.flop == 6 * n * n * d + 4 * 32 * 4 * d  # logits and their gradients, and the pairs of views
  # Two layers of the encoder and the head each; the images have no gradient.
  layers = [(64, 32), (32, 32), (32, 16)]
  encoder = sum(2 * 64 * rows * cols * (2 if i == 0 else 3) for i, (rows, cols) in enumerate(layers))
  assert found.step.flop >= found.loss.flop + encoder


def test_seconds_are_products_over_rates():
  found = plan.sketch(run())
  assert limits.seconds(Counts(float32=3 * 10**9, default=10**9), RATES) == 3.5
  assert found.loss.seconds == pytest.approx(found.loss.flop / RATES['float32'])


@pytest.mark.parametrize(
  ('options', 'exchange', 'tile'),
  [
    (dict(method__fold='ring'), 'half ring', (16, 16)),
    (dict(method__fold='chunked'), 'columns gathered once', (16, 64)),
    (dict(method__fold='dense'), 'left to the compiler', (64, 64)),
    (dict(method__fold='ring', method__loss='symmetric_info_nce'), 'ring', (8, 8)),
  ],
)
def test_the_exchange_and_the_tiles_are_those_of_the_trace(options, exchange, tile):
  found = plan.sketch(run(train__devices=4, **options))
  assert (found.exchange, found.tile) == (exchange, tile)
  assert (found.loss.sent is None) == (exchange == 'left to the compiler')
  if found.loss.sent is not None:
    assert found.step.sent > found.loss.sent > 0  # the gradients are summed too


def test_a_step_in_micro_batches_embeds_again():
  whole, cut = plan.sketch(run()), plan.sketch(run(train__microbatch=8))
  assert cut.loss == whole.loss
  assert cut.step.flop > whole.step.flop


def test_gradients_are_sent_once_a_step_and_once_a_micro_batch():
  def sent(**options) -> int:
    of = plan.sketch(run(train__devices=4, method__fold='ring', **options))
    return of.step.sent - of.loss.sent

  parameters = parts.whole(run().abstract()[0].params)
  assert sent() == 2 * 3 * parameters // 4
  assert sent(train__microbatch=8) == 4 * sent()


def test_the_memory_of_a_step_is_told_from_its_parts():
  of = run(data__batch_size=256, encoder__widths='(256,)')
  told = plan.make(of, memory=1e9).step.memory
  compiled = jax.jit(of.step).lower(*of.abstract()).compile()
  assert told == pytest.approx(sum(parts.needs(compiled)), rel=0.3)


# --- what is advised ---


# A whole batch takes 10 + 2 + 32 + 3; micro-batches 10 + 1 + 2 + 2 + half of them, but 16 at least.
@pytest.mark.parametrize(
  ('megabytes', 'microbatch'), [(47, None), (46.9, 32), (31, 32), (30.9, 16), (19.1, 8), (17, 4), (16, 2)]
)
def test_the_largest_micro_batch_that_fits_is_advised_and_none_where_none_is_needed(megabytes, microbatch):
  limit = int(megabytes * MB / plan.FILLED) + 1
  found = plan.advise(planned(), BUDGET._replace(each=MB), limit, per_example=True)
  assert (found.fits, found.microbatch) == (True, microbatch)
  assert found.flags == (() if microbatch is None else (f'--config.train.microbatch={microbatch}',))
  assert found.memory <= plan.FILLED * limit


def test_what_needs_no_micro_batches_is_left_as_it_is():
  found = plan.advise(planned(), BUDGET, 10**9, per_example=True)
  assert (found.fits, found.microbatch, found.flags) == (True, None, ())
  assert found.memory == BUDGET.plain(32)


def test_micro_batches_that_are_not_needed_are_advised_against():
  found = plan.advise(planned(microbatch=8), BUDGET, 10**9, per_example=True)
  assert found.flags == ('--config.train.microbatch=none',)


def test_encoders_that_mix_examples_get_no_micro_batches():
  found = plan.advise(planned(), BUDGET, 10 * MB, per_example=False)
  assert not found.fits and found.microbatch is None
  assert 'batch norm' in found.note


def test_where_nothing_fits_it_is_said():
  found = plan.advise(planned(), BUDGET, MB, per_example=True)
  assert not found.fits and found.note == 'nothing fits'


def test_micro_batches_to_try_divide_the_batch_and_are_divided_by_the_devices():
  assert list(plan.pieces(96, 4)) == [32, 16, 8, 4]
  assert list(plan.pieces(6, 6)) == []
  assert list(plan.pieces(7, 1)) == [1]


def test_tiles_are_square_and_halved_until_one_fits():
  found = plan.advise(planned(tile=(1024, 2048)), BUDGET, 4 * MB, per_example=True)
  (flag,) = [flag for flag in found.flags if 'fold' in flag]
  assert flag == """--config.method.fold="{'name': 'ring', 'rows': 512, 'cols': 512}\""""
  assert found.note == 'nothing fits; plan again with smaller tiles'


def test_smaller_tiles_are_not_advised_where_micro_batches_fit_or_the_method_has_no_fold():
  wide = planned(tile=(1024, 2048))
  found = plan.advise(wide, BUDGET._replace(each=MB), 20 * MB, per_example=True)
  assert found.fits and found.flags == ('--config.train.microbatch=4',)
  assert not any('fold' in flag for flag in plan.advise(wide, BUDGET, 4 * MB, per_example=True, fold=None).flags)


def test_a_matrix_of_logits_that_does_not_fit_gives_way_to_tiles_before_any_micro_batch():
  found = plan.make(run(data__batch_size=1024, method__fold='dense'), 2e7, fold='dense').advice
  assert not found.fits and found.flags == ('--config.method.fold=auto',)
  again = plan.make(run(data__batch_size=1024), 2e7).advice
  assert again.fits and again.flags == ()


def test_a_matrix_of_logits_that_fits_is_left_as_it_is():
  dense = planned(fold='dense', tile=(65536, 65536))
  assert plan.advise(dense, BUDGET, 10**9, per_example=True, fold='dense').flags == ()


def test_a_device_that_tells_its_memory_is_believed():
  device = mock.Mock(memory_stats=lambda: {'bytes_limit': 7})
  assert limits.memory(mock.Mock(local_devices=[device])) == 7
  assert 2**20 < limits.memory(run().mesh) < 2**50


# --- what is said ---


def test_the_text_is_short_and_aligned_and_names_the_flags():
  advice = plan.Advice(10**9, True, 8, 10**8, ('--config.train.microbatch=8',), 'micro-batches fit')
  lines = plan.as_text(planned(advice=advice, exact=False)).splitlines()
  assert len(lines) <= 12 and max(map(len, lines)) <= 120
  assert len({len(line) for line in lines[1:4]}) == 1
  assert '--config.train.microbatch=8' in lines[-1]


@pytest.mark.parametrize(
  ('value', 'text'), [(0, '0 '), (999, '999 '), (999.7, '1 k'), (1234, '1.23 k'), (4.5e13, '45 T')]
)
def test_amounts_have_three_digits_and_a_prefix(value, text):
  assert plan.amount(value) == text


@pytest.mark.parametrize(
  ('seconds', 'text'), [(2.1e-4, '210 us'), (0.9999e-3, '1 ms'), (0.99999, '1 s'), (75.0, '75 s')]
)
def test_durations_have_three_digits_and_a_unit(seconds, text):
  assert plan.duration(seconds) == text


def test_predicted_stands_beside_measured_with_the_ratio():
  cost = Cost(10, 1, 0, 0.5, 100)
  text = measured.as_text(planned(loss=cost, step=cost), measured.Measured(loss=1.0, step=1.5, memory=110))
  assert [line.split()[-1] for line in text.splitlines()] == ['ratio', '2.00', '3.00', '1.10']


def test_training_records_what_was_predicted_and_what_was_measured(tmp_path, capsys):
  began = time.time()
  found = measured.before(run(), tmp_path)
  writer = metrics.Writer(tmp_path, start_step=0)
  for step, rate in enumerate((1.0, 10.0, 20.0, 40.0), 1):
    writer.write(step, {'loss': 1.0, 'steps_per_second': rate})
  writer.close()
  measured.after(found, tmp_path, began - 1)
  record = json.loads((tmp_path / measured.PLAN).read_text())
  assert record['predicted']['step']['flop'] == found.step.flop
  assert record['measured']['step_seconds'] == 1 / 20  # the first line holds the compilation
  assert capsys.readouterr().out.count('plan: ') == 3


def test_a_run_that_took_no_steps_measures_nothing(tmp_path):
  measured.after(planned(), tmp_path, time.time())
  assert not (tmp_path / measured.PLAN).exists()


# --- the command ---


def called(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
  monkeypatch.setattr(sys, 'argv', ['contrastive_jax.plan', *arguments])
  for name in ('config', 'workdir', 'memory', 'measure'):
    flags.FLAGS[name].unparse()
  with pytest.raises(SystemExit) as ended:
    command.run(entry.main, config_from_workdir=True, needs_workdir=False)
  said = capsys.readouterr()
  return ended.value.code or 0, said.out, said.err


def test_the_command_needs_no_workdir_and_measures_when_asked(monkeypatch, capsys):
  monkeypatch.setattr(measured, 'SECONDS', 0.0)
  monkeypatch.setattr(parts, 'budget', lambda run: BUDGET)
  views = ('--config.data.views.name=weak', '--config.train.devices=2')
  code, out, _ = called(monkeypatch, capsys, f'--config={TINY}', *views, '--memory=1', '--measure')
  assert code == 0
  assert 'batch     32 x 2 views, width 16, on 2 x cpu' in out
  assert 'memory    1 GB a device: the whole batch fits' in out
  assert out.splitlines()[-1].startswith('memory ') and 'ratio' in out


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], '--config is needed'),
    ([f'--config={TINY}', '--memory=0'], '--memory must be a positive number of GB, but it is 0.0'),
    ([f'--config={TINY}', '--config.train.microbatch=24'], 'microbatch=24 does not divide'),
  ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
  code, _, err = called(monkeypatch, capsys, *arguments)
  assert code == 2 and message in err and err.count('\n') == 1


def test_several_processes_do_not_measure(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for name, value in (('_MEMORY', None), ('_MEASURE', True)):
    monkeypatch.setattr(entry, name, mock.Mock(value=value))
  with pytest.raises(Refusal, match='--measure is for one process'):
    entry.main(resolve.load(TINY), None)


def test_losses_without_a_fold_are_planned_too():
  found = plan.sketch(run(method__loss='mv_dhel'))
  assert found.loss.flop > 0 and 'mv_dhel' in losses.PAIRWISE
