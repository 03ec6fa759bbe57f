"""What a run says: its scores in one line, its rates without the time of compiling."""

import json
import time

import pytest

from contrastive_jax.engine.reporter import Reporter


def reporting(path, **options) -> Reporter:
  options = dict(start=0, total=9, log_every=1, batch_size=2, glossary={}, project=None) | options
  return Reporter(path, waited=lambda: 0.0, last_good=lambda: None, **options)


@pytest.mark.parametrize(
  ('scores', 'line'),
  [
    ({'knn/accuracy': 0.5, 'knn/other': 1.0}, 'knn/accuracy 0.5'),
    (
      {'retrieval/de/t2i_r10': 0.1, 'retrieval/t2i_r10': 0.25, 'retrieval/i2t_r10': 0.5, 'retrieval/t2i_r1': 0.0},
      'retrieval/t2i_r10 0.25  retrieval/i2t_r10 0.5',
    ),
    ({'minimal_pairs/de/accuracy': 0.1, 'minimal_pairs/accuracy': 0.75}, 'minimal_pairs/accuracy 0.75'),
    ({f'gap/{k}': float(k) for k in range(6)}, 'gap/0 0  gap/1 1  gap/2 2  gap/3 3'),
  ],
)
def test_the_line_of_an_evaluation_has_its_headline_scores(tmp_path, capsys, scores, line):
  reporter = reporting(tmp_path)
  reporter.scores(5, scores)
  reporter.close()
  assert f'step 5: {line}\n' in capsys.readouterr().out


def test_the_seconds_of_the_first_step_are_in_no_rate_but_its_own(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  reporter = reporting(tmp_path, start=3, log_every=2)
  for step, seconds in ((4, 100.0), (5, 0.5), (6, 0.5)):  # the first waits for the compiler
    now[0] += seconds
    reporter.step(step, {'loss': 1.0})
  reporter.close()
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [(line['step'], line['steps_per_second']) for line in lines] == [(4, 0.01), (6, 2.0)]
