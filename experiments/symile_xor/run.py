"""Symile against pairwise CLIP on three binary vectors of which no two tell anything of the third but all three do.

    python -m experiments.symile_xor.run

a and b are vectors of d fair bits; c is a XOR b with probability p and a otherwise. b is to be found among all 2^d
vectors from a and c. It is independent of a, and of c, whatever p: a loss of pairs has nothing to learn. The best that
can be done is p (1 - 2^-d) + 2^-d, by answering a XOR c.

Encoders are linear with a bias, embeddings have unit norm, the temperature is learnt, as in the example of Saporta et
al., 2024, and its repository, rajesh-lab/symile. Prints a table of test accuracies, means and standard deviations over
seeds, and writes it and a figure beside this file. Takes a few minutes on two cores.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from contrastive_jax import losses

HERE = pathlib.Path(__file__).parent
BITS, WIDTH = 5, 16
TRAIN, TEST, BATCH, STEPS = 10_000, 5_000, 256, 250
LEARNING_RATE, LOG_SCALE = 0.1, -0.3
SEEDS = 3
PROBABILITIES = tuple(round(0.1 * tenth, 1) for tenth in range(11))
METHODS = ('symile', 'pairwise_clip')


def triples(key, p, count: int):
  """a, b and c, each [count, BITS] of zeros and ones."""
  of_bits, of_choice = jax.random.split(key)
  a, b = jax.random.bernoulli(of_bits, shape=(2, count, BITS))
  xor = jax.random.bernoulli(of_choice, p, (count, 1))
  return tuple(x.astype(jnp.float32) for x in (a, b, jnp.where(xor, a ^ b, a)))


def every_vector():
  """All 2^BITS vectors, [2^BITS, BITS], in the order of the numbers that they are."""
  return ((jnp.arange(2**BITS)[:, None] >> jnp.arange(BITS)) & 1).astype(jnp.float32)


def init(key):
  """Linear encoders of a, b and c, and the logarithm of the scale of the logits."""
  bound = BITS**-0.5
  encoders = [
    jax.random.uniform(k, shape, minval=-bound, maxval=bound)
    for k, shape in zip(jax.random.split(key, 6), [(BITS, WIDTH)] * 3 + [(WIDTH,)] * 3, strict=True)
  ]
  return {'w': encoders[:3], 'b': encoders[3:], 'log_scale': jnp.float32(LOG_SCALE)}


def embed(params, which: int, x):
  """Unit-norm embeddings of one modality."""
  return losses.unit(x @ params['w'][which] + params['b'][which])


def objective(params, batch, key, method: str):
  """The loss of a batch of triples."""
  reps = [embed(params, which, x) for which, x in enumerate(batch)]
  temperature = jnp.exp(-params['log_scale'])
  if method == 'symile':
    return losses.symile(reps, temperature=temperature, key=key).mean()
  return losses.pairwise_clip(reps, temperature=temperature).mean()


def accuracy(params, batch, method: str):
  """Share of the triples whose b scores highest among all vectors, given a and c."""
  a, b, c = batch
  queries, candidates = [embed(params, 0, a), embed(params, 2, c)], embed(params, 1, every_vector())
  if method == 'symile':
    scores = losses.mip_scores(candidates, queries)
  else:
    scores = sum(losses.mip_scores(candidates, [query]) for query in queries)
  return (scores.argmax(1) == b @ 2.0 ** jnp.arange(BITS)).mean()


@functools.partial(jax.jit, static_argnames='method')
def run(key, p, *, method: str):
  """Trains one model; its accuracy on new triples."""
  of_model, of_train, of_test, of_steps = jax.random.split(key, 4)
  train, optimiser = triples(of_train, p, TRAIN), optax.adamw(LEARNING_RATE, weight_decay=0.01)

  def step(carry, key):
    params, state = carry
    of_batch, of_loss = jax.random.split(key)
    rows = jax.random.choice(of_batch, TRAIN, (BATCH,), replace=False)
    gradient = jax.grad(objective)(params, [x[rows] for x in train], of_loss, method)
    updates, state = optimiser.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  params = init(of_model)
  (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(of_steps, STEPS))
  return accuracy(params, triples(of_test, p, TEST), method)


def best(p):
  """Accuracy of the best possible answer."""
  return p * (1 - 2.0**-BITS) + 2.0**-BITS


def table(found: dict[str, np.ndarray]) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = ['| p | Symile | pairwise CLIP | best possible |', '|--:|--:|--:|--:|']
  for place, p in enumerate(PROBABILITIES):
    cells = [f'{found[m][place].mean():.3f} ± {found[m][place].std(ddof=1):.3f}' for m in METHODS]
    lines.append(f'| {p:.1f} | {cells[0]} | {cells[1]} | {best(p):.3f} |')
  return '\n'.join(lines) + '\n'


def draw(found: dict[str, np.ndarray]):
  """The figure beside this file."""
  figure, axes = plt.subplots(figsize=(5, 3.5), layout='constrained')
  at = np.asarray(PROBABILITIES)
  axes.plot(at, best(at), color='0.6', linestyle='--', label='best possible')
  for method, label in zip(METHODS, ('Symile', 'pairwise CLIP'), strict=True):
    axes.errorbar(at, found[method].mean(1), found[method].std(1, ddof=1), marker='o', capsize=3, label=label)
  axes.axhline(2.0**-BITS, color='0.8', linewidth=1, label='chance')
  axes.set(xlabel='probability that c is a XOR b', ylabel=f'accuracy among {2**BITS} vectors', ylim=(-0.02, 1.02))
  axes.legend()
  figure.savefig(HERE / 'accuracy.png', dpi=150)


def main():
  """The whole study."""
  found = {method: np.zeros((len(PROBABILITIES), SEEDS)) for method in METHODS}
  for method in METHODS:
    for place, p in enumerate(PROBABILITIES):
      for seed in range(SEEDS):
        found[method][place, seed] = run(jax.random.key(seed), p, method=method)
  print(table(found))
  (HERE / 'accuracy.md').write_text(table(found))
  draw(found)


if __name__ == '__main__':
  main()
