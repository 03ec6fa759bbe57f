"""What each of several processes does to check every loss on the mesh of all: `test_processes.py` starts it.

Every sixteenth loss meets one fold and one set of options, which take turns, plain and by micro-batches; with the
argument `all`, all meet every one.
"""

import itertools
import sys

import gauntlet
import jax
import numpy as np
from compiling import jit
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from contrastive_jax.engine import gradient, processes
from contrastive_jax.engine.state import TrainState

FOLDS = dict(ring=losses.ring(rows=3, cols=4), chunked=losses.chunked(5, 7), auto='auto')


def check(name: str, fold: str, variant: str, mesh):
  """Value and gradient are those of the dense fold on one device."""
  case = gauntlet.case(name, variant)

  def put(arrays):
    made = {}
    for key, value in arrays.items():
      at = gauntlet.instance_axis(key, value)
      split = at is not None and np.shape(value)[at] % mesh.size == 0
      made[key] = processes.put(value, NamedSharding(mesh, P(*(None,) * at, 'data') if split else P()))
    return made

  got = jit(jax.value_and_grad(gauntlet.scalar(case, fold=FOLDS[fold])))(put(case.learnable), put(case.fixed))
  gauntlet.assert_close(processes.fetch(got), gauntlet.truth(name, variant), 2e-5)


def check_cached(name: str, fold: str, mesh):
  """The gradient of a linear encoder, by micro-batches of half the batch, is that of the dense fold at once."""
  folded, dense = (gauntlet.tower(gauntlet.case(name, 'plain'), fold=f) for f in (FOLDS[fold], losses.dense()))
  of = gradient.cached(lambda numbers: folded.method, lambda raw, seed, step: raw, microbatch=8, mesh=mesh)
  start = TrainState(np.int32(0), folded.params, (), {}, {'seed': np.uint32(0)})
  batch = processes.put(folded.batch, NamedSharding(mesh, P('data')))
  with jax.transfer_guard('disallow'):  # as steps run
    out, got = of(processes.put(start, NamedSharding(mesh, P())), batch)

  def plainly(params):
    features, _ = dense.method.encode(params, {}, dense.batch, key=None, step=0, train=True)
    return dense.method.loss(params, {}, features, dense.batch, key=None, step=0).loss

  want = jit(jax.value_and_grad(plainly))(dense.params)
  gauntlet.assert_close(processes.fetch((out.loss, got)), want, 2e-5)


def main():
  processes.start()
  assert jax.process_count() == 2 and len(jax.devices()) == 4
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  with jax.transfer_guard('disallow'):  # as steps run
    everywhere = processes.put(np.int32(3), NamedSharding(mesh, P()))
  assert processes.fetch(everywhere) == 3
  product = list(itertools.product(FOLDS, ('plain', 'rich')))
  for i, name in enumerate(losses.PAIRWISE if 'all' in sys.argv else losses.PAIRWISE[::16]):
    for fold, variant in product if 'all' in sys.argv else [product[i % len(product)]]:
      check(name, fold, variant, mesh)
      if variant == 'plain' or 'all' not in sys.argv:
        check_cached(name, fold, mesh)
    print(f'checked {name}', flush=True)


if __name__ == '__main__':
  main()
