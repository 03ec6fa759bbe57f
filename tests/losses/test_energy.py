"""What is true of the energy of instances alone."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import losses


def test_instance_energy_equals_its_equation():
  z = losses.unit(jax.random.normal(jax.random.key(0), (3, 5, 4)))
  s = np.einsum('vid,wjd->viwj', np.float64(z), np.float64(z)) / 0.7
  want = np.zeros((3, 5))
  for a, i in np.ndindex(3, 5):
    want[a, i] = np.log(np.mean([np.exp(s[a, i, w, j]) for w in range(3) for j in range(5) if j != i]))
  np.testing.assert_allclose(losses.instance_energy(z, temperature=0.7), want, rtol=1e-5)


def test_energy_is_zero_of_orthogonal_instances_and_one_over_the_temperature_at_collapse():
  apart = jnp.broadcast_to(jnp.eye(6), (2, 6, 6))  # both views of an instance alike
  np.testing.assert_allclose(losses.instance_energy(apart), np.zeros((2, 6)), atol=1e-6)
  together = jnp.broadcast_to(jnp.eye(6)[0], (2, 6, 6))
  np.testing.assert_allclose(losses.instance_energy(together, temperature=2.0), np.full((2, 6), 0.5), rtol=1e-5)


def test_a_single_instance_has_no_energy():
  np.testing.assert_array_equal(losses.instance_energy(jnp.ones((2, 1, 1))), np.zeros((2, 1)))
