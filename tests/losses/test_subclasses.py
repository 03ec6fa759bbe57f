"""What is true of the subclass-balancing losses alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses

LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, -1, 0], np.int32)
SUBCLASSES = np.array([0, 0, 1, 1, 2, 3, 3, 4, 5, -1, 0], np.int32)


def rows(v=2, b=11, d=6, seed=0):
  return losses.unit(jax.random.normal(jax.random.key(seed), (v, b, d)))


def term(s, positives, candidates):
  """Minus the mean log-probability of the positives among the candidates."""
  if not positives:
    return 0.0
  return np.log(sum(np.exp(s[c]) for c in candidates)) - np.mean([s[p] for p in positives])


def by_loops(z, labels, subclasses, tau, class_tau, beta, own_views):
  v, b, _ = z.shape
  s = np.einsum('vid,wjd->viwj', z, z)
  values = np.zeros((v, b))
  for a, i in np.ndindex(v, b):
    others = [(w, j) for w in range(v) for j in range(b) if (w, j) != (a, i)]
    same = [(w, j) for w, j in others if subclasses[j] == subclasses[i] >= 0]
    rest = [(w, j) for w, j in others if (w, j) not in same or (own_views and j == i)]
    of_class = [(w, j) for w, j in rest if labels[j] == labels[i] >= 0]
    first = term(s[a, i] / tau, same, others)
    values[a, i] = first + beta * term(s[a, i] / class_tau[i], of_class, rest)
  return values


@pytest.mark.parametrize('own_views', [True, False])
@pytest.mark.parametrize('views', [1, 2, 3])
def test_sbcl_equals_its_equation(views, own_views):
  z, class_tau = rows(views), np.linspace(0.1, 0.6, len(LABELS))
  options = dict(temperature=0.2, class_temperature=jnp.asarray(class_tau), beta=0.3, own_views=own_views)
  found = losses.sbcl(z, LABELS, SUBCLASSES, **options)
  want = by_loops(np.float64(z), LABELS, SUBCLASSES, 0.2, class_tau, 0.3, own_views)
  np.testing.assert_allclose(found, want, rtol=2e-5, atol=1e-6)


def test_one_subclass_a_class_and_no_second_term_is_supcon():
  z = rows()
  want = losses.sup_con(z, LABELS, temperature=0.2)
  np.testing.assert_allclose(losses.sbcl(z, LABELS, LABELS, temperature=0.2, beta=0.0), want, rtol=1e-6)
  # In the paper's formula a class of one subclass has nothing left for its second term.
  found = losses.sbcl(z, LABELS, LABELS, temperature=0.2, beta=7.0, own_views=False)
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_a_subclass_of_each_instance_and_no_second_term_is_nt_xent():
  z = rows(3)
  found = losses.sbcl(z, LABELS, np.arange(len(LABELS)), temperature=0.2, beta=0.0)
  np.testing.assert_allclose(found, losses.nt_xent(z, temperature=0.2), rtol=1e-6)


def test_a_subclass_of_each_instance_leaves_supcon_at_the_other_temperature_in_the_second_term():
  z, own = rows(), np.arange(len(LABELS), dtype=np.int32)
  with_term, without = (losses.sbcl(z, LABELS, own, class_temperature=0.3, beta=beta) for beta in (1.0, 0.0))
  np.testing.assert_allclose(with_term - without, losses.sup_con(z, LABELS, temperature=0.3), rtol=1e-4, atol=1e-5)


def test_the_base_temperature_scales_the_first_term_alone():
  z = rows()
  first = losses.sbcl(z, LABELS, SUBCLASSES, beta=0.0)
  second = losses.sbcl(z, LABELS, SUBCLASSES, beta=0.25) - first
  found = losses.sbcl(z, LABELS, SUBCLASSES, beta=0.25, base_temperature=0.07)
  np.testing.assert_allclose(found, first * 0.1 / 0.07 + second, rtol=1e-5)


def queue_by_loops(x, y, queue, of_x, of_queue, tau, class_tau, beta):
  values = []
  for i in range(len(x)):
    s = np.concatenate([[x[i] @ y[i]], queue @ x[i]])
    label, subclass = (np.concatenate([[-2], each]) for each in of_queue)
    same = [j for j in range(len(s)) if j == 0 or subclass[j] == of_x[1][i] >= 0]
    rest = [j for j in range(len(s)) if j == 0 or j not in same]
    of_class = [j for j in rest if j == 0 or label[j] == of_x[0][i] >= 0]
    values.append(term(s / tau, same, range(len(s))) + beta * term(s / class_tau, of_class, rest))
  return values


def test_the_form_of_a_queue_equals_its_equation():
  x, y = rows()
  queue = rows(1, 23, seed=1)[0]
  random = np.random.default_rng(0)
  labels = random.integers(-1, 3, 23).astype(np.int32)
  subclasses = np.where(labels < 0, -1, 2 * labels + random.integers(2, size=23)).astype(np.int32)
  found = losses.sbcl_queue(x, y, queue, LABELS, SUBCLASSES, labels, subclasses, class_temperature=0.3)
  arrays = (np.float64(each) for each in (x, y, queue))
  want = queue_by_loops(*arrays, (LABELS, SUBCLASSES), (labels, subclasses), 0.07, 0.3, 0.2)
  np.testing.assert_allclose(found, want, rtol=2e-5)


def test_the_form_of_a_queue_without_labels_is_that_of_moco_in_both_terms():
  x, y = rows()
  queue = rows(1, 23, seed=1)[0]
  none, of_queue = np.full(len(LABELS), -1, np.int32), np.full(23, -1, np.int32)
  found = losses.sbcl_queue(x, y, queue, none, none, of_queue, of_queue, beta=0.5)
  want = losses.queue_nce(x, y, queue, temperature=0.07) + 0.5 * losses.queue_nce(x, y, queue, temperature=0.12)
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_what_makes_no_sense_is_refused():
  for options, message in ((dict(beta=-1.0), 'beta'), (dict(base_temperature=0.0), 'base_temperature')):
    with pytest.raises(ValueError, match=message):
      losses.sbcl(rows(), LABELS, SUBCLASSES, **options)
  with pytest.raises(ValueError, match='subclasses must have one entry'):
    losses.sbcl(rows(), LABELS, SUBCLASSES[:3])
