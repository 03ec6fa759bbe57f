"""Evaluates a trained run: `python -m contrastive_jax.evaluate --workdir=runs/simclr --config.evals.knn.k=5`."""

import pathlib

from contrastive_jax.engine import command
from contrastive_jax.engine.checkpoint_flag import CHECKPOINT

# What the floors depend on, besides the options of each evaluator.
_FLOORS_DEPEND_ON = ('data', 'seed', 'encoder', 'head', 'method')


def main(config, workdir: str):
  """Prints the scores of a checkpoint (--checkpoint) beside the floors. Nothing of the run is changed."""
  from contrastive_jax.engine import evaluation, serve

  run = serve.build(config, serve.sources(config, workdir), workdir)
  params, state, step = serve.restore(run, workdir, CHECKPOINT.value)
  usable, columns = evaluation.possible(run.evaluators, {f'step {step}': run.embedder.at(params, state)})
  columns |= _floors(run._replace(evaluators=usable), config, workdir)
  print(f'{"":32s}' + ''.join(f'{name:>18s}' for name in columns))
  for metric in columns[f'step {step}']:
    cells = (f'{column[metric]:18.4f}' if metric in column else f'{"-":>18s}' for column in columns.values())
    print(f'{metric:32s}' + ''.join(cells))


def _floors(run, config, workdir: str) -> dict[str, dict[str, float]]:
  """The floors on record; measured again where they are those of another config than is evaluated here."""
  from contrastive_jax.engine import evaluation, resolve
  from contrastive_jax.engine.workdir import read_evaluations

  recorded, trained_with = read_evaluations(pathlib.Path(workdir))['floors'], resolve.load(workdir)
  if any(config[key] != trained_with[key] for key in _FLOORS_DEPEND_ON):
    recorded = {}
  known = {k for k in run.evaluators if recorded and config.evals[k] == trained_with.evals.get(k)}
  stale = {k: evaluator for k, evaluator in run.evaluators.items() if k not in known}
  if not stale:
    return recorded
  _, again = evaluation.possible(stale, run.floors(run.fresh()))
  return {floor: recorded.get(floor, {}) | scores for floor, scores in again.items()}


def run():
  """The console script."""
  command.run(main, config_from_workdir=True)


if __name__ == '__main__':
  run()
