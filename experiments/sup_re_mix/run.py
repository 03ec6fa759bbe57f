"""SupReMix: contrast of regression labels with mixtures as hard negatives and positives, on diabetes progression.

    python -m experiments.sup_re_mix.run

Embeds the 442 patients of scikit-learn's diabetes data (10 features; the label is a number of disease progression, here
in steps of 10) by an MLP, trained with SupReMix, without mixtures, with SupCon, or straight at the label; a ridge
regression then reads the label from the embeddings. Writes a table and a figure beside this file. A minute on two CPU
cores.

Source of the claims: Wu et al., 2023, "Mixup Your Own Pairs": order among embeddings, and a smaller error.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV

from contrastive_jax import losses
from contrastive_jax.data import sources
from contrastive_jax.data.source import SPLITS
from contrastive_jax.models import mlp
from experiments import runs

HERE = pathlib.Path(__file__).parent
SEEDS = 10
STEPS, BATCH, LEARNING_RATE, DECAY = 600, 64, 1e-3, 1e-2
NOISE, UNIT, WINDOW = 0.2, 10, 5.0  # views are noisy copies; labels count steps of UNIT
METHODS = {
  'SupReMix': functools.partial(losses.sup_re_mix, window=WINDOW),
  'SupReMix, no mixtures': functools.partial(losses.sup_re_mix, mix_negative=False, mix_positive=False),
  'SupCon': lambda z, labels, key: losses.sup_con(z, labels, temperature=0.3),
  'L1': None,
}
BACKBONE, HEAD = mlp.make(widths=(128, 64)), mlp.make(widths=(16,))
SCORES = {'mae': 'mean absolute error', 'order': 'Spearman of order'}


def data(seed: int):
  """Standardised features and labels of both splits; every seed splits anew."""
  found = []
  for split in SPLITS:
    source = sources.diabetes(split=split, seed=seed)
    rows = source.read(np.arange(source.num_examples))
    found.append(((rows['vector'] - np.array(source.mean)) / np.array(source.std), rows['target'][:, 0]))
  return found


def embed(params, x):
  """Features before the head, which is of unit norm in the losses."""
  return jax.nn.relu(BACKBONE.apply(params['backbone'], {}, x)[0])


def objective(params, x, y, key, method: str):
  """The loss of a batch: of two noisy copies of each row, or of a linear answer."""
  of_views, of_loss = jax.random.split(key)
  views = x + NOISE * jax.random.normal(of_views, (2, *x.shape))
  z = jax.vmap(lambda view: HEAD.apply(params['head'], {}, embed(params, view))[0])(views)
  if METHODS[method] is None:
    return jnp.abs(z[..., 0] - (y - y.mean()) / UNIT).mean()
  return METHODS[method](losses.unit(z), jnp.round(y / UNIT).astype(jnp.int32), key=of_loss).mean()


@functools.partial(jax.jit, static_argnames='method')
def train(key, x, y, *, method: str):
  """Trains one encoder."""
  of_backbone, of_head, of_steps = jax.random.split(key, 3)
  backbone, _ = BACKBONE.init(of_backbone, x[:1])
  head, _ = HEAD.init(of_head, embed({'backbone': backbone}, x[:1]))
  params, optimiser = {'backbone': backbone, 'head': head}, optax.adamw(LEARNING_RATE, weight_decay=DECAY)

  def step(carry, key):
    params, state = carry
    of_rows, of_loss = jax.random.split(key)
    rows = jax.random.choice(of_rows, len(x), (BATCH,), replace=False)
    gradient = jax.grad(objective)(params, x[rows], y[rows], of_loss, method)
    updates, state = optimiser.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(of_steps, STEPS))
  return params


def scores(train_features, test_features, of_train, of_test) -> dict[str, float]:
  """Error of a ridge regression, and how well cosines of new patients fall with the difference of their labels."""
  probe = RidgeCV(np.logspace(-3, 4, 15)).fit(train_features, of_train)
  unit = test_features / np.maximum(np.linalg.norm(test_features, axis=1, keepdims=True), 1e-9)
  pairs = np.triu_indices(len(unit), 1)
  order = spearmanr((unit @ unit.T)[pairs], -np.abs(of_test[:, None] - of_test)[pairs]).statistic
  return {'mae': np.abs(probe.predict(test_features) - of_test).mean(), 'order': order}


def measure(seed: int) -> dict[str, dict[str, float]]:
  """Scores of every method, and of the features themselves, on one split."""
  (x, of_x), (new, of_new) = data(seed)
  found = {'features themselves': scores(x, new, of_x, of_new)}
  for method in METHODS:
    params = train(jax.random.key(seed), jnp.float32(x), jnp.float32(of_x), method=method)
    found[method] = scores(*(np.asarray(embed(params, jnp.float32(each))) for each in (x, new)), of_x, of_new)
  return found


def table(found: list[dict]) -> str:
  """Mean and standard deviation over seeds, as Markdown."""
  lines = ['| trained by | ' + ' | '.join(SCORES.values()) + ' |', '|---|--:|--:|']
  for method in found[0]:
    cells = [
      runs.spread([each[method][key] for each in found], digits) for key, digits in zip(SCORES, (1, 3), strict=True)
    ]
    lines.append(f'| {method} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(found: list[dict]):
  """A panel a score: a dot a seed, a bar at the mean."""
  figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout='constrained')
  for panel, (key, label) in zip(panels, SCORES.items(), strict=True):
    values = np.array([[each[method][key] for method in found[0]] for each in found])
    panel.plot(values.T, 'o', color='C0', alpha=0.3)
    panel.plot(values.mean(0), '_', color='C1', markersize=24, markeredgewidth=2)
    panel.set_xticks(range(values.shape[1]), [m.replace(', ', ',\n') for m in found[0]], fontsize=8)
    panel.set_title(label)
  figure.savefig(HERE / 'sup_re_mix.png', dpi=120)


def main():
  """The whole study."""
  found = [measure(seed) for seed in range(SEEDS)]
  print(table(found))
  (HERE / 'sup_re_mix.md').write_text(table(found))
  draw(found)


if __name__ == '__main__':
  main()
