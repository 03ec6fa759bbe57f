"""Settings of a sweep and the ways to combine them."""

import pytest

from contrastive_jax.types import Refusal
from launch import space

T, V = 'config.method.temperature', 'config.data.num_views'


def test_a_product_has_every_combination_and_the_last_space_varies_fastest():
  found = space.product(space.values(T, 0.1, 0.2), space.values(V, 2, 4), space.seeds(2))
  assert [(s[T], s[V], s['config.seed']) for s in found[:3]] == [
    ('0.1', '2', '0'),
    ('0.1', '2', '1'),
    ('0.1', '4', '0'),
  ]
  assert len({tuple(s.items()) for s in found}) == len(found) == 8


def test_zip_goes_in_step_and_refuses_spaces_of_different_lengths():
  assert space.zip_(space.values(T, 0.1, 0.2), space.values(V, 2, 4)) == [{T: '0.1', V: '2'}, {T: '0.2', V: '4'}]
  with pytest.raises(Refusal, match='they have 2, 1 settings'):
    space.zip_(space.values(T, 0.1, 0.2), space.values(V, 2))


def test_a_setting_that_is_chained_twice_counts_once():
  assert space.chain(space.values(T, 0.1, 0.2), space.values(T, 0.2, 0.3)) == space.values(T, 0.1, 0.2, 0.3)


def test_a_key_that_two_spaces_set_is_refused():
  with pytest.raises(Refusal, match=f'{T} is set twice'):
    space.product(space.values(T, 0.1), space.values(T, 0.2))


@pytest.mark.parametrize('written', ['0.1', '1e-1', '0.10', 0.1])
def test_every_spelling_of_a_value_is_one_setting(written):
  assert space.values(T, written) == [{T: '0.1'}]


def test_random_settings_lie_in_their_ranges_and_the_first_stay_when_more_are_drawn():
  keys = {T: space.log_uniform(0.05, 1), V: space.integers(2, 4), 'config.encoder.name': space.choice('mlp', 'convnet')}
  found = space.random(200, keys, seed=3)
  assert found[:50] == space.random(50, keys, seed=3) != space.random(50, keys, seed=4)
  temperatures = sorted(float(s[T]) for s in found)
  assert all(0.05 <= t <= 1 for t in temperatures)
  assert temperatures[100] == pytest.approx((0.05 * 1) ** 0.5, rel=0.3)  # the median of logarithms
  assert {s[V] for s in found} == {'2', '3', '4'}
  assert {s['config.encoder.name'] for s in found} == {'mlp', 'convnet'}


@pytest.mark.parametrize(
  ('text', 'values'),
  [
    ('config.method.temperature=0.1, 0.2', ['0.1', '0.2']),
    ('config.encoder.widths=(32, 64),(64,)', ['(32, 64)', '(64,)']),
    ('config.method.loss=nt_xent,dhel', ['nt_xent', 'dhel']),
    ("config.method.fold={'name': 'ring', 'rows': 8},auto", ["{'name': 'ring', 'rows': 8}", 'auto']),
    ("config.optimiser.no_decay='a,b'", ['a,b']),
  ],
)
def test_commas_in_brackets_and_quotes_belong_to_a_value(text, values):
  assert [next(iter(setting.values())) for setting in space.parsed(text)] == values


@pytest.mark.parametrize(
  ('refused', 'message'),
  [
    (lambda: space.parsed('config.method.temperature'), 'must name a key and its values'),
    (lambda: space.parsed('config.method.temperature=0.1,,0.2'), 'must name a key and its values'),
    (lambda: space.parsed('method.temperature=0.1'), "must be 'config' .* or begin with 'config.'"),
    (lambda: space.values(T), 'has no values'),
    (lambda: space.seeds(0), 'at least one seed'),
    (lambda: space.log_uniform(0, 1), 'a range of positive numbers'),
    (lambda: space.uniform(2, 1), 'from the smaller to the larger'),
  ],
)
def test_what_is_no_space_is_refused_in_one_line(refused, message):
  with pytest.raises(Refusal, match=message):
    refused()
