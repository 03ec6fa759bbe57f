"""Small views in methods of any number of views: views and small ones are told, views alone tell."""

import functools

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.types import Refusal

SMALL = dict(encoder__name='convnet', encoder__widths='(4,)', head__norm='none', data__num_small_views='2')
# What these compare are maps, pairs or sets of examples, or views that they make themselves.
WITHOUT = {'ssl/beclr', 'ssl/pix_contrast', 'ssl/pix_pro', 'metric/n_pair'}


@functools.cache
def encoded(name: str, **overrides):
  """A run with small views, its fresh state with a queue of unit rows, and the features of the first batch."""
  of = tiny.run(name, **(SMALL | overrides))
  state, (raw,) = tiny.fresh(of), tiny.batches(of, 1)

  @compiling.jit
  def encode(state, raw):
    batch = tiny.views(of)(raw, 0)
    features, _ = of.method.encode(state.params, state.state, batch, key=jax.random.key(0), step=0, train=True)
    return features

  return of, state, raw, encode(state, raw)


def options_of(name: str):
  return tiny.config(name).method


def loss(of, state, raw, features):
  """The method's `Output` at the first step."""
  given = {name: raw[name] for name in ('label', 'index')}
  return of.method.loss(state.params, state.state, features, given, key=jax.random.key(0), step=jnp.int32(0))


def crops(g):
  """Unit-norm outputs, crops first."""
  return jnp.swapaxes(losses.unit(g), 0, 1)


def mean_over(pairs, of_pair):
  return np.mean([np.mean(of_pair(v, w)) for v, w in pairs])


@pytest.mark.parametrize(('name', 'of_views'), [('ssl/simclr', losses.nt_xent), ('ssl/mv_dhel', losses.mv_dhel)])
def test_small_views_are_further_views_of_a_loss_of_any_number_of_views(name, of_views):
  made = encoded(name, method__temperature='0.5')
  g = made[-1]['g']
  assert g.shape[1] == made[0].info.num_views + 2
  np.testing.assert_allclose(loss(*made).loss, of_views(crops(g), temperature=0.5).mean(), rtol=1e-5)


def test_a_loss_of_two_sides_is_the_mean_over_pairs_with_a_view():
  made = encoded('ssl/vicreg')
  g = jnp.swapaxes(made[-1]['g'], 0, 1)
  pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
  want = mean_over(pairs, lambda v, w: losses.vicreg(g[v], g[w]))
  np.testing.assert_allclose(loss(*made).loss, want, rtol=1e-5)
  assert abs(losses.pairwise(losses.vicreg)(g) - want) > 1e-3  # which has the pair of the small ones, too


def test_a_loss_of_two_sides_over_three_views_is_its_pairwise_lift():
  made = encoded('ssl/barlow_twins', data__num_views='3', data__num_small_views='0')
  g = jnp.swapaxes(made[-1]['g'], 0, 1)
  options = dict(off_diagonal_weight=options_of('ssl/barlow_twins').off_diagonal_weight)
  want = losses.pairwise(losses.barlow_twins)(g, **options)
  np.testing.assert_allclose(loss(*made).loss, want, rtol=1e-5)


@pytest.mark.parametrize('name', ['byol', 'simsiam', 'moco_v3'])
def test_every_crop_predicts_the_targets_of_the_other_views(name):
  made = encoded(f'ssl/{name}')
  p, k = crops(made[-1]['prediction']), crops(made[-1]['target'])
  assert (len(p), len(k)) == (4, 2)
  method = options_of(f'ssl/{name}')
  of_sides = losses.normalized_mse
  if name == 'moco_v3':
    of_sides = functools.partial(losses.info_nce, temperature=method.temperature)
  pairs = [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
  want = method.scale * mean_over(pairs, lambda v, w: of_sides(p[v], k[w]))
  np.testing.assert_allclose(loss(*made).loss, want, rtol=1e-5)


def test_every_crop_is_found_by_the_neighbours_of_the_other_views():
  made = encoded('ssl/nnclr', method__queue_size='48')
  p, z, bank = crops(made[-1]['prediction']), crops(made[-1]['projection']), made[1].state['queue'].values
  assert (len(p), len(z)) == (4, 2)
  neighbours = bank[(z @ bank.T).argmax(2)]
  pairs = [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
  of_sides = functools.partial(losses.info_nce, temperature=options_of('ssl/nnclr').temperature)
  np.testing.assert_allclose(loss(*made).loss, mean_over(pairs, lambda v, w: of_sides(neighbours[w], p[v])), rtol=1e-5)


@pytest.mark.parametrize('views', [2, 3])
def test_all_crops_but_the_second_view_are_queries_for_its_key(views):
  made = encoded('ssl/moco_v2', method__queue_size='48', data__num_views=str(views))
  q, k, before = crops(made[-1]['query']), losses.unit(made[-1]['key']), made[1].state['queue']
  assert len(q) == views + 1 and k.ndim == 2
  options = dict(temperature=options_of('ssl/moco_v2').temperature)
  want = np.mean([losses.queue_nce(each, k, before.values, **options) for each in q])
  out = loss(*made)
  np.testing.assert_allclose(out.loss, want, rtol=1e-5)
  np.testing.assert_allclose(out.state['queue'].values, jnp.concatenate([k, before.values[len(k) :]]), rtol=1e-5)


def test_queries_of_small_views_have_the_class_of_their_example():
  made = encoded('ssl/sbcl_moco', method__queue_size='48')
  q, k = crops(made[-1]['query']), losses.unit(made[-1]['key'])
  label, bank = made[2]['label'], made[1].state['queue']
  bank = bank._replace(labels={'class': jnp.arange(48) % 10, 'subclass': jnp.arange(48) % 20})
  given = made[1]._replace(state={**made[1].state, 'queue': bank})
  of_class = bank.labels['class']
  options = dict(temperature=options_of('ssl/sbcl_moco').temperature, beta=0.0)
  want = np.mean([losses.sbcl_queue(x, k, bank.values, label, label, of_class, of_class, **options) for x in q])
  np.testing.assert_allclose(loss(made[0], given, *made[2:]).loss, want, rtol=1e-5)


@pytest.mark.turns(4)
@pytest.mark.parametrize('name', tiny.OF_IMAGES)
def test_a_method_of_images_takes_small_views_or_says_that_it_does_not(name):
  if name in WITHOUT:
    with pytest.raises(Refusal, match=r'no use for small views, but config\.data\.num_small_views=1'):
      tiny.run(name, data__num_small_views='1').check()
    return
  tiny.run(name, **SMALL | dict(data__num_small_views='1')).check()


@pytest.mark.parametrize('name', ['metric/sirl', 'metric/sup_re_mix', 'series/auto_tcl'])
def test_small_views_of_what_are_no_images_are_refused(name):
  with pytest.raises(Refusal, match=r'small views are of images, but the views of these data are \[\d+(, \d+)?\]'):
    tiny.run(name, data__num_small_views='1').check()


def test_the_likeness_of_views_is_no_matter_of_small_ones():
  for name in ('ssl/simclr', 'ssl/sup_con', 'ssl/sog_clr'):
    made = encoded(name)
    z = crops(made[-1]['g'])
    np.testing.assert_allclose(loss(*made).metrics['positive_similarity'], (z[0] * z[1]).sum(1).mean(), rtol=1e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', ['ssl/byol', 'ssl/moco_v2', 'ssl/nnclr', 'ssl/vicreg'])
def test_with_small_views_micro_batches_on_eight_devices_have_the_gradient_of_one_device(name):
  options = SMALL | ({'predictor__norm': 'none'} if 'predictor' in tiny.config(name) else {})
  one, eight = (tiny.run(name, devices=devices, **options) for devices in (1, 8))
  state, (raw,), (there,) = tiny.fresh(one), tiny.batches(one, 1), tiny.batches(eight, 1)
  want, gradients = jax.device_get(tiny.gradients(name, **options)(state, raw))
  out, found = jax.device_get(tiny.cached(eight, 8)(tiny.place(state, eight), there))
  np.testing.assert_allclose(out.loss, want.loss, rtol=1e-5)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
  assert tiny.distance(found, gradients, floor=0.05 * largest) < 1e-5
