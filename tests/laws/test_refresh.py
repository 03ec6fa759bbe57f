"""The law of stages: what a method does between epochs is part of the run, and of its checkpoints."""

import contextlib
import itertools
import json

import jax
import jax.numpy as jnp
import pytest
import tiny

from contrastive_jax.engine import loop, workdir
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.engine.reporter import NonFinite

METHODS = tiny.ROOT / 'contrastive_jax' / 'methods'
NAMES = [name for name in tiny.NAMES if 'refresh' in (METHODS / f'{tiny.config(name).method.name}.py').read_text()]
# So that every one of few short epochs ends with a refresh, by the names that methods give to their periods.
SOON = {'warmup_epochs': '1', 'every_epochs': '1', 'memory_epochs': '1', 'stages': '2'}
EPOCHS = 3


def options(name: str) -> dict[str, str]:
  config = tiny.config(name)
  soon = {f'method__{key}': value for key, value in SOON.items() if key in config.method}
  steps = EPOCHS * (tiny.run(name).info.num_examples // 64)
  return dict(data__batch_size='64', train__steps=str(steps), train__eval_every='1000', **soon)


def losses_of(path) -> dict[int, float]:
  lines = [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
  return {line['step']: line['loss'] for line in lines if 'loss' in line}


def fitted(of, path, stop: int | None = None):
  """The state after training in `path`, which is stopped after a step and gone on with, where one is given."""
  for until in ([] if stop is None else [stop]) + [of.info.total_steps + 1]:
    with contextlib.suppress(SystemExit), tiny.quickly():
      loop.fit(of, path, stopping=lambda done, until=until: 'SIGTERM' if done >= until else '')
  checkpoints = Checkpoints(path / 'checkpoints')
  state, step = checkpoints.restore(tiny.fresh(of))
  checkpoints.close()
  assert step == of.info.total_steps
  return state


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', NAMES)
def test_a_run_that_is_stopped_right_after_a_refresh_continues_to_the_same_numbers(name, tmp_path):
  overrides = options(name)
  of = tiny.run(name, **overrides)
  whole, parts = (workdir.enter(str(tmp_path / each), tiny.config(name, **overrides), of.sources) for each in 'ab')
  want = fitted(of, whole)
  got = fitted(of, parts, stop=2 * of.info.steps_per_epoch)
  assert tiny.same_bits(got, want)
  assert losses_of(parts) == losses_of(whole)
  assert of.step._cache_size() == 1  # what a refresh hands back lies where it lay


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('devices', [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_refresh_changes_the_state_but_not_its_shapes_and_is_the_same_again(name, devices):
  of = tiny.run(name, devices=devices, **options(name))
  state = tiny.fresh(of)
  for batch in tiny.batches(of, 2):  # which fill a queue
    state, _ = of.step(state, batch)
  embed = of.embedder.at(state.params, state.state)

  def refreshed(epoch):
    step = epoch * of.info.steps_per_epoch
    return of.method.refresh(state.params, state.state, embed, key=jax.random.key(epoch), step=step)

  first = next(e for e in range(1, EPOCHS) if not tiny.same_bits(refreshed(e), state.state))
  new = refreshed(first)
  shapes, wanted = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (new, state.state))
  assert shapes == wanted
  assert tiny.same_bits(refreshed(first), new)


def test_no_stage_starts_from_a_state_whose_loss_is_no_number(tmp_path):
  overrides = options('ssl/sbcl') | dict(train__checkpoint_every='1000')  # nothing else asks for the loss
  of = tiny.run('ssl/sbcl', **overrides)
  refreshed, steps = [], itertools.count(1)

  def step(state, batch):
    state, metrics = of.step(state, batch)
    last = next(steps) == 2 * of.info.steps_per_epoch
    return state, metrics | ({'loss': jnp.log(-metrics['loss'])} if last else {})

  def refresh(*arguments, step, **more):
    refreshed.append(step)
    return of.method.refresh(*arguments, step=step, **more)

  path = workdir.enter(str(tmp_path / 'run'), tiny.config('ssl/sbcl', **overrides), of.sources)
  with pytest.raises(NonFinite), tiny.quickly():
    loop.fit(of._replace(step=step, method=of.method._replace(refresh=refresh)), path)
  assert refreshed == [of.info.steps_per_epoch]
