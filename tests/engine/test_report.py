"""The report shows what a run left behind, says what is missing, and is one safe file."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from contrastive_jax.engine import figures, metrics, report

SECTIONS = ['Scores', 'Training', 'Map', 'Neighbours', 'Geometry', 'All scores', 'Configuration', 'Versions']
HOSTILE = '</td><script>alert("1")</script>&<img src=x onerror=alert(2)>'


class Reader(html.parser.HTMLParser):
  """Tags with their attributes, headings, pictures, and whether every tag is closed in order."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.text = [], [], []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in ('meta', 'img', 'source'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)

  def of(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


def made_up_run(workdir, n=60):
  """What a run on the digits would leave, with the pixels as embeddings."""
  digits = load_digits()
  features = digits.data[:n].astype(np.float32)
  np.savez(
    workdir / 'embeddings.npz',
    features=features,
    label=digits.target[:n].astype(np.int32),
    projection=features / np.linalg.norm(features, axis=1, keepdims=True),
    index=np.arange(n, dtype=np.int32),
    image=(digits.images[:n] * 15.9).astype(np.uint8)[..., None],
  )
  writer = metrics.Writer(workdir, start_step=0, glossary={'geometry/alignment': 'distance of views <x>'})
  for step in range(1, 80):
    writer.write(step, {'loss': 5 / step, 'lr': 1e-3, 'grad_norm': float('nan') if step == 3 else 1.0})
  writer.close()
  scores = [
    {
      'step': step,
      'scores': {
        'linear/accuracy': 0.5 + step / 200,
        'knn/accuracy': 0.9,
        'geometry/alignment': 1.0,
        'targets/r2': 0.4,
      },
    }
    for step in (0, 40, 80)
  ]
  floors = {'random encoder': {'knn/accuracy': 0.3}, 'raw pixels': {'linear/accuracy': 0.7, 'knn/accuracy': 0.95}}
  (workdir / 'evaluations.json').write_text(json.dumps({'evaluations': scores, 'floors': floors}))
  config = {
    'method': {'name': 'pair', 'loss': 'nt_xent', 'note': HOSTILE},
    'data': {'source': {'name': 'digits'}},
    HOSTILE: {},
  }
  (workdir / 'config.json').write_text(json.dumps(config))
  (workdir / 'versions.json').write_text(json.dumps({'jax': '0.10.2'}))


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  made_up_run(workdir)
  path = report.build(workdir)
  assert path == workdir / 'report.html'
  return workdir, path.read_text(encoding='utf-8')


def build(workdir):
  text = report.build(workdir).read_text(encoding='utf-8')
  return ' '.join(Reader(text).text)


def test_a_report_has_every_section_with_nothing_missing(built):
  _, text = built
  assert re.findall(r'<h2>(.*?)</h2>', text) == SECTIONS
  assert '<h1>nt_xent (pair) on digits</h1>' in text
  assert 'class="missing"' not in text


def test_every_figure_is_embedded_for_light_and_dark_and_saved(built):
  workdir, text = built
  reader = Reader(text)
  saved = {path.stem.replace('_', ' '): path for path in (workdir / 'figures').iterdir()}
  assert set(saved) == {
    'loss',
    'lr',
    'grad norm',
    'accuracy',
    'alignment',
    'r2',
    'map',
    'neighbours',
    'spectrum',
    'cosines features',
    'cosines projection',
  }
  assert {image['alt'] for image in reader.of('img')} == set(saved)
  for light, dark in zip(reader.of('img'), reader.of('source'), strict=True):
    day, night = (base64.b64decode(uri.split(',')[1]) for uri in (light['src'], dark['srcset']))
    assert day == saved[light['alt']].read_bytes()
    corners = [PIL.Image.open(io.BytesIO(data)).convert('RGB').getpixel((0, 0)) for data in (day, night)]
    assert min(corners[0]) > 240 and max(corners[1]) < 40


def test_a_report_loads_nothing_and_runs_nothing(built):
  _, text = built
  reader = Reader(text)
  assert not {'script', 'link', 'iframe', 'object'} & {tag for tag, _ in reader.tags}
  for _, attributes in reader.tags:
    assert not any(name.startswith('on') for name in attributes)
    for name in ('src', 'srcset', 'href'):
      assert attributes.get(name, '#').startswith(('data:image/png;base64,', '#'))
  assert 'url(' not in text and '@import' not in text


def test_text_from_the_run_is_escaped(built):
  _, text = built
  assert HOSTILE not in text and '<script' not in text
  shown = ' '.join(Reader(text).text)
  assert HOSTILE in shown and 'distance of views <x>' in shown


def test_the_headline_says_so_when_raw_pixels_win(built):
  shown = ' '.join(Reader(built[1]).text)
  assert 'kNN: the raw pixels came out ahead, with 95.0% against 90.0% for the trained features; 60 test rows' in shown
  assert 'Linear probe: the trained features are 20.0 points above the raw pixels.' in shown
  assert 'kNN: the trained features are 60.0 points above the random encoder.' in shown
  assert shown.index('trained') < shown.index('raw pixels') < shown.index('random encoder')
  assert '<strong>95.0%</strong>' in built[1] and '<strong>90.0%</strong>' in built[1]


def test_an_empty_run_is_a_page_of_what_is_missing(tmp_path):
  shown = build(tmp_path)
  for what in ('evaluations.json', 'metrics.jsonl', 'embeddings.npz', 'config.json', 'versions.json'):
    assert what in shown
  assert 'Training run' in shown


def test_damaged_files_count_as_missing(tmp_path):
  made_up_run(tmp_path)
  for name in ('config.json', 'embeddings.npz', 'evaluations.json'):
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
  assert build(tmp_path).count('Missing in this run') >= 5


def test_without_labels_or_pictures_the_rest_is_shown(tmp_path):
  x = np.random.default_rng(0).normal(size=(30, 8))
  np.savez(tmp_path / 'embeddings.npz', features=x)
  shown = build(tmp_path)
  assert 'The rows have no labels' in shown and 'embeddings.npz with the pictures' in shown
  assert 'labels of two classes' in shown and 'Singular values' in shown


@pytest.mark.parametrize(
  ('rows', 'said'),
  [
    (np.zeros((30, 4)), 'All 30 rows'),  # collapsed
    (np.full((30, 4), np.nan), 'not finite'),
    (np.ones((3, 4)), 'too few'),
  ],
)
def test_degenerate_embeddings_do_not_stop_the_report(tmp_path, rows, said):
  np.savez(tmp_path / 'embeddings.npz', features=rows, label=np.arange(len(rows)) % 2)
  assert said in build(tmp_path)


def test_the_map_of_many_rows_shows_a_sample_and_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(report, 'MAP_ROWS', 20)
  np.savez(tmp_path / 'embeddings.npz', features=np.random.default_rng(0).normal(size=(50, 8)))
  assert '20 of 50 rows, drawn at random' in build(tmp_path)


def test_nearest_leaves_the_query_out_and_sorts_by_cosine():
  x = np.array([[1, 0], [2, 0.1], [0, 1], [-1, 0], [1, 1]], float)
  assert figures.nearest(x, np.array([0, 2]), k=3).tolist() == [[1, 4, 2], [4, 1, 0]]


def test_class_cosines_split_pairs_by_label_and_skip_unknown_ones():
  x, label = np.array([[1, 0], [3, 0], [0, 2], [-1, 0]], float), np.array([0, 0, 1, -1])
  same, other = figures.class_cosines(x, label)
  assert same.tolist() == [1.0] and other.tolist() == [0.0, 0.0]


def test_the_map_is_the_same_twice_and_keeps_two_far_groups_apart():
  rng = np.random.default_rng(0)
  x = np.concatenate([rng.normal(5, 0.1, (20, 6)), rng.normal(-5, 0.1, (20, 6))])
  first, second = figures.plane(x, seed=3), figures.plane(x, seed=3)
  np.testing.assert_array_equal(first, second)
  middle = first.reshape(2, 20, 2).mean(axis=1)
  spread = np.linalg.norm(first.reshape(2, 20, 2) - middle[:, None], axis=-1).max()
  assert np.linalg.norm(middle[0] - middle[1]) > spread


@pytest.mark.parametrize('theme', [figures.LIGHT, figures.DARK])
@pytest.mark.parametrize(
  'draw',
  [
    lambda theme: figures.curve(np.arange(3), np.array([1, np.nan, 3]), name='a $x_1', theme=theme),
    lambda theme: figures.curve(np.arange(90), np.geomspace(1, 1e4, 90), name='wide', theme=theme),
    lambda theme: figures.accuracies({'a': [1, 2]}, {'a': [0.1, 0.2]}, floors={'a': 0.3}, theme=theme),
    lambda theme: figures.embedding_map(np.random.rand(60, 2), np.arange(60) % 30 - 1, theme=theme),
    lambda theme: figures.spectrum({'features': np.array([2.0, 1.0, 0.0])}, theme=theme),
    lambda theme: figures.cosine_histogram(np.array([0.5, 0.9]), np.array([]), theme=theme),
    lambda theme: figures.neighbours(
      np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 3, 8, 8, 3), np.uint8), theme=theme
    ),
  ],
)
def test_every_figure_is_drawn_on_the_background_of_its_theme(draw, theme):
  figure = draw(theme)
  assert isinstance(figure, Figure)
  picture = PIL.Image.open(io.BytesIO(figures.png(figure))).convert('RGB')
  assert '#{:02x}{:02x}{:02x}'.format(*picture.getpixel((0, 0))) == theme.background
