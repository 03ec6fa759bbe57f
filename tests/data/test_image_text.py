"""Images with captions in tar shards and prepared sets: what is read, what is left out, and what stops."""

import io
import json
import os
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from contrastive_jax.data import image_text, shards, sources
from contrastive_jax.types import Refusal


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


class Bomb:
  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(os.environ['BOMB']),)


def picture(shade, kind='PNG', size=(6, 8), mode='RGB'):
  file = io.BytesIO()
  Image.new('L', size, shade).convert(mode).save(file, kind)
  return file.getvalue()


def write(path, *members):
  """A shard of (name, bytes or text) members."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w') as shard:
    for name, content in members:
      raw = content if isinstance(content, bytes) else content.encode()
      entry = tarfile.TarInfo(name)
      entry.size = len(raw)
      shard.addfile(entry, io.BytesIO(raw))
  return path


def records(numbers, text='thing {}'):
  return [member for k in numbers for member in ((f'{k:04}.png', picture(k)), (f'{k:04}.txt', text.format(k)))]


def opened(path, **options):
  options = dict(tokens='byte', length=24, most_bad=0.0) | options
  return {split: sources.image_text(path=str(path), split=split, **options) for split in sources.SPLITS}


def everything(source):
  rows = np.arange(source.num_examples)
  return source.read(rows), source.captions.texts(rows)


def test_records_of_shards_come_with_their_images_and_captions_in_order(tmp_path):
  for number in range(3):
    write(tmp_path / f'{number:03}.tar', *records(range(10 * number, 10 * number + 10)))
  both = opened(tmp_path)
  assert {split: each.num_examples for split, each in both.items()} == {'train': 24, 'test': 6}
  concepts = []
  for source in both.values():
    batch, texts = everything(source)
    shade = batch['image'][:, 0, 0, 0].tolist()
    assert texts == [(f'thing {k}',) for k in shade] and shade == sorted(shade)
    assert batch['image'].shape[1:] == source.input_shape == (8, 6, 3)
    assert (batch['label'] == -1).all() and batch['caption_mask'].all()
    np.testing.assert_array_equal(batch['caption'][:, 0], source.captions.encode([text for (text,) in texts]))
    some = source.read(np.array([4, 1, 4]))
    assert all((some[name] == value[[4, 1, 4]]).all() for name, value in batch.items())
    assert {name: value.dtype.name for name, value in batch.items()} == {
      'image': 'uint8', 'label': 'int32', 'caption': 'int32', 'caption_mask': 'bool', 'concept': 'int32'
    }  # fmt: skip
    concepts += batch['concept'].tolist()
  assert sorted(concepts) == list(range(30))
  assert both['train'].mean == both['test'].mean and both['train'].name == tmp_path.name


def test_captions_come_from_lines_of_text_and_from_json_each_once(tmp_path):
  members = (
    ('a.jpg', picture(1, 'JPEG')), ('a.txt', 'one\n\n two \r\nне один\n'),
    ('b.webp', picture(2, 'WEBP')), ('b.json', json.dumps({'caption': 'only', 'width': 3})),
    ('c.JPEG', picture(3, 'JPEG')), ('c.json', json.dumps({'captions': ['x', 'y', 'x']})), ('c.txt', 'y'),
    ('folder/d.png', picture(4, mode='RGBA')), ('folder/d.json', json.dumps({'caption': ['p', 'q'], 'captions': []})),
    ('folder/e.png', picture(5, mode='L')), ('folder/e.txt', 'l\nm\nn\no\np\nq'), ('folder/e.cls', '5'),
  )  # fmt: skip
  write(tmp_path / 'train' / '0.tar', *members)
  write(tmp_path / 'val' / '0.tar', ('z.png', picture(6)), ('z.txt', 'held out'))
  both = opened(tmp_path, captions=4)
  batch, texts = everything(both['train'])
  assert texts == [
    ('one', 'two', 'не один', ''), ('only', '', '', ''), ('y', 'x', '', ''), ('p', 'q', '', ''), ('l', 'm', 'n', 'o')
  ]  # fmt: skip
  np.testing.assert_array_equal(batch['caption_mask'], [[bool(text) for text in row] for row in texts])
  np.testing.assert_array_equal(batch['caption'].any(2), batch['caption_mask'])
  assert batch['image'].shape == (5, 8, 6, 3) and both['train'].captions.slots[-1] == 'caption_3'
  batch, texts = everything(both['test'])
  assert texts == [('held out', '', '', '')] and batch['concept'].tolist() == [5]


def test_splits_are_folders_or_patterns_or_a_fixed_fifth(tmp_path):
  write(tmp_path / 'a-0.tar', *records(range(6)))
  write(tmp_path / 'a-1.tar', *records(range(6, 11)))
  write(tmp_path / 'b-0.tar', *records(range(11, 14)))
  counts = {}
  for name, options in {
    'patterns': dict(train='a-*.tar', test='b-*.tar'),
    'rest': dict(test='b-*.tar'),
    'part': dict(train='a-*.tar'),
    'whole': {},
  }.items():
    counts[name] = [each.num_examples for each in opened(tmp_path, **options).values()]
  assert counts == {'patterns': [11, 3], 'rest': [11, 3], 'part': [9, 2], 'whole': [11, 3]}
  assert [each.num_examples for each in opened(tmp_path / 'a-1.tar').values()] == [4, 1]


@pytest.mark.parametrize(
  'options, reason',
  [
    (dict(train='c-*.tar'), "no tar shards in 'c-\\*.tar'"),
    (dict(test='held'), "no tar shards in 'held'"),
    (dict(train='a-*.tar', test='a-0.tar'), "'a-0.tar' is in both splits"),
    (dict(test='*.tar'), 'no shard is left for training'),
    (dict(captions=0), 'captions is 0'),
    (dict(most_bad=1.5), 'most_bad 1.5'),
    (dict(tokens='words'), "unknown tokens 'words'"),
    (dict(dataset='coco'), 'and not both'),
  ],
)
def test_what_cannot_be_opened_is_refused(tmp_path, options, reason):
  write(tmp_path / 'a-0.tar', *records(range(6)))
  with pytest.raises(Refusal, match=reason):
    opened(tmp_path, **options)


def test_neither_a_folder_nor_a_set_and_a_folder_that_is_not_there_are_refused(tmp_path):
  with pytest.raises(Refusal, match='is needed, and not both'):
    sources.image_text()
  with pytest.raises(Refusal, match='no such folder'):
    opened(tmp_path / 'nothing')


def test_images_of_several_sizes_need_an_image_size(tmp_path):
  write(tmp_path / 'train' / '0.tar', *records(range(3)), ('x.png', picture(9, size=(20, 10))), ('x.txt', 'wide'))
  write(tmp_path / 'test' / '0.tar', *records(range(2)))
  with pytest.raises(Refusal, match=r'0\.tar: x has 20 x 10 pixels and 0\.tar: 0000 6 x 8; give image_size'):
    opened(tmp_path)
  assert everything(opened(tmp_path, image_size=5)['train'])[0]['image'].shape == (4, 5, 5, 3)


SOUND = ('x.txt', 'a thing')
DAMAGE = {
  'no image': [('x.png', b'no image'), SOUND],
  'cut image': [('x.png', picture(3, size=(90, 90), mode='RGB')[:-60]), SOUND],
  'a pickle': [('x.png', None), SOUND],
  'image missing': [SOUND],
  'caption missing': [('x.png', picture(1))],
  'caption empty': [('x.png', picture(1)), ('x.txt', ' \n\n')],
  'caption not utf-8': [('x.png', picture(1)), ('x.txt', b'caf\xe9')],
  'json damaged': [('x.png', picture(1)), ('x.json', '{"caption": "a')],
  'json nested': [('x.png', picture(1)), ('x.json', '[' * 100000)],
  'json not utf-8': [('x.png', picture(1)), ('x.json', b'{"caption": "\xff"}')],
  'json no text': [('x.png', picture(1)), ('x.json', '{"caption": 7}')],
  'json without': [('x.png', picture(1)), ('x.json', '{"url": "u"}')],
  'json surrogate': [('x.png', picture(1)), ('x.json', '{"caption": "\\ud800"}')],
  'image empty': [('x.png', b''), SOUND],
}


DAMAGE |= {  # some formats run programs, so none but three are tried
  kind: [('x.png', picture(1, kind)), SOUND] for kind in ('EPS', 'GIF', 'BMP', 'TIFF')
}


@pytest.mark.parametrize('kind', DAMAGE)
def test_a_record_that_cannot_be_used_is_left_out_named_and_counted(tmp_path, caplog, monkeypatch, kind):
  monkeypatch.setenv('BOMB', str(tmp_path / 'exploded'))
  damaged = [(name, pickle.dumps(Bomb()) if raw is None else raw) for name, raw in DAMAGE[kind]]
  write(tmp_path / 'train' / '0.tar', *records(range(3)), *damaged, *records(range(3, 5)))
  write(tmp_path / 'test' / '0.tar', *records(range(2)))
  both = opened(tmp_path, most_bad=0.2)
  batch, texts = everything(both['train'])
  assert batch['image'][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] and texts[4] == ('thing 4',)
  assert '1 of 6 records' in caplog.text and '0.tar: x: ' in caplog.text
  with pytest.raises(Refusal, match=r'1 of 6 records of .* cannot be used, more than .*most_bad=0\.1: 0\.tar: x: '):
    opened(tmp_path, most_bad=0.1)
  assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('cut', [188, 512, 800, 1024, 1100, 1536, 2100])
def test_a_shard_cut_off_is_noticed_and_its_whole_records_are_kept(tmp_path, caplog, cut):
  path = write(tmp_path / 'train' / '0.tar', *records(range(5)))
  with tarfile.open(path) as shard:
    ends = [member.offset_data + member.size for member in shard if member.name.endswith('txt')]
  length = ends[-1] + 505 - cut  # from the block of zeros back into the last records
  path.write_bytes(path.read_bytes()[:length])
  write(tmp_path / 'test' / '0.tar', *records(range(2)))
  source = opened(tmp_path, most_bad=0.9)['train']
  whole = sum(end <= length for end in ends)
  assert everything(source)[0]['image'][:, 0, 0, 0].tolist() == list(range(whole)) and whole >= 3
  assert '0.tar: cut off or damaged' in caplog.text


def test_a_shard_with_a_damaged_header_in_its_middle_is_noticed(tmp_path):
  path = write(tmp_path / '0.tar', *records(range(9)))
  raw = bytearray(path.read_bytes())
  with tarfile.open(path) as shard:
    middle = shard.getmembers()[8].offset
  raw[middle : middle + 512] = b'\xff' * 512
  path.write_bytes(raw)
  with pytest.raises(Refusal, match=f'1 of 5 records .* 0.tar: cut off or damaged after byte {middle}'):
    opened(tmp_path)
  (tmp_path / '0.tar').write_bytes(b'no tar at all' * 99)
  with pytest.raises(Refusal, match=r'0\.tar: cut off or damaged'):
    opened(tmp_path)
  (tmp_path / '0.tar').write_bytes(b'')
  with pytest.raises(Refusal, match=r'0\.tar: cut off or damaged'):
    opened(tmp_path)


def test_members_that_are_no_records_are_passed_over(tmp_path):
  path = tmp_path / '0.tar'
  with tarfile.open(path, 'w') as shard:
    for name, raw in records(range(10)):
      raw = raw if isinstance(raw, bytes) else raw.encode()
      entry = tarfile.TarInfo(name)
      entry.size = len(raw)
      shard.addfile(entry, io.BytesIO(raw))
    for kind, name, target in (
      (tarfile.SYMTYPE, 'l.png', '../../secret.png'),
      (tarfile.LNKTYPE, 'h.png', '0001.png'),
      (tarfile.DIRTYPE, 'd.png', ''),
    ):
      entry = tarfile.TarInfo(name)
      entry.type, entry.linkname = kind, target
      shard.addfile(entry)
    shard.addfile(tarfile.TarInfo('._0001.png'))
  assert sum(each.num_examples for each in opened(tmp_path).values()) == 10
  assert sorted(found.name for found in tmp_path.iterdir()) == ['0.tar', 'cache']


def test_a_second_image_of_a_key_is_named(tmp_path):
  write(tmp_path / '0.tar', *records(range(9)), ('0003.jpg', picture(77, 'JPEG')))
  with pytest.raises(Refusal, match=r'1 of 10 records .* 0003: a second image'):
    opened(tmp_path)


def test_the_refusal_names_the_first_five_and_says_how_many_more(tmp_path):
  members = [member for k in range(7) for member in ((f'bad{k}.png', b'x'), (f'bad{k}.txt', 'text'))]
  write(tmp_path / '0.tar', *records(range(9)), *members)
  with pytest.raises(Refusal) as stopped:
    opened(tmp_path)
  text = str(stopped.value)
  assert text.startswith('7 of 16 records') and 'bad4' in text and 'bad5' not in text and text.endswith('and 2 more')


def test_records_are_checked_once_until_a_shard_changes(tmp_path, monkeypatch):
  path = write(tmp_path / '0.tar', *records(range(10)))
  calls = []
  check = image_text.check
  monkeypatch.setattr(image_text, 'check', lambda stored: calls.append(stored.size) or check(stored))
  first = everything(opened(tmp_path)['train'])
  again = everything(opened(tmp_path)['train'])
  assert calls == [10] and first[1] == again[1]
  write(path, *records(range(12)))
  assert opened(tmp_path)['train'].num_examples == 10 and calls == [10, 12]


def test_a_shard_that_changes_under_a_run_is_refused(tmp_path):
  path = write(tmp_path / '0.tar', *records(range(10)))
  source = opened(tmp_path)['train']
  path.write_bytes(bytes(len(path.read_bytes())))
  with pytest.raises(Refusal, match='has changed since its records were checked'):
    source.read(np.arange(3))


def test_trained_tokens_are_learnt_once_from_the_training_captions(tmp_path, monkeypatch):
  write(tmp_path / 'train' / '0.tar', *records(range(8), 'a red thing, number {}'))
  write(tmp_path / 'test' / '0.tar', *records(range(8), 'quite otherwise {}'))
  both = opened(tmp_path, tokens='bpe', vocabulary=290)
  learnt = json.loads(both['test'].captions.tokenizer)['tokenizer']['model']['vocab']
  assert 'Ġthing' in learnt and not any('quite' in piece or 'oth' in piece for piece in learnt)
  monkeypatch.setattr(image_text.token_kinds, 'make', None)
  assert opened(tmp_path, tokens='bpe', vocabulary=290)['train'].captions.tokenizer == both['train'].captions.tokenizer


def test_an_index_holds_no_path_outside_of_its_shard_and_survives_packing(tmp_path):
  path = write(tmp_path / '0.tar', *records(range(4)))
  found = shards.scan([path])
  again = shards.unpack([path], shards.pack(found))
  assert found.keys == again.keys == ['0000', '0001', '0002', '0003'] and again.where(2) == '0.tar: 0002'
  assert all(found.fetch(row) == again.fetch(row) for row in range(4))


class CaptionedPictures(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    text = tfds.features.Text()
    fields = {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'one': text,
      'several': tfds.features.Sequence(text),
      'captions': tfds.features.Sequence({'text': text, 'id': tfds.features.Scalar(np.int64)}),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(fields))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in sources.SPLITS}

  def _generate_examples(self, split):
    for k in range(8 if split == 'train' else 3):
      texts = [f'{split} {k}', f'{k} again'][: 1 + k % 2]
      yield (
        k,
        {
          'image': io.BytesIO(picture(k) if k or split == 'test' else b'damaged'),
          'one': texts[0],
          'several': texts,
          'captions': [{'text': text, 'id': k} for text in texts],
        },
      )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  place = str(tmp_path_factory.mktemp('tfds'))
  tfds.disable_progress_bar()
  CaptionedPictures(data_dir=place, file_format='array_record').download_and_prepare()
  return place


@pytest.mark.parametrize('key, slots', [('one', 1), ('several', 2), ('captions/text', 2)])
def test_a_prepared_set_is_read_with_one_caption_or_several(folder, caplog, key, slots):
  options = dict(dataset='captioned_pictures', data_dir=folder, caption_key=key, tokens='byte', length=24)
  train, test = (sources.image_text(split=split, most_bad=0.2, **options) for split in sources.SPLITS)
  assert (train.num_examples, test.num_examples) == (7, 3)
  assert '1 of 8 records of captioned_pictures cannot be used' in caplog.text
  for source in (train, test):
    batch, texts = everything(source)
    shade = batch['image'][:, 0, 0, 0].tolist()
    assert texts == [(f'{source.split} {k}', f'{k} again' if k % 2 else '')[:slots] for k in shade]
    assert batch['caption'].shape == (source.num_examples, slots, 24)
  with pytest.raises(Refusal, match='1 of 8 records'):
    sources.image_text(**options)


@pytest.mark.parametrize('key', ['imag', 'image', 'captions', 'captions/id', 'one/text'])
def test_a_field_that_is_no_text_is_refused(folder, key):
  with pytest.raises(Refusal, match=f"no text called '{key}'"):
    sources.image_text(dataset='captioned_pictures', data_dir=folder, caption_key=key)
