"""Teachers: how fast they follow."""

import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.memory import ema
from contrastive_jax.types import Refusal


def test_the_momentum_rises_from_its_first_value_to_one_along_half_a_cosine():
  got = [float(ema.cosine_momentum(0.9, step, 100)) for step in (0, 50, 100)]
  np.testing.assert_allclose(got, [0.9, 0.95, 1.0], rtol=1e-6)


@pytest.mark.parametrize(('momentum', 'want'), [(1.0, 1.0), (0.0, 5.0), (0.75, 2.0)])
def test_a_teacher_follows_what_it_has_of_its_student(momentum, want):
  student = {'encoder': {'w': jnp.full(3, 5.0)}, 'predictor': {'w': jnp.zeros(2)}}
  followed = ema.follow({'encoder': {'w': jnp.ones(3)}}, student, momentum)
  assert set(followed) == {'encoder'}
  np.testing.assert_allclose(followed['encoder']['w'], np.full(3, want))


@pytest.mark.parametrize('momentum', [-0.1, 1.5])
def test_a_momentum_that_is_no_share_is_refused(momentum):
  with pytest.raises(Refusal, match=f'momentum must be from 0 to 1, but it is {momentum}'):
    ema.check_momentum(momentum)
