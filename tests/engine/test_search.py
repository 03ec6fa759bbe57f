"""Searching a run's pictures: what is found, the index kept with the run, the page, examples in the report."""

import dataclasses
import html.parser
import pathlib
import re
import shutil
import types

import jax
import numpy as np
import PIL.Image
import pytest
from absl import flags
from absl.testing import flagsaver

import contrastive_jax
from contrastive_jax import search as command
from contrastive_jax.engine import report, resolve, retrieved, search, serve, setup, workdir
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.types import Embedded, Refusal

ROOT = pathlib.Path(__file__).parents[2]
HOSTILE = '"></figcaption><script>alert(1)</script><img src=x onerror=alert(2)>'


@dataclasses.dataclass
class Kept:
  """A run with checkpoints and its config."""

  path: pathlib.Path
  config: object

  def load(self, checkpoint='newest') -> serve.Model:
    return contrastive_jax.load(self.path, checkpoint=checkpoint)

  def index(self, split='test', checkpoint='newest') -> search.Index:
    return search.open_index(self.load(checkpoint), self.config, self.path, split)


def kept(folder: pathlib.Path, name: str) -> Kept:
  """A run of a config at `:tiny` before training, with a second checkpoint of other parameters."""
  path = folder / 'run'
  try:
    config = resolve.load(f'{ROOT}/configs/{name}.py:tiny', {'train.devices': '1'})
    run = setup.build(config)
  except Refusal as refusal:
    if 'apt-get install' in str(refusal):
      pytest.skip(str(refusal))
    raise
  workdir.enter(str(path), config, run.sources)
  checkpoints, state = Checkpoints(path / 'checkpoints', keep_last=9), run.fresh()
  for step, scale in ((1, 1.0), (2, 1.5)):
    noisy = jax.tree.map(
      lambda x, by=scale: by * x + (by - 1) * jax.random.normal(jax.random.key(0), x.shape), state.params
    )
    checkpoints.save(step, state._replace(step=state.step + step, params=noisy))
  checkpoints.wait()
  checkpoints.close()
  return Kept(path, config)


@pytest.fixture(scope='module')
def captioned(tmp_path_factory) -> Kept:
  return kept(tmp_path_factory.mktemp('captioned'), 'multimodal/clip')


@pytest.fixture(scope='module')
def model(captioned) -> serve.Model:
  return captioned.load()


@pytest.fixture(scope='module')
def index(captioned, model) -> search.Index:
  return search.open_index(model, captioned.config, captioned.path, 'test')


@pytest.fixture(scope='module')
def plain(tmp_path_factory) -> Kept:
  """A run without a text tower."""
  return kept(tmp_path_factory.mktemp('plain'), 'ssl/simclr')


@pytest.fixture
def copy(captioned, tmp_path) -> Kept:
  """The captioned run without an index, to be changed."""
  path = tmp_path / 'run'
  shutil.copytree(captioned.path, path, ignore=shutil.ignore_patterns('search*'))
  return Kept(path, captioned.config)


@pytest.fixture
def given():
  """Sets flags of the command for a test."""
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver():
    yield lambda **values: [setattr(flags.FLAGS, name, value) for name, value in values.items()]


# --- what is found ---


def test_the_best_are_those_of_all_cosines_sorted(index):
  rng = np.random.default_rng(0)
  queries = rng.normal(size=(3, index.projection.shape[1])).astype(np.float32)
  queries /= np.linalg.norm(queries, axis=1, keepdims=True)
  want = queries @ index.projection.T
  for hits, cosine in zip(search.find(index, queries, top=7), want, strict=True):
    np.testing.assert_allclose([hit.cosine for hit in hits], np.sort(cosine)[::-1][:7], atol=1e-6)
    np.testing.assert_allclose([cosine[hit.row] for hit in hits], [hit.cosine for hit in hits], atol=1e-6)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]


def test_of_equal_cosines_the_first_comes_first_and_no_more_are_found_than_there_are():
  axes = np.eye(2, dtype=np.float32)[[1, 0, 1, 0, 1]]
  index = search.Index(axes, np.arange(5), ['train'] * 5, list('abcde'), False)
  (hits,) = search.find(index, axes[:1], top=9)
  assert [hit.caption for hit in hits] == ['a', 'c', 'e', 'b', 'd']


@pytest.mark.parametrize('row', [0, 17, 300, 863])
def test_a_picture_in_a_file_is_found_first_in_the_split_that_it_is_of(model, index, tmp_path, row):
  image = model.sources['test'].read(np.array([row]))['image'][0]
  PIL.Image.fromarray(image).save(tmp_path / 'query.png')
  query = search.picture(tmp_path / 'query.png', model.sources['test'].input_shape)
  np.testing.assert_array_equal(query, image)
  projection = model.embed_both(query[None])['projection']
  np.testing.assert_allclose(projection[0], index.projection[row], atol=1e-5)
  (hits,) = search.find(index, projection, top=3)
  assert hits[0].row == row and hits[0].cosine == pytest.approx(1, abs=1e-5)
  assert hits[0].caption == model.sources['test'].captions.texts(np.array([row]))[0][0] != ''


def test_all_is_the_training_split_and_then_the_test_split(captioned, model, index):
  both = search.open_index(model, captioned.config, captioned.path, 'all')
  counts = [model.sources[name].num_examples for name in ('train', 'test')]
  assert both.split == ['train'] * counts[0] + ['test'] * counts[1]
  np.testing.assert_array_equal(both.projection[counts[0] :], index.projection)
  np.testing.assert_array_equal(both.row, np.concatenate([np.arange(n) for n in counts]))
  assert both.caption[counts[0] :] == index.caption


def test_a_larger_picture_is_resized_its_centre_kept_and_what_is_transparent_made_white(tmp_path):
  drawn = np.zeros((20, 40, 4), np.uint8)
  drawn[:, 10:30] = (200, 0, 0, 255)  # a red square in the centre, nothing beside it
  PIL.Image.fromarray(drawn).save(tmp_path / 'red.png')
  # The filter mixes a little of what is beside the square into its edge.
  np.testing.assert_allclose(search.picture(tmp_path / 'red.png', (4, 4, 3)), np.full((4, 4, 3), [200, 0, 0]), atol=24)
  assert (search.picture(tmp_path / 'red.png', (20, 40, 3))[:, :8] == 255).all()
  assert search.picture(tmp_path / 'red.png', (4, 4, 1)).shape == (4, 4, 1)


# --- texts ---


def test_texts_are_embedded_as_the_captions_of_a_split_are(model):
  embedded, rows = model.embed_split('test'), np.arange(40)
  texts = [of_row[0] for of_row in model.sources['test'].captions.texts(rows)]
  found = model.embed_texts(texts)
  np.testing.assert_allclose(found, embedded.texts.projection[:40, 0], atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
  assert np.ptp(found, axis=0).max() > 0.1


@pytest.mark.parametrize('strings', ['crying cat', [], [b'cat'], ['cat', None]])
def test_what_is_no_list_of_texts_is_refused(model, strings):
  with pytest.raises(Refusal, match='texts'):
    model.embed_texts(strings)


def test_a_run_without_a_text_tower_embeds_no_texts_but_finds_pictures_named_by_their_class(plain):
  model, index = plain.load(), plain.index()
  with pytest.raises(Refusal, match='no text tower'):
    model.embed_texts(['seven'])
  (hits,) = search.find(index, index.projection[5:6], top=4)
  assert hits[0].cosine == pytest.approx(1, abs=1e-5)
  labels = model.sources['test'].read(np.array([hit.row for hit in hits]))['label']
  assert [hit.caption for hit in hits] == [str(label) for label in labels]


# --- the index kept with the run ---


def test_a_kept_index_is_used_and_finds_the_same(copy, monkeypatch):
  made = copy.index()
  monkeypatch.setattr(serve.Model, 'embed_split', lambda *_: pytest.fail('embedded again'))
  again = copy.index()
  assert (made.kept, again.kept) == (False, True)
  query = np.random.default_rng(1).normal(size=(2, made.projection.shape[1])).astype(np.float32)
  assert search.find(made, query, top=9) == search.find(again, query, top=9)
  assert made.caption == again.caption and made.split == again.split


def test_another_checkpoint_and_other_parameters_of_one_step_are_noticed(copy):
  first, newest = copy.index(checkpoint=1), copy.index()
  assert not first.kept and not newest.kept
  assert np.abs(first.projection - newest.projection).max() > 0.1
  assert copy.index().kept
  model = copy.load()
  model.params = {**model.params, 'head': jax.tree.map(lambda x: -x, model.params['head'])}
  changed = search.open_index(model, copy.config, copy.path, 'test')
  assert not changed.kept and np.abs(changed.projection - newest.projection).max() > 0.1


@pytest.mark.parametrize('damage', ['cut', 'pickle', 'other'])
def test_a_damaged_index_is_made_again_and_nothing_in_it_is_executed(copy, damage):
  made = copy.index()
  path = copy.path / 'search_index_test.npz'
  if damage == 'cut':
    path.write_bytes(path.read_bytes()[:1000])
  elif damage == 'pickle':
    np.savez(path, said=np.array([{'key': 'anything'}], object), projection=made.projection)
  else:
    np.savez(path, projection=made.projection)
  again = copy.index()
  assert not again.kept
  np.testing.assert_array_equal(again.projection, made.projection)
  assert copy.index().kept


# --- the command ---


def test_the_command_prints_what_is_found_and_writes_a_page_with_every_picture(captioned, given, capsys):
  given(query=['crying cat', 'fruit'], top=5)
  command.main(captioned.config, str(captioned.path))
  printed = capsys.readouterr().out
  assert len(re.findall(r'^ +[1-5]  +-?[01]\.\d{3}  \S', printed, re.MULTILINE)) == 10
  page = (captioned.path / 'search.html').read_text(encoding='utf-8')
  assert re.findall('<h2>(.*?)</h2>', page) == ['“crying cat”', '“fruit”']
  assert page.count('<img src="data:image/png;base64,') == 10 and not re.search('https?:', page)


def test_a_picture_as_query_is_shown_before_what_it_finds(plain, given, capsys, tmp_path):
  image = plain.load().sources['test'].read(np.array([3]))['image'][0]
  PIL.Image.fromarray(image[..., 0]).save(tmp_path / 'query.png')
  given(image=[str(tmp_path / 'query.png')], top=2, page=str(tmp_path / 'found.html'))
  command.main(plain.config, str(plain.path))
  page = (tmp_path / 'found.html').read_text(encoding='utf-8')
  sources = re.findall(r'<img src="(data:[^"]+)"', page)
  assert len(sources) == 3 and sources[0] == sources[1] != sources[2]
  assert not (plain.path / 'search.html').exists()


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    (dict(), '--query or --image is needed'),
    (dict(query=['cat', ' ']), '--query is empty'),
    (dict(query=['cat'], top=0), 'at least 1 picture'),
    (dict(query=['cat'], split='tset'), "unknown split 'tset'; did you mean 'test'"),
    (dict(query=['cat'], page='notes.txt'), 'must end in .html'),
    (dict(query=['cat'], page='no/where.html'), 'no directory that exists'),
    (dict(query=['cat']), 'no text tower'),
    (dict(image=['missing.png']), "'missing.png' cannot be read as a picture"),
    (dict(image=[__file__]), 'cannot be read as a picture'),
  ],
)
def test_what_cannot_be_searched_is_refused_and_writes_nothing(plain, given, values, message):
  given(**values)
  before = sorted(plain.path.rglob('*'))
  with pytest.raises(Refusal, match=re.escape(message)):
    command.main(plain.config, str(plain.path))
  assert sorted(plain.path.rglob('*')) == before


def test_where_there_is_no_run_that_is_said(given, tmp_path, plain):
  given(query=['cat'])
  with pytest.raises(Refusal, match='holds no run'):
    command.main(plain.config, str(tmp_path))


def test_a_terminal_gets_one_line_without_what_would_steer_it():
  assert command.printable('a\x1b[2J\r\nb\tc\u202e') == 'a [2J b c'
  assert len(command.printable('x' * 1000)) == command.WIDTH


class Reader(html.parser.HTMLParser):
  """Tags by name, with their attributes."""

  def __init__(self, text):
    super().__init__()
    self.tags = []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))


def test_hostile_captions_and_queries_are_text_on_the_page():
  source = types.SimpleNamespace(read=lambda rows: {'image': np.zeros((len(rows), 2, 2, 1), np.uint8)})
  hit = search.Hit(1, 0.5, HOSTILE, 'test', 0)
  text = search.build_page(HOSTILE, HOSTILE, {HOSTILE: [hit], HOSTILE + '?': [hit]}, {'test': source}, {})
  tags = Reader(text).tags
  assert not any(tag == 'script' or 'onerror' in attributes for tag, attributes in tags)
  images = [attributes for tag, attributes in tags if tag == 'img']
  assert [image['alt'] for image in images] == [HOSTILE, HOSTILE]
  anchors = [attributes['href'] for tag, attributes in tags if tag == 'a']
  sections = ['#' + attributes['id'] for tag, attributes in tags if tag == 'section']
  assert anchors == sections and len(set(anchors)) == 2


# --- what a run with captions leaves ---


def test_what_is_written_of_a_split_with_captions_is_read_without_unpickling(model, tmp_path):
  embedded, images = model.embed_split('test'), np.zeros((864, 2, 2, 3), np.uint8)
  workdir.write_embeddings(tmp_path, embedded, images, ('a', 'b'))
  with np.load(tmp_path / 'embeddings.npz', allow_pickle=False) as stored:
    assert set(stored.files) == {'features', 'projection', 'label', 'index', 'concept', 'image', 'label_names'}
    np.testing.assert_array_equal(stored['projection'], embedded.projection)
  arrays = workdir.arrays_of(embedded)
  assert arrays['texts'].shape == (864, 2, 16) and arrays['text_mask'].shape == (864, 2)
  assert list(arrays['slots']) == ['en', 'en:keywords']


def test_of_a_split_without_captions_only_what_there_is_is_written(tmp_path):
  x = np.ones((2, 3), np.float32)
  embedded = Embedded(x, x, np.zeros(2, np.int32), np.arange(2, dtype=np.int32))
  assert set(workdir.arrays_of(embedded)) == {'features', 'projection', 'label', 'index'}


@pytest.fixture(scope='module')
def examples(model) -> retrieved.Examples:
  source, embedded = model.sources['test'], model.embed_split('test')
  images = source.read(np.arange(source.num_examples))['image']
  embed = types.SimpleNamespace(texts=model.embed_texts)
  return retrieved.examples(embed, embedded, source.captions, images)


def test_examples_are_captions_with_their_own_rank_and_the_closest_pictures(model, index, examples):
  source = model.sources['test']
  texts = source.captions.texts(np.arange(source.num_examples))
  cosine = model.embed_texts(examples.query) @ index.projection.T
  for k, (query, slot) in enumerate(zip(examples.query, examples.slot, strict=True)):
    s = source.captions.slots.index(slot)
    own = [row for row, of_row in enumerate(texts) if of_row[s] == query]
    assert min((cosine[k] > cosine[k, row] + 1e-6).sum() + 1 for row in own) <= examples.rank[k]
    best = np.argsort(-cosine[k], kind='stable')[: retrieved.FOUND]
    np.testing.assert_array_equal(examples.image[k], source.read(best)['image'])
    for found, kind in zip(best, examples.kind[k], strict=True):
      assert (kind == retrieved.OWN) <= (found in own)
  assert len(examples.query) == retrieved.QUERIES and set(examples.slot) == {'en', 'en:keywords'}


def test_the_picture_of_a_caption_is_marked_where_it_is_found():
  x = np.eye(8, dtype=np.float32)
  texts = [(f'thing {k}',) for k in range(8)]
  captions = types.SimpleNamespace(slots=('en',), texts=lambda rows: [texts[k] for k in rows])
  embed = types.SimpleNamespace(texts=lambda strings: x[[int(text.split()[1]) for text in strings]])
  embedded = Embedded(x, x, np.full(8, -1), np.arange(8), concept=np.arange(8) // 4)
  found = retrieved.examples(embed, embedded, captions, np.zeros((8, 2, 2, 1), np.uint8))
  assert (found.rank == 1).all() and (found.kind[:, 0] == retrieved.OWN).all()
  assert (found.kind[:, 1:] != retrieved.OWN).all() and (found.kind == retrieved.RELATED).any()
  for query, captions_of, kinds in zip(found.query, found.caption, found.kind, strict=True):
    same = [int(said.split()[1]) // 4 == int(query.split()[1]) // 4 for said in captions_of]
    assert [kind != retrieved.OTHER for kind in kinds] == same


def test_equal_embeddings_rank_last_and_captions_that_cannot_be_drawn_are_no_examples():
  x = np.ones((8, 1), np.float32)
  texts = [('泣き猫', 'cat' if k else '') for k in range(8)]
  captions = types.SimpleNamespace(slots=('ja', 'en'), texts=lambda rows: [texts[k] for k in rows])
  embed = types.SimpleNamespace(texts=lambda strings: np.ones((len(strings), 1), np.float32))
  embedded, images = Embedded(x, x, np.full(8, -1), np.arange(8)), np.zeros((8, 2, 2, 1), np.uint8)
  found = retrieved.examples(embed, embedded, captions, images)
  assert (found.rank == 8).all() and set(found.slot) == {'en'} and set(found.query) == {'cat'}
  captions = types.SimpleNamespace(slots=('ja',), texts=lambda rows: [texts[k][:1] for k in rows])
  assert retrieved.examples(embed, embedded, captions, images) is None


@pytest.mark.parametrize(
  ('text', 'shown'), [('Käse', True), ('$x_1$', True), ('', False), ('泣', False), ('قط', False), ('a\nb', False)]
)
def test_only_texts_that_the_font_has_are_drawn(text, shown):
  assert retrieved.drawable(text) == shown


def test_the_report_shows_examples_and_survives_those_that_cannot_be_read(examples, tmp_path):
  retrieved.write(tmp_path, examples)
  again = retrieved.read(tmp_path)
  assert again.query == examples.query and again.caption == examples.caption and again.among == 864
  np.testing.assert_array_equal(again.kind, examples.kind)
  text = report.build(tmp_path).read_text(encoding='utf-8')
  assert '<h2>Retrieval</h2>' in text and 'among all 864' in text
  assert PIL.Image.open(tmp_path / 'figures' / 'retrieval.png').size[0] > 500
  (tmp_path / retrieved.FILE).write_bytes(b'PK nonsense')
  assert '<h2>Retrieval</h2>' not in report.build(tmp_path).read_text(encoding='utf-8')
