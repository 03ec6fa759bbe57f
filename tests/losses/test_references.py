"""Every loss and its gradient equal brute force over explicit pairs, in float32 and in float64."""

import functools
import pathlib
from typing import NamedTuple

import autograd
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from compiling import jit

from contrastive_jax import losses


class Case(NamedTuple):
  """One comparison: what gradients are taken of, and what else is given."""

  name: str
  learnable: dict
  given: dict


def unit_rows(*shape, seed=0):
  rows = np.random.default_rng([seed, *shape]).normal(size=shape)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def per(*shape):
  """Temperatures, one per anchor."""
  return np.random.default_rng(shape).uniform(0.2, 0.6, shape)


def sides(b, m):
  """Ids with several positives, with none and with -1, and masks."""
  random = np.random.default_rng([b, m])
  ids = dict(x_id=random.integers(-1, 4, b), y_id=random.integers(-1, 4, m))
  masks = dict(x_mask=random.random(b) < 0.8, y_mask=random.random(m) < 0.8)
  assert -1 in ids['x_id'] and not masks['x_mask'].all() and not masks['y_mask'].all()
  return {k: v.astype(np.int32) for k, v in ids.items()}, masks


def multi_view(views, b) -> dict[str, Case]:
  z = unit_rows(views, b, 5)
  labels = np.random.default_rng(b).integers(-1, 3, b).astype(np.int32)
  scalar, each = dict(z=z, temperature=0.3), dict(z=z, temperature=per(b) if views == 2 else per(views, b))
  spread = Case('align_uniform', dict(z=z, t=2.5), dict(align_weight=2.0, exponent=3))
  cases = {
    'mv_info_nce': Case('mv_info_nce', scalar, {}),
    'mv_info_nce across views': Case('mv_info_nce', scalar, dict(include_same_view=False)),
    'mv_dhel': Case('mv_dhel', scalar, {}),
  }
  cases |= hardness(views, z) | {
    f'poly_view {k}': Case('poly_view', scalar if k == 'sufficient' else each, dict(aggregate=k))
    for k in ('geometric', 'arithmetic', 'sufficient')
  }
  if views == 2:
    cases['DCLW'] = Case('decoupled', scalar, dict(sigma=0.5))
  if views == 5:
    cases |= {k: Case(k, scalar, {}) for k in ('nt_xent', 'decoupled')}
    return cases | {'align_uniform': spread, 'sup_con': Case('sup_con', scalar, dict(labels=labels))}
  cases |= {f'{k} per anchor': Case(k, each, {}) for k in ('nt_xent', 'decoupled')}
  return cases | {'sup_con per anchor': Case('sup_con', each, dict(labels=labels))}


def hardness(views, z) -> dict[str, Case]:
  """Losses that choose or weigh negatives, with some corrections at their floor and some above."""
  cases = {
    'hard_nce': Case('hard_nce', dict(z=z, temperature=0.3), dict(alpha=0.4)),
    'hardness_nce': Case('hardness_nce', dict(z=z, temperature=0.5, beta=1.5), dict(tau_plus=0.1)),
  }
  if views == 3:
    cases['poly_view rest'] = Case(
      'poly_view', dict(z=z, temperature=0.3), dict(aggregate='sufficient', normalize_rest=True)
    )
    cases['simple_contrastive'] = Case('simple_contrastive', dict(z=z, weight=1.2), dict(alpha=0.4))
  if views == 2:
    cases['debiased'] = Case('hardness_nce', dict(z=z, temperature=0.5, beta=0.0), dict(tau_plus=0.2))
    cases['simple_contrastive of all'] = Case('simple_contrastive', dict(z=z, weight=1.2), {})
  return cases


def kernels(x, y) -> dict[str, Case]:
  """Losses whose negatives are of the anchor's own view."""
  scalar, weights = dict(x=x, y=y, temperature=0.3), dict(x=x, y=y, parameter=1.7, energy_weight=3.0)
  cases = {'dhel': Case('dhel', scalar, {}), 'dhel of one view': Case('dhel', scalar, dict(both_views=False))}
  names = ('gaussian', 'inverse_multiquadric', 'riesz', 'logarithmic')
  return cases | {f'kcl {k}': Case('kcl', weights, dict(kernel=k)) for k in names}


def captioned(b) -> dict[str, Case]:
  """Losses of images with several captions; of some there are none."""
  x, y = unit_rows(b, 5), unit_rows(b, 5, seed=1)
  t, negatives = dict(x=x, t=unit_rows(b, 3, 5), temperature=0.3), dict(x=x, y=y, negatives=unit_rows(b, 2, 5))
  ids, masks = sides(b, b)
  mask = np.random.default_rng(b).random((b, 3)) < 0.6
  mask[0] = False
  smoothed = dict(label_smoothing=0.2)
  return {
    'one_to_k': Case('one_to_k', t, {}),
    'one_to_k of some captions': Case('one_to_k', t, dict(mask=mask)),
    'one_to_k balanced': Case('one_to_k', t, dict(mask=mask, balanced=True)),
    'one_to_k divided by 2': Case('one_to_k', t, dict(mask=mask, divide_by=2.0)),
    'neg_clip': Case('neg_clip', negatives | dict(temperature=0.3), {}),
    'neg_clip ids and masks': Case(
      'neg_clip', negatives | dict(temperature=0.3), ids | masks | dict(negatives_mask=mask[:, :2])
    ),
    'info_nce smoothed': Case('info_nce', dict(x=x, y=y, temperature=per(b)), smoothed | masks),
    'info_nce_both smoothed': Case('info_nce_both', dict(x=x, y=y, temperature=0.3), smoothed | ids | masks),
    'ALIGN': Case('symmetric_info_nce', dict(x=x, y=y, temperature=0.3), smoothed),
  }


def two_sided(b, m) -> dict[str, Case]:
  x, y = unit_rows(b, 5), unit_rows(m, 5, seed=1)
  ids, masks = sides(b, m)
  scalar, each = dict(x=x, y=y, temperature=0.3), dict(x=x, y=y, temperature=per(b))
  names = ['info_nce', 'info_nce_both', 'sigmoid'] + ['symmetric_info_nce'] * (b == m)
  learnable = dict.fromkeys(names, scalar) | dict(sigmoid=scalar | dict(bias=-2.0))
  cases = {f'{k} ids and masks': Case(k, learnable[k], ids | masks) for k in names}
  if b < m:
    cases['info_nce per anchor'] = Case('info_nce', each, {})
    cases['info_nce per anchor, masks'] = Case('info_nce', each, masks)
    cases['info_nce per anchor, ids of x'] = Case('info_nce', each, dict(x_id=ids['x_id']))
    cases['sigmoid per anchor, ids'] = Case('sigmoid', each | dict(bias=-2.0), ids)
  if b == m:
    cases |= {k: Case(k, learnable[k], {}) for k in names} | kernels(x, y)
    with_queue = dict(x=x, y=y, queue=unit_rows(9, 5, seed=2), temperature=0.3)
    cases['queue_nce'] = Case('queue_nce', with_queue, {})
    cases['queue_nce, decoupled'] = Case('queue_nce', with_queue, dict(include_positive=False))
    cases['alignment'] = Case('alignment', dict(x=x, y=y), {})
    cases['alignment of exponent 1'] = Case('alignment', dict(x=x, y=y), dict(exponent=1))
    cases['uniformity'] = Case('uniformity', dict(x=x, t=2.0), {})
  return cases


CASES = {f'{name}, V={v}, B={b}': c for v, b in ((2, 7), (3, 13), (5, 7)) for name, c in multi_view(v, b).items()}
CASES |= {f'{name}, B={b}, M={m}': c for b, m in ((7, 7), (7, 13), (13, 7)) for name, c in two_sided(b, m).items()}
CASES |= {f'{name}, B=7': c for name, c in captioned(7).items()}


def leaves(values):
  return list(values) if isinstance(values, tuple) else [values]


def weighted(values, numpy):
  """A scalar whose gradient tells the anchors apart."""
  return sum(numpy.sum(v * (1 + np.arange(np.size(v)).reshape(np.shape(v)) / 7)) for v in leaves(values))


def rounded(case: Case) -> dict:
  """The inputs that float32 can hold, so that both precisions and the reference see the same."""
  return {k: np.asarray(v, np.float32).astype(np.float64) for k, v in case.learnable.items()}


@functools.cache
def by_reference(key: str):
  """Values and gradient in float64."""
  case = CASES[key]

  def function(learnable):
    return getattr(references, case.name)(**learnable, **case.given)

  learnable = rounded(case)
  return leaves(function(learnable)), autograd.grad(lambda a: weighted(function(a), autograd.numpy))(learnable)


def by_loss(case: Case, dtype, fold):
  """Values and gradient by the package."""
  fold = {} if case.name == 'alignment' else dict(fold=fold)

  def total(learnable):
    values = getattr(losses, case.name)(**learnable, **case.given, **fold)
    return weighted(values, jnp), leaves(values)

  learnable = {k: jnp.asarray(v, dtype) for k, v in rounded(case).items()}
  gradient, values = jit(jax.grad(total, has_aux=True))(learnable)
  assert all(v.dtype == dtype for v in jax.tree.leaves((values, gradient)))
  return values, gradient


def assert_relative(got, want, tolerance):
  """Equal up to the tolerance, relative to the largest entry of each array."""
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert np.shape(g) == np.shape(w)
    assert np.abs(g - w).max() <= tolerance * np.abs(w).max()


@pytest.mark.turns(6)
@pytest.mark.parametrize('key', CASES)
def test_float32_values_and_gradients_equal_brute_force(key):
  assert_relative(by_loss(CASES[key], jnp.float32, losses.dense()), by_reference(key), 1e-5)


ONCE = {(case.name, 'sigma' in case.given, 'label_smoothing' in case.given): key for key, case in CASES.items()}
IN_TILES = {'info_nce_both', 'nt_xent', 'sigmoid', 'sup_con'}  # compiling tiles takes time; they are the same for all


@pytest.mark.turns(4)
@pytest.mark.parametrize('key', ONCE.values())
def test_float64_values_and_gradients_equal_brute_force(key):
  fold = losses.chunked(3, 4) if CASES[key].name in IN_TILES else losses.dense()
  with jax.enable_x64(True):
    assert_relative(by_loss(CASES[key], jnp.float64, fold), by_reference(key), 1e-10)


@pytest.mark.parametrize('name', losses.PAIRWISE)
def test_every_pairwise_loss_is_held_to_a_reference_here_or_in_a_test_of_its_own(name):
  module = getattr(losses, name).__module__.rpartition('.')[2]
  own = [pathlib.Path(__file__).with_name(f'test_{each}.py') for each in (name, module)]
  texts = [path.read_text() for path in own if path.exists()]
  assert name in {case.name for case in CASES.values()} or any(f'losses.{name}(' in text for text in texts)
