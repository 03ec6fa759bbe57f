"""What a run says of its scores in one line."""

import pytest

from contrastive_jax.engine.reporter import Reporter


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
  options = dict(start=0, total=9, log_every=1, batch_size=2, glossary={}, project=None)
  reporter = Reporter(tmp_path, waited=lambda: 0.0, last_good=lambda: None, **options)
  reporter.scores(5, scores)
  reporter.close()
  assert f'step 5: {line}\n' in capsys.readouterr().out
