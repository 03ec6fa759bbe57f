"""The network of AutoTCL that learns an augmentation."""

import compiling
import jax
import numpy as np
import pytest

from contrastive_jax.models import augmenter
from contrastive_jax.types import Refusal

X = np.float32(np.random.default_rng(0).standard_normal((3, 20, 2)))


def test_every_step_and_feature_has_a_logit_of_its_mask_and_one_of_its_factor():
  network = augmenter.of_series(width=4, depth=1)
  params, stats = network.init(jax.random.key(0), X)
  for steps in (20, 7):
    logits, _ = jax.eval_shape(network.apply, params, stats, X[:, :steps])
    assert logits.shape == (3, steps, 4)
  # Two blocks of two convolutions of three steps, one and two apart.
  slope = compiling.jit(jax.grad(lambda x: network.apply(params, stats, x)[0][0, 10].sum()))(X)
  np.testing.assert_array_equal(np.flatnonzero(np.abs(slope[0]).sum(-1)), np.arange(4, 17))
  assert not slope[1:].any()


def test_impossible_sizes_are_refused():
  with pytest.raises(Refusal, match='augmenter_width'):
    augmenter.of_series(width=0)
