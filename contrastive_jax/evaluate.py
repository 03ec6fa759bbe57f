"""Evaluates a trained run: `python -m contrastive_jax.evaluate --workdir=runs/simclr --config.evals.knn.k=5`."""

import pathlib

from contrastive_jax.engine import command


def main(config, workdir: str):
  """Prints the scores of the newest checkpoint beside the floors. Nothing of the run is changed."""
  from contrastive_jax.engine import evaluation, resolve, serve, setup
  from contrastive_jax.engine.workdir import read_evaluations

  run = setup.build(config)
  params, state, step = serve.restore(run, workdir)
  usable, columns = evaluation.possible(run.evaluators, {f'step {step}': run.embedder.at(params, state)})
  floors = read_evaluations(pathlib.Path(workdir))['floors']
  trained_with = resolve.load(workdir).evals
  changed = {k: evaluator for k, evaluator in usable.items() if config.evals[k] != trained_with.get(k)}
  if changed:  # the floors on record are those of other options
    _, again = evaluation.possible(changed, run.floors(run.fresh()))
    floors = {floor: floors.get(floor, {}) | scores for floor, scores in again.items()}
  columns |= floors
  print(f'{"":32s}' + ''.join(f'{name:>18s}' for name in columns))
  for metric in columns[f'step {step}']:
    cells = (f'{column[metric]:18.4f}' if metric in column else f'{"-":>18s}' for column in columns.values())
    print(f'{metric:32s}' + ''.join(cells))


def run():
  """The console script."""
  command.run(main, config_from_workdir=True)


if __name__ == '__main__':
  run()
