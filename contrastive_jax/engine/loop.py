"""The loop: fetch, step, report the step before, evaluate, checkpoint, refresh. It never asks which method it runs."""

import contextlib
import pathlib
import signal
from collections.abc import Callable

import jax
import numpy as np

from contrastive_jax.data.pipeline import Batches, sweep
from contrastive_jax.data.sampling import Plan
from contrastive_jax.engine import evaluation, processes, tracing, workdir
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.engine.gradient import step_keys
from contrastive_jax.engine.reporter import Reporter
from contrastive_jax.engine.setup import Run
from contrastive_jax.engine.state import TrainState, batch_sharding
from contrastive_jax.engine.warmstart import warm_start


def fit(
  run: Run, path: pathlib.Path, *, profile: bool = False, stopping: Callable[[int], str] | None = None
) -> dict[str, float]:
  """Trains until the last step, or continues a run that was interrupted; returns the last scores.

  `stopping` names the signal that asks to stop, as `processes.stop_signals` gives it; None listens for signals itself.

  Raises:
    NonFinite: a loss or gradient is not finite.
    Refusal: the checkpoints there are of another model, or all damaged.
    SystemExit: SIGTERM or, on one process, Ctrl-C came; the state is saved. The exit code is 0, or 130 for Ctrl-C.
  """
  checkpoints = Checkpoints(path / 'checkpoints', keep_last=run.options.keep_last, keep_best=run.options.keep_best)
  with processes.stop_signals() if stopping is None else contextlib.nullcontext(stopping) as stopping:
    run, state, start = _begin(run, path, checkpoints)
    state, scores = _continue(run, path, checkpoints, state, start, stopping, profile)
    return _finish(run, path, state, scores, report=run.options.report and not stopping(run.info.total_steps))


def _begin(run: Run, path: pathlib.Path, checkpoints: Checkpoints) -> tuple[Run, TrainState, int]:
  """The state to go on from and its step, the floors being measured."""
  fresh = run.fresh()
  run = _with_floors(run, path, fresh)
  state, start = checkpoints.restore(fresh) or (warm_start(fresh, run.options.init_from, run.options.init_skip), 0)
  workdir.drop_evaluations(path, start)
  return run, state, start


def _continue(run: Run, path, checkpoints: Checkpoints, state: TrainState, start: int, stopping, profile: bool):
  total = run.info.total_steps
  batches = Batches(
    run.sources['train'],
    seed=run.seed,
    batch_size=run.batch_size,
    start=start,
    stop=total,
    plan=_plan(run, state),
    put=lambda batch: processes.put_part(batch, batch_sharding(run.mesh)),
    part=processes.part(batch_sharding(run.mesh), run.batch_size),
  )
  reporter = Reporter(
    path,
    start=start,
    total=total,
    log_every=run.options.log_every,
    batch_size=run.batch_size,
    waited=lambda: batches.waited,
    last_good=checkpoints.newest,
    glossary=run.glossary,
    project=run.options.wandb,
  )
  if start:
    reporter.message(f'continuing from step {start}')
  with contextlib.ExitStack() as stack:
    for resource in (checkpoints, reporter, batches):
      stack.enter_context(contextlib.closing(resource))
    before_step = stack.enter_context(tracing.traced(path, start, total)) if profile else lambda step: None
    state, scores = _train(run, path, state, batches, checkpoints, reporter, stopping, before_step)
    checkpoints.wait()
    if int(state.step) < total:
      name = stopping(int(state.step))
      reporter.message(f'stopped by {name} at step {int(state.step)}, which is saved; the same command continues')
      raise SystemExit(128 + signal.SIGINT if name == 'SIGINT' else 0)
  return state, scores


def _train(run: Run, path, state, batches, checkpoints, reporter, stopping, before_step):
  total, pending = run.info.total_steps, None
  eval_every = run.options.eval_every or max(1, total // 5)
  checkpoint_every = run.options.checkpoint_every or max(1, total // 10)
  owes = _owes_scores(path, int(state.step), total, eval_every)
  scores = _evaluate(run, path, state, int(state.step), reporter) if owes else {}
  for step, batch in batches:
    done = step + 1
    before_step(step)
    # Asynchronous: the host goes on while the devices work. Nothing moves between them unasked.
    with jax.transfer_guard('disallow'):
      state, metrics = run.step(state, batch)
    # The step before is finished by now, or soon: to report it does not make the devices wait.
    if pending is not None:
      reporter.step(*pending)
    pending = done, metrics
    stops = done < total and stopping(done)  # then there may be little time: it saves, and owes the scores
    evaluates = (done % eval_every == 0 or done == total) and not stops
    # What is evaluated is saved too, or the best could not be kept.
    saves = done == total or stops or done % checkpoint_every == 0 or (evaluates and run.options.keep_best > 0)
    refreshes = run.method.refresh is not None and done % run.info.steps_per_epoch == 0
    if evaluates or saves or refreshes:
      # A state whose loss is no number is neither measured, nor saved over a good one, nor what a stage starts from.
      reporter.step(*pending)
      pending = None
    if refreshes:
      state = _refresh(run, state, done, batches)
    if evaluates:
      try:
        scores = _evaluate(run, path, state, done, reporter)
      except Exception:  # whatever an evaluator meets, the steps are not lost
        checkpoints.save(done, state)
        raise
    if saves:
      checkpoints.save(done, state, score=scores.get(run.options.best) if evaluates else None)
    if evaluates or saves or refreshes:
      reporter.pause()
    if stops:
      break
  return state, scores


def _owes_scores(path: pathlib.Path, step: int, total: int, eval_every: int) -> bool:
  """Whether the run stopped, or failed, before the evaluation of its last step."""
  known = [0, *(each['step'] for each in workdir.read_evaluations(path)['evaluations'])]
  return step not in known and (step % eval_every == 0 or step == total)


def _evaluate(run: Run, path: pathlib.Path, state: TrainState, step: int, reporter: Reporter) -> dict[str, float]:
  scores = evaluation.scores(run.evaluators, run.embedder.at(state.params, state.state))
  workdir.add_evaluation(path, step, scores)
  reporter.scores(step, scores)
  return scores


def _refresh(run: Run, state: TrainState, done: int, batches: Batches) -> TrainState:
  """The method's own work at the end of an epoch, which may plan other batches."""
  embed, key = run.embedder.at(state.params, state.state), step_keys(state.numbers['seed'], state.step).loss
  refreshed = run.method.refresh(state.params, state.state, embed, key=key, step=done)
  # Placed as before, or the step would be compiled again.
  where = jax.tree.map(lambda x: x.sharding, state.state)
  state = state._replace(state=jax.jit(lambda x: x, out_shardings=where)(refreshed))
  if 'plan' in state.state:
    batches.restart(done, _plan(run, state))
  return state


def _plan(run: Run, state: TrainState) -> Plan | None:
  """Which rows make batches: as the method's state says, or else the config."""
  return processes.fetch(state.state['plan']) if 'plan' in state.state else run.plan()


def _with_floors(run: Run, path: pathlib.Path, fresh: TrainState) -> Run:
  """Scores raw pixels and the encoder before training, once; evaluators that the data does not allow are left out."""
  record = workdir.read_evaluations(path)
  if record['floors']:
    return run._replace(evaluators={k: v for k, v in run.evaluators.items() if k in record['evaluators']})
  usable, scores = evaluation.possible(run.evaluators, run.floors(fresh))
  workdir.write_floors(path, scores, list(usable))
  return run._replace(evaluators=usable)


def _finish(run: Run, path: pathlib.Path, state: TrainState, scores: dict[str, float], *, report: bool):
  """The report, and the scores of the last step."""
  if report:
    # matplotlib and scikit-learn, only where a report is made.
    from contrastive_jax.engine import report as pages
    from contrastive_jax.engine import retrieved

    source, embed = run.sources['test'], run.embedder.at(state.params, state.state, on_host=True)
    inputs = [b[source.input][b['mask']] for b in sweep(source, batch_size=min(1024, source.num_examples))]
    images = np.concatenate(inputs) if source.input == 'image' else None
    workdir.write_embeddings(path, embed('test'), images, source.label_names)
    if source.captions and images is not None and embed('test').texts is not None:
      retrieved.write(path, retrieved.examples(embed, embed('test'), source.captions, images))
    if processes.first():
      print(f'report: {pages.build(path)}', flush=True)
  return scores or workdir.read_evaluations(path)['evaluations'][-1]['scores']
