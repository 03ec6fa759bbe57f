"""What keeps SimSiam, SwAV and DINO from collapsing: with it small networks on digits do not, without it they do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compiling import jit
from sklearn.datasets import load_digits

from contrastive_jax import losses

DIGITS = np.float32(load_digits().data[:512] / 8 - 1)
WIDTH, PROTOTYPES = 16, 10
SEEDS = 3


def network(key, *widths):
  keys = jax.random.split(key, len(widths) - 1)
  return [jax.random.normal(k, (a, b)) * (2 / a) ** 0.5 for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)]


def applied(kernels, x, *, batch_norm=False):
  """A perceptron; batch norm only in the hidden layers leaves its output free to collapse."""
  for kernel in kernels[:-1]:
    x = x @ kernel
    x = jax.nn.relu((x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + 1e-5) if batch_norm else x)
  return x @ kernels[-1]


def with_prototypes(key):
  return {'encoder': network(key, 64, 32, WIDTH), 'prototypes': jax.random.normal(key, (PROTOTYPES, WIDTH))}


def cosines(params, views):
  """Of each view of each instance with each prototype."""
  z = jnp.stack([applied(params['encoder'], x) for x in views])
  return losses.unit(z) @ losses.unit(params['prototypes']).T


def perplexity(q):
  """How many outputs a distribution uses."""
  return jnp.exp(-(q * jnp.log(q + 1e-12)).sum(-1))


def after_training(init, loss, choices, *, steps, rate):
  """What `loss(params, state, views, choice) -> value, (state, measured)` measured last, `[choices, seeds, ...]`."""
  optimiser = optax.sgd(rate, momentum=0.9)

  def step(choice, carry, key):
    params, state, moments = carry
    of_rows, of_noise = jax.random.split(key)
    rows = jnp.asarray(DIGITS)[jax.random.choice(of_rows, len(DIGITS), (64,))]
    views = rows + 0.5 * jax.random.normal(of_noise, (2, *rows.shape))
    gradient, (state, measured) = jax.grad(loss, has_aux=True)(params, state, views, choice)
    updates, moments = optimiser.update(gradient, moments, params)
    return (optax.apply_updates(params, updates), state, moments), measured

  def last(seed, choice):
    of_params, of_steps = jax.random.split(jax.random.key(seed))
    params, state = init(of_params)
    keys, carry = jax.random.split(of_steps, steps), (params, state, optimiser.init(params))
    return jax.lax.scan(lambda carry, key: step(choice, carry, key), carry, keys)[1][-1]

  every = jax.vmap(jax.vmap(last, (0, None)), (None, 0))
  return np.asarray(jit(every)(jnp.arange(SEEDS), jnp.asarray(choices)))


def test_without_the_stopped_gradient_simsiam_collapses_and_with_it_it_does_not():
  def init(key):
    return {'encoder': network(key, 64, 32, WIDTH), 'predictor': network(key, WIDTH, 8, WIDTH)}, ()

  def loss(params, state, views, stopped):
    z = [applied(params['encoder'], x, batch_norm=True) for x in views]
    p = [applied(params['predictor'], x, batch_norm=True) for x in z]
    targets = [jnp.where(stopped, jax.lax.stop_gradient(x), x) for x in z]
    value = losses.normalized_mse(p[0], targets[1]) + losses.normalized_mse(p[1], targets[0])
    return value.mean() / 4, (state, losses.unit(z[0]).std(0).mean() * WIDTH**0.5)

  # The standard deviation of unit-norm embeddings, times the root of their width: near 1 where they are spread.
  stopped, free = after_training(init, loss, [True, False], steps=100, rate=0.5)
  assert (stopped > 0.8).all() and (free < 0.25).all()


def test_codes_that_are_not_balanced_collapse_to_one_prototype_and_those_of_sinkhorn_use_most():
  def init(key):
    return with_prototypes(key), ()

  def loss(params, state, views, balanced):
    scores = cosines(params, views)
    codes = jnp.stack([jnp.where(balanced, losses.sinkhorn(s), jax.nn.softmax(s / 0.05)) for s in scores])
    chosen = jax.nn.one_hot(scores.argmax(-1), PROTOTYPES).mean((0, 1))
    return losses.swapped_prediction(scores, codes).mean(), (state, perplexity(chosen))

  balanced, free = after_training(init, loss, [True, False], steps=100, rate=0.1)
  assert (balanced > 0.7 * PROTOTYPES).all() and (free < 1.01).all()


def test_dino_without_centring_says_one_output_of_all_and_without_sharpening_all_outputs_alike():
  def init(key):
    params = with_prototypes(key)
    return params, (params, jnp.zeros(PROTOTYPES))

  def loss(params, state, views, choice):
    centred, temperature = choice
    teacher = optax.incremental_update(params, state[0], 0.1)
    centre, outputs = centred * state[1], cosines(teacher, views)
    value = losses.dino(cosines(params, views), outputs, centre, teacher_temperature=temperature)
    q = losses.dino_targets(outputs, centre)  # of one temperature, whatever that of the training
    measured = jnp.stack([perplexity(q.mean((0, 1))), perplexity(q).mean()])
    return value.mean(), ((teacher, losses.dino_centre(centre, outputs)), measured)

  # How many outputs the teacher uses for all instances together, and how many for each.
  choices = [(1.0, 0.04), (0.0, 0.04), (1.0, 0.2)]
  both, sharpened, centred = after_training(init, loss, choices, steps=150, rate=0.1)
  assert (both[:, 0] > 4).all() and (both[:, 1] < 2).all()
  assert (sharpened < 1.01).all()
  assert (centred > 0.95 * PROTOTYPES).all()
