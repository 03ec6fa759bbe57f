"""What is true of SepCLR, Hydra and AMCL as methods, beside the laws of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from contrastive_jax import losses
from contrastive_jax.engine import resolve
from contrastive_jax.methods import hydra, sep_clr
from contrastive_jax.models import heads
from contrastive_jax.types import Refusal


def method(name: str, **options):
  """The method of a config, and what its first step sees."""
  of = tiny.run(f'ssl/{name}', **options)
  batch = tiny.views(of)(tiny.batches(of, 1)[0], 0)
  params, state = of.method.init(jax.random.key(0), batch)
  return of.method, params, state, batch


def features(of, params, state, batch):
  return of.encode(params, state, batch, key=jax.random.key(1), step=0, train=True)[0]


def value(of, params, state, made, batch):
  return float(of.loss(params, state, made, batch, key=jax.random.key(2), step=0).loss)


# --- SepCLR ---


def test_the_salient_head_of_sep_clr_has_parameters_of_its_own():
  _, params, _, _ = method('sep_clr')
  common, salient = jax.tree.leaves(params['head']), jax.tree.leaves(params['salient'])
  assert [a.shape for a in common] == [b.shape for b in salient]
  assert any((a != b).any() for a, b in zip(common, salient, strict=True))


def test_the_background_of_sep_clr_are_the_labels_that_say_so():
  of, params, state, batch = method('sep_clr')  # digits 0 to 4
  made = features(of, params, state, batch)
  out = of.loss(params, state, made, batch, key=jax.random.key(0), step=0)
  norms, low = np.square(made['salient']).sum(-1).mean(1), np.asarray(batch['label']) < 5
  np.testing.assert_allclose(out.metrics['background_norm'], norms[low].mean(), rtol=1e-5)
  np.testing.assert_allclose(out.metrics['target_norm'], norms[~low].mean(), rtol=1e-5)


@pytest.mark.parametrize('space', sep_clr.SPACES)
def test_evaluators_see_the_space_that_is_asked_for(space):
  of, params, state, batch = method('sep_clr', method__space=space, head__features='12')
  seen, made = of.embed(params, state, batch), features(of, params, state, batch)
  encoder = resolve.build(tiny.config('ssl/sep_clr').encoder, 'encoder')
  h, _ = encoder.apply(params['encoder'], state['stats']['encoder'], batch['view_0'])
  common, salient = losses.unit(made['common'][:, 0]), made['salient'][:, 0]
  wanted = {'encoder': (h, common), 'common': (common, common), 'salient': (salient, losses.unit(salient))}[space]
  for name, want in zip(('features', 'projection'), wanted, strict=True):
    np.testing.assert_allclose(seen[name], want, atol=1e-5)


def test_an_unknown_space_is_refused_with_the_nearest():
  with pytest.raises(Refusal, match="unknown space 'saliant'; did you mean 'salient'"):
    tiny.run('ssl/sep_clr', method__space='saliant')


@pytest.mark.parametrize('background', ['()', '(0, 10)', '(-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)'])
def test_a_background_of_nothing_of_everything_or_of_what_is_not_there_is_refused(background):
  with pytest.raises(Refusal, match=r'some but not all of the labels from -1 \(none\) to 9'):
    tiny.run('ssl/sep_clr', method__background=background)


@pytest.mark.parametrize('setting', ['small', 'fashion_mnist', 'cifar10', 'imagenet', 'tiny'])
def test_no_norm_ends_the_heads_of_sep_clr_and_a_quarter_of_the_classes_at_least_are_on_each_side(setting):
  config = resolve.load(f'{tiny.ROOT}/configs/ssl/sep_clr.py:{setting}')
  assert (config.head.norm_last, config.head.features) == (False, 32)
  share = len(config.method.background) / (1000 if setting == 'imagenet' else 10)
  assert 0.25 <= share <= 0.75


# --- Hydra ---

LABELS = jnp.array([0, 1, 2, 2, -1, 3, 1, 0])


@pytest.mark.parametrize('pairs', hydra.PAIRS)
def test_partners_are_as_their_name_says(pairs):
  found = [hydra.partners(LABELS, jax.random.key(s), pairs=pairs, num_classes=4) for s in range(20)]
  assert all(other[4] == -1 for other in found)
  known = np.asarray(LABELS) >= 0
  differs = np.stack([np.asarray(other != LABELS)[known] for other in found])
  if pairs == 'identical':
    assert not differs.any()
  elif pairs == 'distinct':
    assert differs.all() and all(((other >= 0) & (other < 4))[known].all() for other in found)
  else:
    assert differs.any() and not differs.all()
    everyone = [hydra.partners(jnp.maximum(LABELS, 0), jax.random.key(s), pairs=pairs, num_classes=4) for s in range(5)]
    assert all(sorted(other.tolist()) == sorted(np.maximum(LABELS, 0).tolist()) for other in everyone)


@pytest.mark.parametrize('gate', ['mean', 'product'])
def test_a_gate_is_symmetric_in_its_classes_and_lies_between_0_and_1(gate):
  network = heads.predictor(hidden=8, norm='layer')
  classes = jax.random.normal(jax.random.key(0), (4, 6))
  params, stats = network.init(jax.random.key(1), classes)
  a, b = jnp.array([0, 1, 2, 3]), jnp.array([3, 1, 0, 2])

  def gates(one, two):
    given = {'classes': classes, 'predictor': params}
    return hydra.gates_of(network, given, {'predictor': stats}, one, two, gate=gate, like=classes)[0]

  np.testing.assert_allclose(gates(a, b), gates(b, a), rtol=1e-6)
  assert ((gates(a, b) > 0) & (gates(a, b) < 1)).all()
  assert (gates(a, b) != gates(a, a)).any()


def test_the_probe_of_hydra_gives_the_encoder_no_gradient():
  of, params, state, batch = method('hydra')
  made = features(of, params, state, batch)

  def cost(params, made):
    return of.loss(params, state, made, batch, key=jax.random.key(2), step=0).loss

  of_params, of_features = jax.grad(cost, (0, 1))(params, made)
  assert not np.any(of_features['h']) and np.any(of_features['g'])
  assert np.any(of_params['probe']['kernel']) and np.any(of_params['classes'])


def test_hydra_without_gates_has_none_and_without_classes_is_refused():
  _, params, _, _ = method('hydra', method__gate='none')
  assert 'classes' not in params and 'predictor' not in params
  with pytest.raises(Refusal, match="unknown gate 'meen'; did you mean 'mean'"):
    tiny.run('ssl/hydra', method__gate='meen')


# --- AMCL ---


def test_permuting_the_heads_of_amcl_changes_nothing():
  of, params, state, batch = method('amcl')
  made = features(of, params, state, batch)
  assert made['z'].shape[2] == 3
  turned = jax.tree.map(lambda x: x[:, :, jnp.array([2, 0, 1])], made)
  assert value(of, params, state, turned, batch) == pytest.approx(value(of, params, state, made, batch), rel=1e-6)


def test_the_heads_of_amcl_are_summed_and_have_parameters_of_their_own():
  of, params, state, batch = method('amcl')
  made = features(of, params, state, batch)
  alone = [value(of, params, state, jax.tree.map(lambda x, c=c: x[:, :, [c]], made), batch) for c in range(3)]
  assert value(of, params, state, made, batch) == pytest.approx(sum(alone), rel=1e-5)
  assert len(set(alone)) == 3


def test_at_a_constant_temperature_the_heads_of_amcl_are_those_of_simclr_and_nothing_is_predicted():
  of, params, state, batch = method('amcl', method__temperature='0.3')
  made = features(of, params, state, batch)
  assert 'predictor' not in params and set(made) == {'z'}
  want = sum(float(losses.nt_xent(made['z'][:, :, c].transpose(1, 0, 2), temperature=0.3).mean()) for c in range(3))
  out = of.loss(params, state, made, batch, key=jax.random.key(2), step=0)
  assert float(out.loss) == pytest.approx(want, rel=1e-5)
  assert float(out.metrics['positive_temperature']) == pytest.approx(0.3)


def test_the_temperature_network_of_amcl_learns():
  of, params, state, batch = method('amcl')

  def cost(params):
    return of.loss(params, state, features(of, params, state, batch), batch, key=jax.random.key(2), step=0).loss

  assert all(np.any(leaf) for leaf in jax.tree.leaves(jax.grad(cost)(params)['predictor']))
