"""Debian's packages as a graph, of a small index."""

import gzip

import numpy as np
import pytest
import scipy.sparse

from contrastive_jax.data import packages, sources
from contrastive_jax.types import Refusal

INDEX = """
Package: libaa
Section: perl
Provides: aa-abi-1, aa (= 2)
Description: useful perl words for parsing

Package: libbb
Version: 2
Section: contrib/perl
Depends: libaa (>= 1.0), perl:any | perl5
Description: words for drawing

Package: libbb
Version: 1
Section: perl
Depends: libcc
Description: an older one

Package: libcc
Section: ruby
Recommends: aa-abi-1, libdd [amd64]
Tag: role::program,
 use::learning
Description: parsing of gems

Package: libdd
Section: ruby
Description: alone with its words
"""
SECTIONS = ('perl', 'ruby')


@pytest.fixture
def path(tmp_path):
  file = tmp_path / 'Packages'
  file.write_text(INDEX)
  return str(file)


def whole(path, **options):
  source = sources.packages(path=path, sections=SECTIONS, **options)
  return source, source.read(np.arange(source.num_examples))


def test_links_go_both_ways_and_through_other_names(path):
  _, batch = whole(path)
  linked = [{int(j) for j in row if j >= 0} for row in batch['neighbour']]
  assert linked == [{1, 2}, {0}, {0, 3}, {2}]  # libaa, libbb, libcc, libdd
  np.testing.assert_allclose(batch['neighbour_weight'].sum(1), np.ones(4), rtol=1e-6)
  assert (batch['neighbour_weight'][batch['neighbour'] < 0] == 0).all()


def test_words_that_name_a_section_are_left_out(path):
  source, batch = whole(path, words=2)  # 'words' is in three descriptions, 'for' and 'parsing' in two
  assert source.input_shape == (2,)
  np.testing.assert_array_equal(batch['vector'], [[1, 1], [1, 1], [0, 0], [1, 0]])
  _, every = whole(path)
  assert every['vector'].shape[1] == len(
    {'useful', 'words', 'for', 'parsing', 'drawing', 'gems', 'alone', 'with', 'its'}
  )


def test_the_training_split_is_the_whole_graph_and_tells_no_label_of_the_test_split(path):
  train, test = whole(path), whole(path, split='test')
  assert (train[0].num_examples, test[0].num_examples) == (4, 1)
  hidden = np.flatnonzero(train[1]['label'] < 0)
  assert len(hidden) == 1
  np.testing.assert_array_equal(train[1]['vector'][hidden], test[1]['vector'])
  known = np.array([0, 0, 1, 1])
  np.testing.assert_array_equal(np.delete(train[1]['label'], hidden), np.delete(known, hidden))
  np.testing.assert_array_equal(test[1]['label'], known[hidden])


def test_two_hops_reach_what_neighbours_have_as_neighbours():
  edges = scipy.sparse.csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0.0]]))
  found = packages.reach(edges, 2).toarray()
  np.testing.assert_allclose(found, [[0, 2 / 3, 1 / 3], [0.5, 0, 0.5], [1 / 3, 2 / 3, 0]])


def test_the_heaviest_neighbours_are_kept_and_of_each_section_the_best_linked(path):
  weights = scipy.sparse.csr_array(np.array([[0, 0.2, 0.5, 0.3], [1, 0, 0, 0], [0, 0, 0, 0], [0.5, 0.5, 0, 0]]))
  neighbour, weight = packages.heaviest(weights, 2)
  np.testing.assert_array_equal(neighbour, [[2, 3], [0, -1], [-1, -1], [0, 1]])
  np.testing.assert_allclose(weight, [[0.5, 0.3], [1, 0], [0, 0], [0.5, 0.5]])
  _, batch = whole(path, nodes=1)
  assert [{int(j) for j in row if j >= 0} for row in batch['neighbour']] == [{1}, {0}]  # libaa and libcc


def test_an_index_may_be_compressed(path, tmp_path):
  file = tmp_path / 'Packages.gz'
  file.write_bytes(gzip.compress(INDEX.encode()))
  np.testing.assert_array_equal(whole(str(file))[1]['neighbour'], whole(path)[1]['neighbour'])


def test_what_cannot_be_read_is_refused_with_what_brings_it(path, tmp_path, monkeypatch):
  with pytest.raises(Refusal, match='cannot be read'):
    sources.packages(path=str(tmp_path / 'none'))
  with pytest.raises(Refusal, match="no packages of section 'haskell'"):
    sources.packages(path=path, sections=('perl', 'haskell'))
  with pytest.raises(Refusal, match='order must be at least 1'):
    sources.packages(path=path, order=0)
  packages.index.cache_clear()
  monkeypatch.setattr(packages.shutil, 'which', lambda name: None)
  with pytest.raises(Refusal, match='apt-get update'):
    sources.packages()
