"""What is made once is read from the cache afterwards, whole or not at all, and never unpickled."""

import os
import pathlib

import numpy as np
import pytest

from contrastive_jax.data import cache


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
  return tmp_path / 'caches' / 'contrastive_jax'


class Maker:
  def __init__(self):
    self.calls = 0

  def __call__(self):
    self.calls += 1
    return {'x': np.arange(5), 'said': cache.packed(['é', {'a': [1, None]}])}


def test_arrays_are_made_once_for_a_key_and_read_afterwards(place):
  make = Maker()
  for key in ('k', 'k', 'other'):
    found = cache.kept('things', key, make)
    np.testing.assert_array_equal(found['x'], np.arange(5))
    assert cache.unpacked(found['said']) == ['é', {'a': [1, None]}]
  assert make.calls == 2
  assert sorted(path.name for path in place.iterdir()) == ['things-k.npz', 'things-other.npz']


@pytest.mark.parametrize('damage', [lambda raw: raw[: len(raw) // 2], lambda _: b'', lambda _: b'\x80\x04N.'])
def test_a_damaged_archive_is_made_again_and_said_to_be(place, caplog, damage):
  make = Maker()
  cache.kept('things', 'k', make)
  path = place / 'things-k.npz'
  path.write_bytes(damage(path.read_bytes()))
  np.testing.assert_array_equal(cache.kept('things', 'k', make)['x'], np.arange(5))
  assert make.calls == 2 and 'things-k.npz is damaged' in caplog.text
  cache.kept('things', 'k', make)
  assert make.calls == 2


class Bomb:
  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(os.environ['BOMB']),)


def test_a_pickle_in_the_cache_is_not_executed(place, tmp_path, monkeypatch):
  monkeypatch.setenv('BOMB', str(tmp_path / 'exploded'))
  place.mkdir(parents=True)
  np.savez(place / 'things-k.npz', x=np.array([Bomb()], object))
  make = Maker()
  cache.kept('things', 'k', make)
  assert make.calls == 1 and not (tmp_path / 'exploded').exists()


def test_where_nothing_can_be_kept_the_arrays_are_made_all_the_same(place, caplog):
  place.parent.mkdir()
  place.write_text('a file where the folder should be')
  make = Maker()
  cache.kept('things', 'k', make)
  cache.kept('things', 'k', make)
  assert make.calls == 2 and 'cannot be kept' in caplog.text


def test_what_is_made_is_not_kept_if_writing_stops(place, monkeypatch):
  def stop(file, **_):
    file.write(b'half')
    raise KeyboardInterrupt

  monkeypatch.setattr(np, 'savez_compressed', stop)
  with pytest.raises(KeyboardInterrupt):
    cache.kept('things', 'k', Maker())
  assert list(place.iterdir()) == []


def test_a_checksum_is_of_parts_not_of_their_text_together(tmp_path):
  (tmp_path / 'f').write_bytes(b'ab')
  assert cache.checksum(tmp_path / 'f', 'c') == cache.checksum(b'ab', 'c') != cache.checksum('a', 'bc')
