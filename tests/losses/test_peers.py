"""Losses and their gradients equal those of lightly and open_clip, on stored inputs."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_close
from compiling import jit

from contrastive_jax import losses

PEERS = json.loads(pathlib.Path(__file__).with_name('peers_lightly.json').read_text())
GIVEN = {k: np.asarray(v, np.float32) for k, v in PEERS['inputs'].items()}
EXPECTED = {k: {kind: np.asarray(v) for kind, v in each.items()} for k, each in PEERS['expected'].items()}
SCALE, BIAS = (float(v) for v in PEERS['inputs']['logits'])


def unit(x):
  return losses.unit(jnp.asarray(x))


def of_two(name, **options):
  """The mean of a loss of two sides of unit norm, as a function of views."""
  loss = functools.partial(getattr(losses, name), **options)
  return lambda h: loss(unit(h[0]), unit(h[1])).mean()


def of_views(name, **options):
  loss = functools.partial(getattr(losses, name), **options)
  return lambda h: loss(unit(h)).mean()


def of_features(name, **options):
  """As `of_two`, of features that keep their norms."""
  loss = functools.partial(getattr(losses, name), **options)
  return lambda h: loss(h[0], h[1])


def codes(crops):
  return jnp.stack([losses.sinkhorn(crop, eps=0.1) for crop in crops[:2]])


def codes_with_queue(crops):
  both = [jnp.concatenate(pair) for pair in zip(crops[:2], GIVEN['stored'], strict=True)]
  return jnp.stack([losses.sinkhorn(rows, eps=0.1)[: crops.shape[1]] for rows in both])


def swav(crops, assign):
  return losses.swapped_prediction(crops, assign(jax.lax.stop_gradient(crops)), temperature=0.15).mean()


def dino(crops):
  options = dict(student_temperature=0.1, teacher_temperature=0.06)
  return losses.dino(crops, GIVEN['teacher'], GIVEN['centre'], **options).mean()


def mmcr(h):
  """Theirs weighs the views' nuclear norms by their sum over instances divided by B, as ours."""
  return losses.mmcr(unit(h), weight=0.3)


# Ours, as functions of the same array, in the options in which both agree.
OURS = {
  'nt_xent': ('views', of_views('nt_xent', temperature=0.2)),
  'dcl': ('views', of_views('decoupled', temperature=0.2)),
  'dclw': ('views', of_views('decoupled', temperature=0.2, sigma=0.4)),
  'barlow_twins': ('views', of_features('barlow_twins', off_diagonal_weight=0.02)),
  'vicreg': ('views', of_features('vicreg', invariance=20.0, variance=15.0, covariance=2.0)),
  # BYOL's and SimSiam's: the squared distance of unit vectors is 2 + 2 times their negative cosine.
  'negative_cosine': ('views', lambda h: of_two('normalized_mse')(h) / 2 - 1),
  'align_uniform': ('views', of_views('align_uniform', uniform_weight=0.7, exponent=3.0, t=1.5)),
  'w_mse': ('views', lambda h: losses.w_mse(h, np.arange(10)[None], eps=0.1)),
  'mmcr': ('views', mmcr),
  'mmcr of four': ('four', mmcr),
  'clip': ('views', of_two('symmetric_info_nce', temperature=1 / SCALE)),
  'siglip': ('views', of_two('sigmoid', temperature=1 / SCALE, bias=BIAS)),
  'swav': ('crops', lambda crops: swav(crops, codes)),
  'swav with a queue': ('crops', lambda crops: swav(crops, codes_with_queue)),
  'dino': ('crops', dino),
}


@functools.cache
def compiled(name: str):
  return jit(jax.value_and_grad(OURS[name][1]))


@pytest.mark.turns(2)
@pytest.mark.parametrize('name', OURS)
def test_values_and_gradients_equal_those_of_lightly_and_open_clip(name):
  want = EXPECTED[name]
  assert_close(compiled(name)(GIVEN[OURS[name][0]]), (want['value'], want['gradient']))


def test_moco_with_a_queue_equals_nt_xent_of_lightly_with_a_memory_bank():
  x, y = GIVEN['views']
  queue, want = unit(GIVEN['queue']), EXPECTED['queue']
  loss = jax.value_and_grad(lambda x: losses.queue_nce(unit(x), unit(y), queue, temperature=0.2).mean())
  assert_close(loss(x), (want['value'], want['gradient'][0]))


def test_codes_equal_those_of_lightly():
  assert_close(losses.sinkhorn(GIVEN['crops'][0], eps=0.05, iterations=3), EXPECTED['sinkhorn']['value'])


def test_the_centre_of_dino_moves_as_that_of_lightly():
  got = losses.dino_centre(GIVEN['centre'], GIVEN['teacher'], momentum=0.8)
  assert_close(got, EXPECTED['dino']['centre'])
