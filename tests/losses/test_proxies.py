"""Losses with class proxies: brute force, another library, margins, classes split over devices."""

import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from test_margins import ARRAYS, assert_held, assert_peer, mesh_of
from test_references import Case, unit_rows

from contrastive_jax import losses

PEERS = json.loads(pathlib.Path(__file__).with_name('peers.json').read_text())
NAMES = ('arcface', 'cosface', 'normface', 'proxy_anchor', 'proxy_nca')
LABELS = np.asarray([0, 3, 3, -1, 5, 0, 2, -1, 5], np.int32)  # of six classes two have no row
X, PROXIES = 2 * unit_rows(9, 5), 3 * unit_rows(6, 5, seed=1)
X[4] = 0.2 * X[4] - PROXIES[5]  # almost opposite to its proxy, where an added angle would turn back
SIDES = dict(x=X, proxies=PROXIES)

CASES = {
  'normface': Case('normface', SIDES | dict(scale=7.0), {}),
  'cosface': Case('cosface', SIDES | dict(margin=0.3, scale=7.0), {}),
  'arcface': Case('arcface', SIDES | dict(margin=0.4, scale=7.0), {}),
  'proxy_nca': Case('proxy_nca', SIDES | dict(x_scale=1.5, proxy_scale=2.0), {}),
  'proxy_nca of others': Case('proxy_nca', SIDES | dict(x_scale=1.5, proxy_scale=2.0), dict(include_positive=False)),
  'proxy_anchor': Case('proxy_anchor', SIDES | dict(alpha=5.0, delta=0.2), {}),
}
CASES = {key: case._replace(given=dict(labels=LABELS) | case.given) for key, case in CASES.items()}


@pytest.mark.parametrize('key', CASES)
def test_float32_values_and_gradients_equal_brute_force(key):
  assert_held(CASES[key], jnp.float32, losses.dense(), 2e-5)


@pytest.mark.parametrize('key', ['arcface', 'proxy_anchor'])
def test_float64_values_and_gradients_equal_brute_force(key):
  with jax.enable_x64(True):
    assert_held(CASES[key], jnp.float64, losses.chunked(3, 4), 1e-10)


@pytest.mark.parametrize('name', [k for k in PEERS['expected'] if k.split()[0] in NAMES])
def test_values_equal_those_of_pytorch_metric_learning(name):
  labels = ARRAYS['even'] % 2 if 'absent' in name else ARRAYS['even']
  assert_peer(getattr(losses, name.split()[0])(ARRAYS['rows'], labels, ARRAYS['proxies']).mean(), name)


def traced(name, labels=LABELS, x=X, proxies=PROXIES, **options):
  """The loss, to be differentiated."""
  x, proxies = (jnp.asarray(side, jnp.float32) for side in (x, proxies))
  return getattr(losses, name)(x, jnp.asarray(labels), proxies, **options)


def call(name, labels=LABELS, x=X, proxies=PROXIES, **options):
  return jit(lambda *a: traced(name, *a, **options))(labels, x, proxies)


# --- identities ---


def test_without_margin_arcface_and_cosface_are_normface():
  want = call('normface', scale=9.0)
  np.testing.assert_allclose(call('cosface', margin=0.0, scale=9.0), want, rtol=1e-5)
  np.testing.assert_allclose(call('arcface', margin=0.0, scale=9.0), want, rtol=1e-5)


def test_normface_is_info_nce_of_unit_rows_with_one_over_the_scale_for_a_temperature():
  x, proxies = (losses.unit(jnp.asarray(side, jnp.float32)) for side in (X, PROXIES))
  want = losses.info_nce(x, proxies, temperature=0.1, x_id=LABELS, y_id=np.arange(6))
  np.testing.assert_allclose(call('normface', scale=10.0), want, rtol=1e-5, atol=1e-6)


def test_proxy_nca_of_unit_scales_is_a_softmax_of_twice_the_cosines():
  np.testing.assert_allclose(call('proxy_nca'), call('normface', scale=2.0), rtol=1e-5)
  np.testing.assert_allclose(call('proxy_nca', x_scale=1.0, proxy_scale=8.0), call('normface', scale=16.0), rtol=1e-5)


def test_proxy_nca_of_others_comes_down_to_its_bound():
  """Each row on its proxy, which is opposite to all others."""
  x = proxies = jnp.asarray([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
  found = losses.proxy_nca(x, jnp.arange(4), proxies, x_scale=1.5, proxy_scale=2.0, include_positive=False)
  np.testing.assert_allclose(found[0], np.log(3) - 4 * 1.5 * 2.0, rtol=1e-5)


@pytest.mark.parametrize('name', ['arcface', 'cosface'])
def test_a_wider_margin_costs_more(name):
  values = [call(name, margin=margin, scale=8.0) for margin in (0.0, 0.2, 0.5)]
  some = LABELS >= 0
  assert all((b > a)[some].all() for a, b in itertools.pairwise(values))


def test_arcface_costs_more_the_farther_a_row_is_from_its_proxy_up_to_the_opposite():
  angles = np.linspace(0, math.pi, 60)
  x = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
  values = np.asarray(call('arcface', np.zeros(60, int), x, np.eye(3)[[0, 2]], scale=8.0))  # the other is as far always
  assert (np.diff(values) > 0).all()


@pytest.mark.parametrize('sign', [1, -1])
def test_arcface_has_a_finite_gradient_where_a_row_coincides_with_its_proxy_or_opposes_it(sign):
  x = sign * PROXIES[:4]
  gradient = jit(jax.grad(lambda x, p: traced('arcface', np.arange(4), x, p).sum(), (0, 1)))(x, PROXIES)
  assert all(np.isfinite(g).all() for g in gradient)


@pytest.mark.parametrize('name', NAMES)
def test_norms_of_both_sides_count_for_nothing(name):
  np.testing.assert_allclose(call(name, x=0.01 * X, proxies=70 * PROXIES), call(name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_instances_without_a_class_count_for_nothing(name):
  known = LABELS >= 0
  values, gradient = jit(jax.value_and_grad(lambda x: traced(name, x=x).sum()))(jnp.asarray(X, jnp.float32))
  assert not gradient[~known].any() and gradient[known].any(1).all()
  np.testing.assert_allclose(values, call(name, LABELS[known], X[known]).sum(), rtol=1e-5)
  nothing = call(name, np.full(9, -1))
  assert not nothing.any()


def test_classes_absent_from_the_batch_enter_only_the_second_term_of_proxy_anchor():
  x, proxies = (losses.unit(jnp.asarray(side, jnp.float32)) for side in (X, PROXIES))
  absent, known = [1, 4], LABELS >= 0

  def second(proxies):
    logits = 32 * (x[known] @ proxies[jnp.asarray(absent)].T + 0.1)
    return jnp.log1p(jnp.exp(logits).sum(0)).sum() / 6

  got = jit(jax.grad(lambda p: traced('proxy_anchor', x=x, proxies=p)))(proxies)[np.asarray(absent)]
  want = jit(jax.grad(lambda p: second(losses.unit(p))))(proxies)[np.asarray(absent)]
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  # The first term is a mean over the four classes that are there, the second over all.
  fewer = call('proxy_anchor', np.asarray([0, 2, 2, -1, 3, 0, 1, -1, 3]), x, proxies[jnp.asarray([0, 2, 3, 5])])
  both = call('proxy_anchor', x=x, proxies=proxies)
  s = x[known] @ proxies.T
  others = np.where(LABELS[known][:, None] == np.arange(6), 0, np.exp(32 * (s + 0.1))).sum(0)
  each = np.log1p(others)
  np.testing.assert_allclose(both - fewer, each.mean() - np.delete(each, absent).mean(), rtol=1e-3, atol=1e-4)


# --- classes split over devices ---


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', NAMES)
def test_with_a_part_of_the_classes_on_each_device_a_label_is_the_number_among_all(name):
  x, proxies = unit_rows(16, 5).astype(np.float32), unit_rows(24, 5, seed=1).astype(np.float32)
  labels = np.random.default_rng(0).integers(-1, 24, 16).astype(np.int32)
  loss, split = getattr(losses, name), jax.sharding.PartitionSpec('data')

  def shard(x, labels, proxies):
    def mean(x, proxies):
      return jax.lax.pmean(loss(x, labels, proxies, fold=losses.ring('data', rows=3, cols=4)).mean(), 'data')

    return jax.value_and_grad(mean, (0, 1))(x, proxies)

  out = (jax.sharding.PartitionSpec(), (split, split))
  mapped = jit(jax.shard_map(shard, mesh=mesh_of(8), in_specs=(split,) * 3, out_specs=out))
  want = jit(jax.value_and_grad(lambda x, p: loss(x, labels, p, fold=losses.dense()).mean(), (0, 1)))(x, proxies)
  for g, w in zip(jax.tree.leaves(mapped(x, labels, proxies)), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(g, w, atol=2e-5 * np.abs(w).max())


def inner(jaxpr):
  """Jaxprs within the equations of one."""
  found = []
  for equation in jaxpr.eqns:
    for value in equation.params.values():
      for each in value if isinstance(value, (tuple, list)) else [value]:
        each = getattr(each, 'jaxpr', each)
        found += [each] if hasattr(each, 'eqns') else []
  return found


@pytest.mark.parametrize('name', NAMES)
def test_a_million_classes_never_meet_a_batch_in_one_array(name):
  x, proxies = (jax.ShapeDtypeStruct((n, 16), jnp.float32) for n in (1024, 2**20))
  labels = jax.ShapeDtypeStruct((1024,), jnp.int32)
  traced = jax.make_jaxpr(jax.grad(lambda x, p, y: getattr(losses, name)(x, y, p).mean(), (0, 1)))(x, proxies, labels)
  largest, pending = 0, [traced.jaxpr]
  while pending:
    jaxpr = pending.pop()
    pending += inner(jaxpr)
    largest = max([largest, *(v.aval.size for e in jaxpr.eqns for v in e.outvars)])
  assert largest <= 2 * proxies.size


# --- refusals ---


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda x, y, p: losses.normface(x, y, p, scale=0.0), 'scale must be > 0, but it is 0.0'),
    (lambda x, y, p: losses.normface(x, y, p, scale='10'), "scale must be a number, but it is the text '10'"),
    (lambda x, y, p: losses.cosface(x, y, p, margin=jnp.ones(9)), r'margin must be a scalar, but it is \[9\]'),
    (lambda x, y, p: losses.proxy_nca(x, y, p, proxy_scale=-1), 'proxy_scale must be > 0, but it is -1'),
    (lambda x, y, p: losses.proxy_anchor(x, y, p, alpha=0), 'alpha must be > 0, but it is 0'),
    (lambda x, y, p: losses.arcface(x, y[:3], p), r'labels must have one entry an instance, \[9\]'),
    (lambda x, y, p: losses.arcface(x, y / 2, p), 'labels must be integers'),
    (lambda x, y, p: losses.normface(x, y, p[:, :4]), r'x must be \[B, D\] and proxies \[M, D\] with one D'),
  ],
)
def test_what_cannot_be_meant_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(X, LABELS, PROXIES)
