"""A trained run in use: which checkpoint, on which data, and what other runs start from."""

import dataclasses
import json
import os
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contrastive_jax
from contrastive_jax import embed, evaluate, losses, train
from contrastive_jax.engine import loop, resolve, serve, setup, workdir
from contrastive_jax.engine.checkpoint import Checkpoints
from contrastive_jax.engine.warmstart import warm_start
from contrastive_jax.evals.evaluator import Evaluator
from contrastive_jax.models.load import save_safetensors
from contrastive_jax.types import Refusal

ROOT = pathlib.Path(__file__).parents[2]
LABELS = np.arange(100) % 4
IMAGES = (np.random.default_rng(0).integers(0, 64, (100, 8, 8)) + 40 * LABELS[:, None, None]).astype(np.uint8)
OPTIONS = {
  'data.source.name': 'arrays',
  'data.views.name': 'weak',
  'encoder.widths': '(16, 8)',
  'encoder.norm': 'batch',
  'train.devices': '1',
  'train.checkpoint_every': '1',
  'train.keep_last': '9',
}


@dataclasses.dataclass
class Trained:
  """A run, its data and its config."""

  path: pathlib.Path
  data: pathlib.Path

  def config(self, **overrides):
    return resolve.load(str(self.path), {key.replace('__', '.'): value for key, value in overrides.items()})

  def load(self, **keywords):
    return contrastive_jax.load(self.path, **keywords)


def write(path, image=IMAGES, label=LABELS):
  np.savez(path, image=image, label=label)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of two steps, the second scored, with a third checkpoint of a lower score and other parameters."""
  folder = tmp_path_factory.mktemp('served')
  write(folder / 'pictures.npz')
  options = OPTIONS | {'data.source.path': str(folder / 'pictures.npz'), 'train.eval_every': '2'}
  config = resolve.load(f'{ROOT}/configs/ssl/simclr.py:tiny', options)
  run = setup.build(config)
  path = workdir.enter(str(folder / 'run'), config, run.sources)
  loop.fit(run, path)
  checkpoints = Checkpoints(path / 'checkpoints', keep_last=9)
  state, step = checkpoints.restore(run.fresh())
  doubled = jax.tree.map(lambda x: 2 * x, state.params)
  checkpoints.save(step + 1, state._replace(step=state.step + 1, params=doubled), score=-1.0)
  checkpoints.wait()
  checkpoints.close()
  return Trained(path, folder / 'pictures.npz')


@pytest.fixture
def copy(trained, tmp_path):
  """The run and its data, to be changed."""
  path, data = tmp_path / 'run', tmp_path / 'pictures.npz'
  shutil.copytree(trained.path, path)
  shutil.copy(trained.data, data)
  config = path / workdir.CONFIG
  config.write_text(config.read_text().replace(json.dumps(str(trained.data)), json.dumps(str(data))))
  return Trained(path, data)


def contents(path) -> dict:
  return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in path.rglob('*') if p.is_file()}


def same(one, other) -> bool:
  """Whether two trees have the same paths and bits."""
  one, other = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (one, other))
  return one.keys() == other.keys() and all(np.asarray(one[k]).tobytes() == np.asarray(other[k]).tobytes() for k in one)


# --- which checkpoint ---


def test_the_newest_the_best_or_a_step_is_loaded_as_asked_for(trained):
  newest, best, first = trained.load(), trained.load(checkpoint='best'), trained.load(checkpoint=1)
  assert (newest.step, best.step, first.step) == (3, 2, 1)
  assert same(newest.params, jax.tree.map(lambda x: 2 * x, best.params))
  assert not same(first.params, best.params)
  assert trained.load(checkpoint='2').step == 2  # as the flag says it


def test_a_step_that_is_not_there_is_refused_with_those_that_are(trained):
  with pytest.raises(Refusal, match=r'no checkpoint of step 7: the checkpoints in .* are 1, 2, 3'):
    trained.load(checkpoint=7)
  with pytest.raises(Refusal, match=r"'newest', 'best' or a step, not 'last': .* are 1, 2, 3"):
    trained.load(checkpoint='last')


def test_what_holds_no_run_is_refused_as_such(tmp_path):
  with pytest.raises(Refusal, match='holds no run'):
    contrastive_jax.load(tmp_path / 'nowhere')


# --- embedding ---


def test_images_are_embedded_as_the_split_that_they_are_from(trained):
  model = trained.load()
  whole = model.embed_split('test')
  images = setup.sources(trained.config())['test'].read(whole.index)['image']
  found = model.embed_both(images, batch_size=7)
  np.testing.assert_allclose(found['features'], whole.features, atol=1e-5)
  np.testing.assert_allclose(found['projection'], whole.projection, atol=1e-5)
  np.testing.assert_array_equal(model.embed(images[..., 0]), model.embed(images))
  assert whole.features.shape == (20, 8) and np.ptp(whole.features, axis=0).max() > 0.1


@pytest.mark.parametrize('images', [np.zeros((2, 9, 8), np.uint8), np.zeros((2, 8, 8)), np.zeros((0, 8, 8), np.uint8)])
def test_images_of_another_shape_or_type_and_none_at_all_are_refused(trained, images):
  with pytest.raises(Refusal, match='images'):
    trained.load().embed(images)


def test_a_loaded_model_can_be_trained_on_in_a_callers_own_compiled_code(trained):
  model = trained.load()
  images, labels = jnp.asarray(IMAGES[:8, ..., None]), jnp.asarray(LABELS[:8])
  np.testing.assert_allclose(
    jax.jit(model.apply)(model.params, images)['features'], model.embed(IMAGES[:8]), rtol=1e-5, atol=1e-6
  )

  @jax.jit
  def loss(params):
    return losses.sup_con(losses.unit(model.apply(params, images)['features'])[None], labels).mean()

  slope = jax.grad(loss)(model.params)
  after = loss(jax.tree.map(lambda p, g: p - 1e-3 * g, model.params, slope))
  assert after < loss(model.params)


def test_an_unknown_split_is_refused_with_those_that_are(trained):
  with pytest.raises(Refusal, match=r"unknown split 'tset' \(known: test, train\)"):
    trained.load().embed_split('tset')


# --- starting from it ---


def test_batch_statistics_go_through_a_file_into_another_run(trained, tmp_path):
  model, run = trained.load(checkpoint=2), setup.build(trained.config(seed='1'))
  model.save_safetensors(tmp_path / 'encoder.safetensors')
  fresh = run.fresh()
  started = warm_start(fresh, str(tmp_path / 'encoder.safetensors'), None)
  assert same(started.params, model.params) and not same(fresh.params, model.params)
  images = {'view_0': run.views.plain(np.full((8, 8, 1), 90, np.uint8))[None]}
  got, unsettled = (run.method.embed(started.params, s.state, images)['features'] for s in (started, fresh))
  np.testing.assert_allclose(got, model.embed(np.full((1, 8, 8), 90, np.uint8)), atol=1e-5)
  assert np.abs(got - unsettled).max() > 1e-3  # the statistics matter
  assert same(started.opt_state, fresh.opt_state) and int(started.step) == 0


def test_a_file_and_a_workdir_start_a_run_alike(trained, tmp_path):
  trained.load().save_safetensors(tmp_path / 'encoder.safetensors')
  fresh = setup.build(trained.config(seed='1')).fresh()
  one, other = (warm_start(fresh, str(path), 'head/.*') for path in (tmp_path / 'encoder.safetensors', trained.path))
  assert same(one, other)
  assert same(one.params['head'], fresh.params['head']) and not same(one.params['encoder'], fresh.params['encoder'])


def test_a_model_with_batch_statistics_refuses_a_file_without(trained, tmp_path):
  save_safetensors(tmp_path / 'bare.safetensors', trained.load().params)
  fresh = setup.build(trained.config()).fresh()
  with pytest.raises(Refusal, match=r'bare.safetensors.* holds no batch statistics, but this model has some'):
    warm_start(fresh, str(tmp_path / 'bare.safetensors'), None)
  skipped = warm_start(fresh, str(tmp_path / 'bare.safetensors'), 'encoder/.*')
  assert same(skipped.state, fresh.state)


def test_a_model_without_batch_statistics_leaves_aside_those_of_a_file(trained, tmp_path):
  plain = setup.build(trained.config(encoder__norm='none')).fresh()
  save_safetensors(tmp_path / 'both.safetensors', plain.params, stats={'encoder': {'mean': np.ones(3)}})
  assert same(warm_start(plain, str(tmp_path / 'both.safetensors'), None).state, plain.state)


# --- floors ---


@pytest.mark.parametrize(
  ('change', 'again'),
  [
    (dict(), False),
    (dict(schedule__learning_rate='0.5'), False),
    (dict(seed='1'), True),
    (dict(encoder__widths='(16, 4)'), True),
    (dict(head__features='4'), True),
    (dict(data__source__name='digits'), True),
    (dict(evals__knn__k='3'), True),
  ],
)
def test_floors_are_measured_again_where_they_depend_on_what_was_changed(trained, change, again):
  measured = []

  def score(embed):
    measured.append(embed)
    return {'knn/accuracy': 0.125}

  floors = {'raw pixels': 'pixels', 'random encoder': 'random'}
  run = types.SimpleNamespace(evaluators={'knn': Evaluator(score)}, fresh=lambda: None, floors=lambda fresh: floors)
  found = evaluate._floors(run, trained.config(**change), trained.path)
  assert measured == (['pixels', 'random'] if again else [])
  recorded = workdir.read_evaluations(trained.path)['floors']
  assert found == ({name: {'knn/accuracy': 0.125} for name in floors} if again else recorded)


# --- the file that embed writes ---


def test_a_file_of_embeddings_appears_whole_and_never_in_place_of_another(tmp_path, monkeypatch):
  target, fields = tmp_path / 'out', {'features': np.ones((2, 3))}

  def no_links(*_):
    raise PermissionError('no hard links here')

  for links in (os.link, no_links):
    monkeypatch.setattr(os, 'link', links)
    embed._write(target, fields)
    with np.load(target) as found:
      np.testing.assert_array_equal(found['features'], np.ones((2, 3)))
    before = target.read_bytes()
    with pytest.raises(Refusal, match='exists already'):
      embed._write(target, {'features': np.zeros(1)})
    assert target.read_bytes() == before and os.listdir(tmp_path) == ['out']
    target.unlink()


def test_a_failure_while_embeddings_are_written_leaves_no_file(tmp_path, monkeypatch):
  def full(file, **fields):
    file.write(b'half of it')
    raise OSError('No space left on device')

  monkeypatch.setattr(np, 'savez', full)
  with pytest.raises(OSError, match='No space left'):
    embed._write(tmp_path / 'out.npz', {})
  assert not os.listdir(tmp_path)


# --- which data ---


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    (dict(image=IMAGES[:80], label=LABELS[:80]), 'train num_examples was 80, is 64'),
    (dict(image=IMAGES[::-1]), 'train rows was'),
    (dict(image=255 - IMAGES), 'train mean was'),
    (dict(image=IMAGES[:, :7, :7]), 'train input_shape was [8, 8, 1], is [7, 7, 1]'),
  ],
)
def test_a_run_does_not_go_on_with_other_data_under_the_same_name(copy, arrays, message):
  write(copy.data, **arrays)
  before = contents(copy.path)
  with pytest.raises(Refusal, match='holds a run on other data') as refused:
    train.main(copy.config(), str(copy.path))
  assert message in str(refused.value)
  assert contents(copy.path) == before


def test_a_run_goes_on_with_the_same_data_in_a_file_written_again(copy):
  np.savez_compressed(copy.data, label=LABELS, image=IMAGES)
  before = contents(copy.path)
  assert workdir.enter(str(copy.path), copy.config(), setup.sources(copy.config())) == copy.path
  assert contents(copy.path) == before


def test_a_trained_run_embeds_images_without_its_data_and_says_what_a_split_would_need(copy):
  images = IMAGES[:5]
  with_data = copy.load().embed(images)
  copy.data.unlink()
  model = copy.load()
  np.testing.assert_array_equal(model.embed(images), with_data)
  with pytest.raises(Refusal, match=r'no such file: .*pictures\.npz'):
    model.embed_split('test')
  with pytest.raises(Refusal, match=r'no such file: .*pictures\.npz'):  # not: all evaluators are left out
    evaluate.main(copy.config(), str(copy.path))


def test_a_trained_run_embeds_as_it_was_trained_when_its_data_have_changed(copy):
  before = copy.load().embed(IMAGES[:5])
  write(copy.data, image=255 - IMAGES)
  model = copy.load()
  np.testing.assert_array_equal(model.embed(IMAGES[:5]), before)
  with pytest.raises(Refusal, match=r'the data are not those that the run in .* was trained on: train mean was'):
    model.embed_split('test')


def test_other_data_are_normalised_as_those_that_the_run_was_trained_on(copy, tmp_path):
  write(tmp_path / 'negatives.npz', image=255 - IMAGES)
  other = copy.config(data__source__path=str(tmp_path / 'negatives.npz'))
  want = setup.sources(copy.config())['train']
  for source in serve.sources(other, copy.path).values():
    assert (source.name, source.mean, source.std) == ('negatives', want.mean, want.std)
  features = copy.load(config=other).embed_split('train').features
  rows = setup.sources(other)['train'].read(np.arange(80))['image']
  np.testing.assert_allclose(features, copy.load().embed(rows), atol=1e-5)


def test_other_data_with_other_channels_are_refused(copy, tmp_path):
  write(tmp_path / 'coloured.npz', image=np.stack([IMAGES] * 3, -1))
  with pytest.raises(Refusal, match=r"'coloured' has images of \[8, 8, 3\], .* as many channels"):
    copy.load(config=copy.config(data__source__path=str(tmp_path / 'coloured.npz')))


def test_a_damaged_record_of_the_data_is_named(copy):
  (copy.path / workdir.DATA).write_text('{')
  with pytest.raises(Refusal, match=r'data\.json is damaged'):
    copy.load()
